/*
 * The beginning of a session of the streaming server: the connection and its upgrade from HTTP.
 * Blocking; no state.
 */
#pragma once

#include "common/buf.h"
#include "common/err.h"
#include "cri-server/cli/link.h"

struct upgrade {
	const char *url;
	const char *ca; /* as link_open() */
	const char *method;
	const char *headers; /* each ended by CR LF */
};

/*
 * Connects to the URL and asks for the upgrade. What came behind the answer is appended to `rest`.
 * -EPROTO: refused, with the server's words. Else as link_open().
 */
int upgrade(const struct upgrade *upgrade, struct link **ret, struct buf *rest, struct err *err);
