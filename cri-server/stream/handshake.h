/*
 * The upgrade from HTTP: which protocol a client and we both speak. Pure functions of the request's
 * headers. Source: k8s.io/streaming/pkg/httpstream, RFC 6455 section 4.2.
 */
#pragma once

#include "cri-server/stream/peer.h"
#include "cri-server/stream/stream.h"

#define HANDSHAKE_HEADERS_MAX 4

struct handshake_request {
	/* The n-th header of that name (n from 0), or NULL. */
	const char *(*header)(void *userdata, const char *name, unsigned n);
	void *userdata;
	enum stream_kind kind;
};

struct handshake_answer {
	unsigned status; /* 101: upgrade; else refuse with the text */
	const char *text;
	enum peer_kind kind;
	unsigned protocol;
	struct {
		const char *name;
		const char *value;
	} headers[HANDSHAKE_HEADERS_MAX];
	unsigned n_headers;
	char accept[WEBSOCKET_ACCEPT];
};

void handshake(const struct handshake_request *request, struct handshake_answer *answer);
