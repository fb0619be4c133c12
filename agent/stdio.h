/*
 * A process's standard streams: between the process's pipes or terminal and the host's connections.
 *
 * Output is read into a ring of AGENT_RING_BYTES per stream, made when the first byte comes. Bytes
 * are numbered from 0. What the host has acknowledged is forgotten; a full ring stops the reading,
 * so that the writer blocks: nothing is dropped. A stream has one connection at most: a newer one
 * replaces the older.
 *
 * stdin: the connection's bytes go to the pipe as the process takes them. When the connection ends,
 * stdin stays open for the next one, unless stdin_once is set: then the process sees end of file,
 * for good. (An exec's stdin is always stdin_once: the host asks for it.) A terminal has no end of
 * file and ignores stdin_once.
 *
 * Owner: the server, one `struct stdio` for each process. Threads: the loop's alone; the functions
 * stdio_child_*() run in the forked child and may block.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"
#include "common/loop.h"

struct stdio;

/*
 * The child's ends, for the one who forks it. Without a terminal these are three descriptors to
 * become 0, 1 and 2. With one, `terminal` is a socket over which the child hands the master of a
 * pty that it opened in the container's own devpts to the agent; the other three are -EBADF.
 */
struct stdio_child {
	int in;
	int out;
	int err;
	int terminal;
	unsigned short columns; /* of the terminal as it begins; 0: not known */
	unsigned short rows;
};

/* Makes pipes (or the socket) for the process. */
int stdio_new(struct ev_loop *loop, const Bulkhead__Agent__Process *process, struct stdio **ret,
	struct err *err);
/* Closes the connections and the agent's ends. NULL is accepted. */
struct stdio *stdio_free(struct stdio *stdio);

/* The child's ends, still open in the agent; the forked child inherits them. Owned by stdio. */
const struct stdio_child *stdio_child(const struct stdio *stdio);
/* Closes the agent's copies of them: call it once the child is forked, also when that failed. */
void stdio_child_close(struct stdio *stdio);

/*
 * In the child, after the container's root is in place and before privileges are dropped: makes the
 * streams 0, 1 and 2, owned by uid, and closes the originals. With a terminal it opens /dev/ptmx,
 * sends the master, and makes the slave the controlling terminal (setsid() is done here in both
 * cases).
 */
int stdio_child_install(const struct stdio_child *child, uid_t uid, struct err *err);

/*
 * Gives the connection fd to the stream that `open` asks for and answers StreamOpened on it. fd is
 * non-blocking and taken on success only: on an error the caller answers. -ENOENT: no such stream;
 * -EINVAL: an offset beyond what exists.
 */
int stdio_connect(
	struct stdio *stdio, const Bulkhead__Agent__StreamOpen *open, int fd, struct err *err);

/* Sends a StreamOpened with its length in front; it fits a fresh connection's buffer or fails. */
int stdio_answer(int fd, const Bulkhead__Agent__StreamOpened *opened, struct err *err);

int stdio_resize(struct stdio *stdio, unsigned columns, unsigned rows, struct err *err);

/*
 * The process has ended: calls fn(userdata, true) once all output is in the rings, or fn(userdata,
 * false) when somebody still holds a stream open, or a ring is full, timeout_ms later. Output goes
 * on being read after that. Never called from within.
 */
typedef void (*stdio_drained_fn)(void *userdata, bool all);
int stdio_drain(struct stdio *stdio, uint64_t timeout_ms, stdio_drained_fn fn, void *userdata,
	struct err *err);
