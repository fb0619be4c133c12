/*
 * What all sessions of the streaming server have in common: the client, the time-outs, work that
 * blocks, and the order in which all of it ends.
 *
 * A session is freed when its connection is over, no work of it runs, and ops->end() has returned;
 * always from the loop, never from within a call. Threads: the loop's alone, but for session_new().
 */
#pragma once

#include <pthread.h>
#include <sys/queue.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/stream/peer.h"
#include "cri-server/stream/stream.h"

/* All sessions of a server. */
struct sessions {
	struct ev_loop *loop;
	const struct log *log;
	unsigned idle_timeout_ms;
	unsigned creation_timeout_ms;
	LIST_HEAD(, session) list; /* the loop's */

	pthread_mutex_t lock; /* protects what follows */
	pthread_cond_t none;  /* `n` or `threads` fell to 0 */
	unsigned n;           /* sessions, from session_new() to their end */
	unsigned threads;     /* that run jobs */
};

struct session;

/* Work that may block: work() in a thread of its own, then done() on the loop, always. */
struct session_job {
	struct session *session;
	void (*work)(struct session_job *job);
	void (*done)(struct session_job *job);
};

struct session_type {
	size_t size;
	struct stream_handler handler;
	int (*open)(struct session *session, struct err *err);
	/* Frees its own parts but not the session. */
	void (*done)(struct session *session);
};

struct session {
	LIST_ENTRY(session) link;
	struct sessions *sessions;
	const struct session_type *type;
	struct stream_request request;
	enum peer_kind peer_kind;
	unsigned protocol; /* of channel.k8s.io: 1 to 5 */
	struct peer *peer;
	int fd;
	void (*release)(void *connection); /* gives fd back */
	void *connection;
	void *early; /* bytes that came with the handshake */
	size_t early_len;
	struct ev_source *idle;
	unsigned jobs;
	struct session_job ending; /* ops->end() */
	bool finishing;
	bool gone;
	bool end_begun;
	bool ended;
};

extern const struct session_type session_remote;  /* exec, attach */
extern const struct session_type session_forward; /* port-forward */

struct session_client {
	enum peer_kind kind;
	unsigned protocol;
	int fd;
	const void *early;
	size_t early_len;
	void (*release)(void *connection);
	void *connection;
};

/*
 * Takes the request and the client, also on failure; goes on on the loop. Any thread. -EAGAIN: too
 * many sessions.
 */
int session_new(struct sessions *sessions, const struct stream_request *request,
	const struct session_client *client, struct err *err);

/* For the types. */
/* Sends what waits, closes, and lets the session end. */
void session_finish(struct session *session);
/* Ends it without another word: the server stops. */
void session_drop(struct session *session);
/* Why it went wrong; err NULL: what it does. */
void session_log(struct session *session, const char *message, const struct err *err);

/* The job is embedded in what the caller keeps until done(). */
int session_job(struct session_job *job, struct err *err);
/* No job is to be begun any more: the session ends. */
bool session_ends(const struct session *session);
