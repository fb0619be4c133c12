/*
 * What a client's connection tells its session, whatever the protocol: streams that open, bring
 * bytes and end. Called on the loop of the streaming server; the session may send from within, and
 * frees nothing from within.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the client says of a stream; empty where it says nothing. Borrowed for the call. */
struct stream_open {
	const char *type; /* "stdin", "error", "data" … */
	const char *port;
	const char *request_id;
};

struct stream_handler {
	/* 0, or -errno: the stream is refused. */
	int (*on_open)(void *session, uint32_t id, const struct stream_open *open);
	void (*on_data)(void *session, uint32_t id, const void *data, size_t len);
	/* The client sends no more on it; with reset, it does not want any more either. */
	void (*on_end)(void *session, uint32_t id, bool reset);
	/* There may be room where there was none (peer_room()). */
	void (*on_room)(void *session);
};
