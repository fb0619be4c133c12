/*
 * What is printed for people: tables, ages, sizes, and text that others chose (image names, labels,
 * messages), which must not reach the terminal's controls.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * The text with control characters (C0, C1, DEL), characters that reorder others, and what is not
 * UTF-8 as \xNN. The caller frees; NULL when memory is out.
 */
char *output_escape(const char *text);
/* The same for a JSON document: as \uXXXX, which changes nothing of what it says; newlines stay. */
char *output_escape_json(const char *text);

/* The same for len bytes of a line of text: tabs stay, too. */
char *output_escape_line(const char *text, size_t len);

/* "5 minutes ago" for a time in nanoseconds since 1970; "-" for 0 and less. */
void output_age(char *out, size_t size, int64_t then_ns, int64_t now_ns);

/* A time in nanoseconds since 1970 as "2026-01-02T03:04:05.678Z". */
#define OUTPUT_TIME_SIZE 40
void output_time(char out[OUTPUT_TIME_SIZE], int64_t ns);

/* "12.3MB", in powers of 1000. */
void output_size(char *out, size_t size, uint64_t bytes);

/* The beginning of an id, "sha256:" taken off, as the field shortens them: 13 characters. */
#define OUTPUT_ID_SIZE 14
void output_id(char out[OUTPUT_ID_SIZE], const char *id);

/* A table whose columns are as wide as their widest cell; the headings are bold where there is
 * colour. */
struct table;

/* headings: NULL-terminated, borrowed. NULL when memory is out. */
struct table *table_new(const char *const *headings);
/* One cell for each heading, copied and escaped. 0 or -ENOMEM. */
int table_add(struct table *table, const char *const *cells);
void table_print(const struct table *table, FILE *out);
struct table *table_free(struct table *table);

static inline void table_freep(struct table **table)
{
	*table = table_free(*table);
}
