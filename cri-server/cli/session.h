/*
 * A client of the streaming server: exec and attach over WebSocket (v5.channel.k8s.io), between the
 * URL that the runtime answered and this process's own standard streams.
 *
 * With a terminal, stdin is in raw mode while the session lasts (terminal.h), and its size is told
 * at the start and whenever it changes. One session at a time; blocking.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

struct cli;

struct session_options {
	bool tty;
	bool in;
	bool detach_keys; /* Ctrl-P Ctrl-Q on a terminal ends the session, not the process */
	int in_fd;        /* what is passed on; 0 is stdin anyway */
	int stop_fd;      /* readable: the session ends as if detached; 0: none */
	/*
	 * Takes what comes, of stream 1 or 2, instead of this process's own; NULL: those. Other
	 * than 0 ends the session.
	 */
	int (*on_output)(void *userdata, int stream, const void *data, size_t len);
	/* Called when the server answers; may be NULL. */
	void (*on_open)(void *userdata);
	void *userdata;
};

/*
 * Runs it to its end. *ret_exit: the process's exit code; 0 where the client detached. -errno: it
 * could not be started, or the connection was lost.
 */
int session_run(const struct cli *cli, const char *url, const struct session_options *options,
	int *ret_exit, struct err *err);

/* Runs a command in the container, in such a session. */
int cli_exec_session(struct cli *cli, char *id, char **command,
	const struct session_options *options, int *ret_exit, struct err *err);

/* Attaches to the container's streams in such a session. */
int cli_attach(struct cli *cli, const char *id, const struct session_options *options,
	int *ret_exit, struct err *err);

/* What a metav1.Status says: 0 with the exit code, or -errno with its message. */
int session_status(const char *json, size_t len, int *ret_exit, struct err *err);
