/*
 * The beginning of a session of the streaming server: the connection and its upgrade from HTTP.
 * Blocking; no state.
 */
#pragma once

#include "common/buf.h"
#include "common/err.h"

/*
 * Connects to http://ADDRESS:PORT/PATH and asks for the upgrade with the method and these headers
 * (each ended by CR LF). What came behind the answer is appended to `rest`. -EPROTO: refused, with
 * the server's words.
 */
int upgrade(const char *url, const char *method, const char *headers, int *ret_fd, struct buf *rest,
	struct err *err);
