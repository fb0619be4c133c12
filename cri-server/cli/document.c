#include "cri-server/cli/document.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "common/fd.h"
#include "cri-server/cli/output.h"

#define DEPTH_MAX 64 /* jansson's parser allows more, CRI has less */

enum document_format document_format(const char *word)
{
	if (word && strcmp(word, "json") == 0)
		return DOCUMENT_JSON;
	return word && strcmp(word, "yaml") == 0 ? DOCUMENT_YAML : DOCUMENT_TABLE;
}

static int print_json(FILE *out, const json_t *json, size_t flags)
{
	_cleanup_free_ char *text = json_dumps(json, flags | JSON_ENCODE_ANY);
	_cleanup_free_ char *escaped = text ? output_escape_json(text) : NULL;
	if (!escaped)
		return -ENOMEM;
	fputs(escaped, out);
	return 0;
}

/* Names that YAML would take for something else, or that need quotes anyway, have quotes. */
static bool is_plain_key(const char *key)
{
	static const char *const words[] = {
		"y", "n", "yes", "no", "on", "off", "true", "false", "null"};
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcasecmp(key, words[i]) == 0)
			return false;
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
	return key[0] && strchr(letters, key[0]) &&
	       strspn(key + strspn(key, letters), "0123456789") ==
		       strlen(key + strspn(key, letters));
}

static int print_key(FILE *out, const char *key)
{
	if (is_plain_key(key)) {
		fputs(key, out);
		return 0;
	}
	json_t *json = json_string(key);
	int r = json ? print_json(out, json, 0) : -ENOMEM;
	json_decref(json);
	return r;
}

static bool is_block(const json_t *json)
{
	return json_object_size(json) > 0 || json_array_size(json) > 0;
}

static int print_yaml(FILE *out, const json_t *json, int indent, bool begun);

/* What follows "key:" or "-". A list's item begins on its line, a name's below it. */
static int print_value(FILE *out, const json_t *json, int indent, bool item)
{
	if (!is_block(json)) {
		fputc(' ', out);
		int r = print_json(out, json, 0);
		fputc('\n', out);
		return r;
	}
	fputc(item ? ' ' : '\n', out);
	return print_yaml(out, json, indent, item);
}

/* Strings are in double quotes always: JSON's form of them is YAML's too. begun: the line is. */
static int print_yaml(FILE *out, const json_t *json, int indent, bool begun)
{
	const char *key;
	json_t *value;
	size_t i;
	int r = indent > 2 * DEPTH_MAX ? -E2BIG : 0;
	json_object_foreach((json_t *)json, key, value) {
		if (r < 0)
			break;
		fprintf(out, "%*s", begun ? 0 : indent, "");
		begun = false;
		r = print_key(out, key);
		fputc(':', out);
		if (r == 0)
			r = print_value(out, value, indent + 2, false);
	}
	json_array_foreach(json, i, value) {
		if (r < 0)
			break;
		fprintf(out, "%*s-", begun ? 0 : indent, "");
		begun = false;
		r = print_value(out, value, indent + 2, true);
	}
	return r;
}

int document_print(FILE *out, const json_t *document, enum document_format format)
{
	if (format == DOCUMENT_YAML && is_block(document))
		return print_yaml(out, document, 0, false);
	int r = print_json(out, document, JSON_INDENT(2));
	fputc('\n', out);
	return r;
}

int document_print_next(FILE *out, const json_t *document, enum document_format format)
{
	if (format == DOCUMENT_YAML) {
		fputs("---\n", out);
		return document_print(out, document, format);
	}
	int r = print_json(out, document, JSON_COMPACT);
	fputc('\n', out);
	return r;
}
