#include "cri-server/cli/output.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"

struct table {
	const char *const *headings;
	size_t n_columns;
	char **cells; /* row by row */
	size_t n_cells;
};

/* Decodes one character; returns its length, 0 if there is none. */
static size_t decode(const unsigned char *s, uint32_t *ret)
{
	size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	if (n > 1 && (s[0] < 0xc2 || s[0] > 0xf4))
		return 0;
	uint32_t c = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80) /* the NUL at the end, too */
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000) || c > 0x10ffff ||
		(c >= 0xd800 && c <= 0xdfff))
		return 0;
	*ret = c;
	return n;
}

static bool printable(uint32_t c)
{
	return c >= 0x20 && !(c >= 0x7f && c <= 0x9f) && c != 0x61c && /* a direction mark */
	       !(c >= 0x200b && c <= 0x200f) && /* zero width, direction marks */
	       !(c >= 0x2028 && c <= 0x202e) && /* line separators, direction overrides */
	       !(c >= 0x2066 && c <= 0x2069) && c != 0xfeff;
}

/* text[len] is NUL, which ends characters that are cut off; kept: what stays as it is, or NUL. */
static char *escape(const char *text, size_t len, char kept, bool json)
{
	char *out = malloc(6 * len + 1);
	if (!out)
		return NULL;
	char *to = out;
	for (const unsigned char *p = (const unsigned char *)text, *end = p + len; p < end;) {
		uint32_t c = 0;
		size_t n = decode(p, &c);
		bool plain = n > 0 && (printable(c) || (kept && c == (unsigned char)kept));
		if (json && n > 0 && !plain) { /* all of these have four digits */
			to += sprintf(to, "\\u%04X", c);
			p += n;
			continue;
		}
		for (size_t i = 0; i < (n ? n : 1); i++, p++)
			to += plain ? sprintf(to, "%c", *p) : sprintf(to, "\\x%02x", *p);
	}
	*to = '\0';
	return out;
}

char *output_escape(const char *text)
{
	return escape(text, strlen(text), '\0', false);
}

char *output_escape_json(const char *text)
{
	return escape(text, strlen(text), '\n', true);
}

char *output_escape_line(const char *text, size_t len)
{
	_cleanup_free_ char *copy = malloc(len + 1);
	if (!copy)
		return NULL;
	memcpy(copy, text, len);
	copy[len] = '\0';
	return escape(copy, len, '\t', false);
}

/* A terminal, and neither NO_COLOR nor TERM says no. */
static bool takes_colour(FILE *out)
{
	const char *terminal = getenv("TERM");
	const char *no = getenv("NO_COLOR");
	return isatty(fileno(out)) && !(no && no[0]) && terminal && strcmp(terminal, "dumb") != 0;
}

void output_age(char *out, size_t size, int64_t then_ns, int64_t now_ns)
{
	static const struct {
		int64_t seconds;
		const char *name;
	} units[] = {
		{365 * 86400, "year"},
		{30 * 86400, "month"},
		{86400, "day"},
		{3600, "hour"},
		{60, "minute"},
		{1, "second"},
	};
	if (then_ns <= 0) {
		snprintf(out, size, "-");
		return;
	}
	int64_t age = now_ns / 1000000000 - then_ns / 1000000000;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		long long n = age / units[i].seconds;
		if (n > 0) {
			snprintf(out, size, "%lld %s%s ago", n, units[i].name, n > 1 ? "s" : "");
			return;
		}
	}
	snprintf(out, size, "just now");
}

void output_time(char out[OUTPUT_TIME_SIZE], int64_t ns)
{
	const time_t seconds = ns / 1000000000;
	struct tm utc;
	char text[24] = "";
	gmtime_r(&seconds, &utc);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(out, OUTPUT_TIME_SIZE, "%s.%03dZ", text, (int)(ns / 1000000 % 1000));
}

void output_size(char *out, size_t size, uint64_t bytes)
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
	double value = (double)bytes;
	size_t unit = 0;
	while (value >= 999.5 && unit + 1 < ARRAY_SIZE(units)) {
		value /= 1000;
		unit++;
	}
	snprintf(out, size, unit > 0 && value < 99.95 ? "%.1f%s" : "%.0f%s", value, units[unit]);
}

void output_id(char out[OUTPUT_ID_SIZE], const char *id)
{
	if (strncmp(id, "sha256:", 7) == 0)
		id += 7;
	snprintf(out, OUTPUT_ID_SIZE, "%s", id);
}

struct table *table_new(const char *const *headings)
{
	struct table *table = calloc(1, sizeof(*table));
	if (!table)
		return NULL;
	table->headings = headings;
	while (headings[table->n_columns])
		table->n_columns++;
	return table;
}

struct table *table_free(struct table *table)
{
	if (!table)
		return NULL;
	for (size_t i = 0; i < table->n_cells; i++)
		free(table->cells[i]);
	free(table->cells);
	free(table);
	return NULL;
}

int table_add(struct table *table, const char *const *cells)
{
	char **grown = reallocarray(
		table->cells, table->n_cells + table->n_columns, sizeof(*table->cells));
	if (!grown)
		return -ENOMEM;
	table->cells = grown;
	for (size_t i = 0; i < table->n_columns; i++) {
		char *cell = output_escape(cells[i]);
		if (!cell) {
			while (i-- > 0) /* no half rows */
				free(table->cells[table->n_cells + i]);
			return -ENOMEM;
		}
		table->cells[table->n_cells + i] = cell;
	}
	table->n_cells += table->n_columns;
	return 0;
}

/* Characters, not bytes; wide ones are not known here. */
static size_t width(const char *text)
{
	size_t n = 0;
	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

static const char *cell(const struct table *table, size_t row, size_t column)
{
	return row == 0 ? table->headings[column]
			: table->cells[(row - 1) * table->n_columns + column];
}

void table_print(const struct table *table, FILE *out)
{
	bool colour = takes_colour(out);
	size_t n_rows = 1 + table->n_cells / table->n_columns;
	for (size_t row = 0; row < n_rows; row++) {
		fputs(colour && row == 0 ? "\x1b[1m" : "", out);
		for (size_t column = 0; column < table->n_columns; column++) {
			size_t widest = 0;
			for (size_t r = 0; r < n_rows; r++)
				widest = width(cell(table, r, column)) > widest
						 ? width(cell(table, r, column))
						 : widest;
			const char *text = cell(table, row, column);
			bool last = column + 1 == table->n_columns;
			fprintf(out, "%s%*s", text, last ? 0 : (int)(widest - width(text) + 3), "");
		}
		fputs(colour && row == 0 ? "\x1b[m\n" : "\n", out);
	}
}
