/*
 * What is printed for people: tables, ages, sizes, and text that others chose (image names, labels,
 * messages), which must not reach the terminal's controls.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * The text with control characters (C0, C1, DEL), characters that reorder others, and what is not
 * UTF-8 as \xNN. The caller frees; NULL when memory is out.
 */
char *output_escape(const char *text);

/* "5 minutes ago" for a time in nanoseconds since 1970; "-" for 0 and less. */
void output_age(char *out, size_t size, int64_t then_ns, int64_t now_ns);

/* "12.3MB", in powers of 1000. */
void output_size(char *out, size_t size, uint64_t bytes);

/* The beginning of an id, "sha256:" taken off, as the field shortens them: 13 characters. */
#define OUTPUT_ID_SIZE 14
void output_id(char out[OUTPUT_ID_SIZE], const char *id);

/* A table whose columns are as wide as their widest cell. */
struct table;

/* headings: NULL-terminated, borrowed. NULL when memory is out. */
struct table *table_new(const char *const *headings);
/* One cell for each heading, copied and escaped. 0 or -ENOMEM. */
int table_add(struct table *table, const char *const *cells);
void table_print(const struct table *table, FILE *out);
struct table *table_free(struct table *table);
