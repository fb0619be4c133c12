/*
 * JSON documents for people and programs: --output json|yaml. What a terminal would act on stands
 * as \uXXXX in the text, which means the same.
 */
#pragma once

#include <jansson.h>
#include <stdio.h>

enum document_format { DOCUMENT_TABLE, DOCUMENT_JSON, DOCUMENT_YAML };

/* The words of --output, as OPTION_CHOICE takes them. */
#define DOCUMENT_FORMATS      "json|yaml|table"
#define DOCUMENT_FORMATS_ONLY "json|yaml"

/* NULL: the default, a table. */
enum document_format document_format(const char *word);

/* DOCUMENT_JSON or DOCUMENT_YAML, ended by a newline. -ENOMEM. */
int document_print(FILE *out, const json_t *document, enum document_format format);
/* On a line of its own, or as one YAML document of several. */
int document_print_next(FILE *out, const json_t *document, enum document_format format);
