#include "cri-server/cli/options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const struct option_row help_row = {"help", 'h', OPTION_FLAG, NULL, NULL, "show this"};

static const struct option_row *find_name(
	const struct option_row *rows, size_t n_rows, const char *name, size_t len)
{
	for (size_t i = 0; i < n_rows; i++)
		if (strlen(rows[i].name) == len && strncmp(rows[i].name, name, len) == 0)
			return &rows[i];
	return len == 4 && strncmp(name, "help", 4) == 0 ? &help_row : NULL;
}

static const struct option_row *find_letter(
	const struct option_row *rows, size_t n_rows, char letter)
{
	for (size_t i = 0; i < n_rows; i++)
		if (rows[i].letter == letter)
			return &rows[i];
	return letter == 'h' ? &help_row : NULL;
}

static int set_number(const struct option_row *row, const char *text, struct err *err)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno)
		return err_set(err, -EINVAL, "--%s: '%s' is not a number", row->name, text);
	*(uint64_t *)row->value = n;
	return 0;
}

static int set_choice(const struct option_row *row, const char *text, struct err *err)
{
	size_t len = strlen(text);
	for (const char *word = row->argument; word; word = strchr(word, '|')) {
		word += *word == '|';
		if (strcspn(word, "|") == len && strncmp(word, text, len) == 0) {
			*(const char **)row->value = text;
			return 0;
		}
	}
	return err_set(err, -EINVAL, "--%s: '%s' is not one of %s", row->name, text, row->argument);
}

static int set_value(const struct option_row *row, const char *text, struct err *err)
{
	struct option_list *list = row->value;

	switch (row->kind) {
	case OPTION_FLAG:
		*(bool *)row->value = true;
		return 0;
	case OPTION_STRING:
		*(const char **)row->value = text;
		return 0;
	case OPTION_CHOICE:
		return set_choice(row, text, err);
	case OPTION_NUMBER:
		return set_number(row, text, err);
	case OPTION_LIST:
		if (list->n == OPTION_LIST_MAX)
			return err_set(
				err, -EINVAL, "--%s: more than %d", row->name, OPTION_LIST_MAX);
		list->items[list->n++] = text;
		return 0;
	}
	return 0;
}

/* The option that arg names; its value in the same argument, or NULL, in *ret_text. */
static const struct option_row *look_up(const struct option_row *rows, size_t n_rows,
	const char *arg, const char **ret_text, struct err *err)
{
	const struct option_row *row;
	*ret_text = NULL;
	size_t len = strcspn(arg + 2, "=");
	row = find_name(rows, n_rows, arg + 2, len);
	if (arg[2 + len] == '=')
		*ret_text = arg + 3 + len;
	if (!row) {
		err_set(err, -EINVAL, "unknown option '%s'", arg);
	} else if (row->kind == OPTION_FLAG && *ret_text) {
		err_set(err, -EINVAL, "option '%s': --%s takes no value", arg, row->name);
		row = NULL;
	}
	return row;
}

/* Letters of one argument: flags, and at its end perhaps an option whose value follows. */
static int parse_letters(
	const struct option_row *rows, size_t n_rows, char ***args, struct err *err)
{
	for (const char *letter = **args + 1; *letter; letter++) {
		const struct option_row *row = find_letter(rows, n_rows, *letter);
		if (!row)
			return err_set(err, -EINVAL, "unknown option '%s'", **args);
		if (row == &help_row)
			return 1;
		if (row->kind == OPTION_FLAG) {
			*(bool *)row->value = true;
			continue;
		}
		const char *text = letter[1] ? letter + 1 : *++*args;
		if (!text)
			return err_set(err, -EINVAL, "--%s needs %s", row->name, row->argument);
		return set_value(row, text, err);
	}
	return 0;
}

int options_parse(const struct option_row *rows, size_t n_rows, char **args, char ***ret_rest,
	struct err *err)
{
	for (; *args && (*args)[0] == '-' && (*args)[1]; args++) {
		if (strcmp(*args, "--") == 0) {
			args++;
			break;
		}
		if ((*args)[1] != '-') {
			int r = parse_letters(rows, n_rows, &args, err);
			if (r != 0)
				return r;
			continue;
		}
		const char *text;
		const struct option_row *row = look_up(rows, n_rows, *args, &text, err);
		if (!row)
			return -EINVAL;
		if (row == &help_row)
			return 1;
		if (row->kind != OPTION_FLAG && !text) {
			text = *++args;
			if (!text)
				return err_set(
					err, -EINVAL, "--%s needs %s", row->name, row->argument);
		}
		int r = set_value(row, text, err);
		if (r < 0)
			return r;
	}
	*ret_rest = args;
	return 0;
}

static void help_line(FILE *out, const struct option_row *row)
{
	char names[64];
	snprintf(names, sizeof(names), "%c%c%s --%s %s", row->letter ? '-' : ' ',
		row->letter ? row->letter : ' ', row->letter ? "," : " ", row->name,
		row->argument ? row->argument : "");
	fprintf(out, "  %-28s %s\n", names, row->help);
}

void options_help(FILE *out, const struct option_row *rows, size_t n_rows)
{
	for (size_t i = 0; i < n_rows; i++)
		help_line(out, &rows[i]);
	help_line(out, &help_row);
}
