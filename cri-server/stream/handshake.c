#include "cri-server/stream/handshake.h"

#include <string.h>
#include <strings.h>

#include "common/fd.h"

#define LISTS_MAX 16 /* headers of one name that are looked at */

struct protocol {
	const char *name;
	enum peer_kind kind;
	unsigned number;
};

static const struct protocol remote_spdy[] = {
	{"v4.channel.k8s.io", PEER_SPDY, 4},
	{"v3.channel.k8s.io", PEER_SPDY, 3},
	{"v2.channel.k8s.io", PEER_SPDY, 2},
	{"channel.k8s.io", PEER_SPDY, 1},
};
static const struct protocol remote_websocket[] = {
	{"v5.channel.k8s.io", PEER_WEBSOCKET, 5},
	{"v5.base64.channel.k8s.io", PEER_WEBSOCKET_BASE64, 5},
	{"v4.channel.k8s.io", PEER_WEBSOCKET, 4},
	{"v4.base64.channel.k8s.io", PEER_WEBSOCKET_BASE64, 4},
	{"channel.k8s.io", PEER_WEBSOCKET, 1},
	{"base64.channel.k8s.io", PEER_WEBSOCKET_BASE64, 1},
};
static const struct protocol forward_spdy[] = {{"portforward.k8s.io", PEER_SPDY, 1}};
static const struct protocol forward_websocket[] = {
	{"SPDY/3.1+portforward.k8s.io", PEER_TUNNEL, 1},
	{"v4.channel.k8s.io", PEER_WEBSOCKET, 4},
	{"v4.base64.channel.k8s.io", PEER_WEBSOCKET_BASE64, 4},
};

struct table {
	const struct protocol *rows;
	size_t n;
};

/* Finds the next element of a comma-separated list; NULL at its end. */
static const char *next_element(const char *list, size_t *ret_len)
{
	list += strspn(list, ", \t");
	size_t len = strcspn(list, ",");
	while (len && (list[len - 1] == ' ' || list[len - 1] == '\t'))
		len--;
	*ret_len = len;
	return len ? list : NULL;
}

static bool has_element(
	const struct handshake_request *request, const char *name, const char *wanted)
{
	for (unsigned i = 0; i < LISTS_MAX; i++) {
		const char *list = request->header(request->userdata, name, i);
		size_t len;
		if (!list)
			return false;
		for (const char *at = list; (at = next_element(at, &len)); at += len)
			if (len == strlen(wanted) && strncasecmp(at, wanted, len) == 0)
				return true;
	}
	return false;
}

static void add(struct handshake_answer *answer, const char *name, const char *value)
{
	answer->headers[answer->n_headers].name = name;
	answer->headers[answer->n_headers++].value = value;
}

static void refuse(struct handshake_answer *answer, unsigned status, const char *text)
{
	answer->status = status;
	answer->text = text;
}

/* The first of ours that the client names. */
static const struct protocol *choose(
	const struct handshake_request *request, const struct table *table, const char *header)
{
	for (size_t i = 0; i < table->n; i++)
		if (has_element(request, header, table->rows[i].name))
			return &table->rows[i];
	return NULL;
}

static void take(
	struct handshake_answer *answer, const struct protocol *protocol, const char *header)
{
	answer->status = 101;
	answer->kind = protocol->kind;
	answer->protocol = protocol->number;
	if (header)
		add(answer, header, protocol->name);
}

/* A client that names no protocol gets the oldest, the table's last. */
static void shake_spdy(const struct handshake_request *request, const struct table *table,
	struct handshake_answer *answer)
{
	static const char name[] = "X-Stream-Protocol-Version";
	const struct protocol *protocol = choose(request, table, name);
	bool none = !request->header(request->userdata, name, 0);
	if (!protocol && !none) {
		refuse(answer, 403,
			"unable to upgrade: no protocol of X-Stream-Protocol-Version is "
			"supported\n");
		for (size_t i = 0; i < table->n && i < HANDSHAKE_HEADERS_MAX; i++)
			add(answer, "X-Accepted-Stream-Protocol-Versions", table->rows[i].name);
		return;
	}
	add(answer, "Upgrade", "SPDY/3.1");
	take(answer, protocol ? protocol : &table->rows[table->n - 1], protocol ? name : NULL);
}

static void shake_websocket(const struct handshake_request *request, const struct table *table,
	struct handshake_answer *answer)
{
	static const char name[] = "Sec-WebSocket-Protocol";
	const char *key = request->header(request->userdata, "Sec-WebSocket-Key", 0);
	if (!has_element(request, "Sec-WebSocket-Version", "13")) {
		refuse(answer, 426,
			"unable to upgrade: only version 13 of WebSocket is supported\n");
		add(answer, "Sec-WebSocket-Version", "13");
		return;
	}
	/* 16 bytes in base64. */
	if (!key || strlen(key) != 24 || strcmp(key + 22, "==") != 0) {
		refuse(answer, 400,
			"unable to upgrade: Sec-WebSocket-Key is missing or malformed\n");
		return;
	}
	const struct protocol *protocol = choose(request, table, name);
	bool none = !request->header(request->userdata, name, 0);
	static const struct protocol oldest = {"", PEER_WEBSOCKET, 1};
	if (!protocol && !none) {
		refuse(answer, 403,
			"unable to upgrade: no protocol of Sec-WebSocket-Protocol is supported\n");
		return;
	}
	websocket_accept(key, answer->accept);
	add(answer, "Upgrade", "websocket");
	add(answer, "Sec-WebSocket-Accept", answer->accept);
	take(answer, protocol ? protocol : &oldest, protocol ? name : NULL);
}

void handshake(const struct handshake_request *request, struct handshake_answer *answer)
{
	bool forward = request->kind == STREAM_FORWARD;
	const struct table spdy = {forward ? forward_spdy : remote_spdy,
		forward ? ARRAY_SIZE(forward_spdy) : ARRAY_SIZE(remote_spdy)};
	const struct table websocket = {forward ? forward_websocket : remote_websocket,
		forward ? ARRAY_SIZE(forward_websocket) : ARRAY_SIZE(remote_websocket)};
	*answer = (struct handshake_answer){.status = 0};
	bool upgrade = has_element(request, "Connection", "Upgrade");
	if (upgrade && has_element(request, "Upgrade", "websocket"))
		shake_websocket(request, &websocket, answer);
	else if (upgrade && has_element(request, "Upgrade", "SPDY/3.1"))
		shake_spdy(request, &spdy, answer);
	else
		refuse(answer, 400,
			"unable to upgrade: missing upgrade headers in request: Connection: "
			"Upgrade "
			"and Upgrade: SPDY/3.1 or websocket\n");
}
