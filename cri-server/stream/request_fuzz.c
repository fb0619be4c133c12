/*
 * What a streaming client says beside its frames. The first byte chooses: 's' the sizes of its
 * terminal, of which the second byte is the length of the pieces; else the headers of its request,
 * one a line, and the kind of stream that it asks for.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/fd.h"
#include "cri-server/stream/handshake.h"
#include "cri-server/stream/terminal_size.h"

#define LINES_MAX 64

struct headers {
	char *lines[LINES_MAX]; /* "Name:value" */
	size_t n;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *find_header(void *userdata, const char *name, unsigned n)
{
	const struct headers *headers = userdata;
	size_t len = strlen(name);
	for (size_t i = 0; i < headers->n; i++) {
		const char *line = headers->lines[i];
		if (strncasecmp(line, name, len) == 0 && line[len] == ':' && n-- == 0)
			return line + len + 1;
	}
	return NULL;
}

static void assert_answer(const struct handshake_answer *answer)
{
	if (answer->n_headers > HANDSHAKE_HEADERS_MAX)
		abort();
	for (unsigned i = 0; i < answer->n_headers; i++)
		if (!answer->headers[i].name || strpbrk(answer->headers[i].value, "\r\n"))
			abort();
	if (answer->status == 101 ? answer->protocol < 1 || answer->protocol > 5
				  : answer->status < 400 || !answer->text)
		abort();
}

static void try_headers(enum stream_kind kind, char *text)
{
	struct headers headers = {.n = 0};
	const struct handshake_request request = {find_header, &headers, kind};
	struct handshake_answer answer;
	for (char *line; headers.n < LINES_MAX && (line = strsep(&text, "\n"));)
		headers.lines[headers.n++] = line;
	handshake(&request, &answer);
	assert_answer(&answer);
}

static void try_sizes(const uint8_t *data, size_t size)
{
	struct terminal_size terminal = terminal_size_init();
	size_t piece = size ? data[0] + 1u : 1;
	for (size_t at = 1; at < size; at += piece) {
		size_t len = size - at < piece ? size - at : piece;
		bool is_new = terminal_size_feed(&terminal, data + at, len);
		bool has_size = terminal.columns && terminal.rows;
		if ((is_new && !has_size) || terminal.columns > UINT16_MAX ||
			terminal.rows > UINT16_MAX)
			abort();
	}
	terminal_size_done(&terminal);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] == 's') {
		try_sizes(data + 1, size - 1);
		return 0;
	}
	_cleanup_free_ char *text = strndup((const char *)data + 1, size - 1);
	if (!text)
		abort();
	try_headers(data[0] == 'f' ? STREAM_FORWARD : STREAM_EXEC, text);
	return 0;
}
