#include "cri-server/runtime/fanout.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "common/fd.h"

#define STREAMS  2
#define OPEN_MS  10000
#define TAPS_MAX 64

struct tap {
	TAILQ_ENTRY(tap) link;
	struct fanout *fanout;
	int fds[STREAMS]; /* our ends; -EBADF: ended */
	bool cut_off;
};

struct fanout {
	pthread_mutex_t lock; /* protects taps and what they have, and `ended` */
	TAILQ_HEAD(tap_list, tap) taps;
	unsigned n;
	bool ended[STREAMS];

	pthread_mutex_t stdin_lock; /* protects stdin, across its opening */
	int stdin_fd;
	unsigned stdin_users;
};

int fanout_new(struct fanout **ret, struct err *err)
{
	struct fanout *fanout = calloc(1, sizeof(*fanout));
	if (!fanout)
		return err_nomem(err);
	TAILQ_INIT(&fanout->taps);
	fanout->stdin_fd = -EBADF;
	pthread_mutex_init(&fanout->lock, NULL);
	pthread_mutex_init(&fanout->stdin_lock, NULL);
	*ret = fanout;
	return 0;
}

struct fanout *fanout_free(struct fanout *fanout)
{
	if (!fanout)
		return NULL;
	fd_close(fanout->stdin_fd);
	pthread_mutex_destroy(&fanout->stdin_lock);
	pthread_mutex_destroy(&fanout->lock);
	free(fanout);
	return NULL;
}

static void write_tap(struct tap *tap, size_t i, const void *data, size_t len)
{
	if (tap->fds[i] < 0)
		return;
	ssize_t n = len ? send(tap->fds[i], data, len, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
	if (len && n == (ssize_t)len)
		return;
	/* Its end of file comes behind what is in the buffer. */
	tap->cut_off |= len && (n >= 0 || errno == EAGAIN || errno == ENOBUFS);
	tap->fds[i] = fd_close(tap->fds[i]);
}

void fanout_write(
	struct fanout *fanout, Bulkhead__Agent__Stream stream, const void *data, size_t len)
{
	size_t i = stream == BULKHEAD__AGENT__STREAM__STDERR;
	struct tap *tap;
	pthread_mutex_lock(&fanout->lock);
	fanout->ended[i] |= !len;
	TAILQ_FOREACH(tap, &fanout->taps, link)
		write_tap(tap, i, data, len);
	pthread_mutex_unlock(&fanout->lock);
}

static int make_pair(int *ret_ours, int *ret_theirs, struct err *err)
{
	int fds[2], bytes = FANOUT_BYTES;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_errno(err, "make sockets for an attached client");
	/* Without the right to exceed the host's limit it is smaller. */
	if (setsockopt(fds[0], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
		setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	*ret_ours = fds[0];
	*ret_theirs = fds[1];
	return 0;
}

static int insert(struct fanout *fanout, struct tap *tap, struct err *err)
{
	pthread_mutex_lock(&fanout->lock);
	bool room = fanout->n < TAPS_MAX;
	if (room) {
		for (size_t i = 0; i < STREAMS; i++)
			if (fanout->ended[i])
				tap->fds[i] = fd_close(tap->fds[i]);
		TAILQ_INSERT_TAIL(&fanout->taps, tap, link);
		fanout->n++;
	}
	pthread_mutex_unlock(&fanout->lock);
	return room ? 0 : err_set(err, -EAGAIN, "%d clients are attached, the limit", TAPS_MAX);
}

int fanout_tap(struct fanout *fanout, bool tty, struct tap **ret, int ret_fds[2], struct err *err)
{
	struct tap *tap = calloc(1, sizeof(*tap));
	if (!tap)
		return err_nomem(err);
	int theirs[STREAMS] = {-EBADF, -EBADF};
	*tap = (struct tap){.fanout = fanout, .fds = {-EBADF, -EBADF}};
	int r = 0;
	for (size_t i = 0; i < (tty ? 1 : STREAMS) && r == 0; i++)
		r = make_pair(&tap->fds[i], &theirs[i], err);
	if (r == 0)
		r = insert(fanout, tap, err);
	for (size_t i = 0; i < STREAMS; i++) {
		if (r == 0) {
			ret_fds[i] = theirs[i];
		} else {
			fd_close(theirs[i]);
			fd_close(tap->fds[i]);
		}
	}
	if (r < 0)
		free(tap);
	else
		*ret = tap;
	return r;
}

struct tap *fanout_untap(struct tap *tap)
{
	if (!tap)
		return NULL;
	struct fanout *fanout = tap->fanout;
	pthread_mutex_lock(&fanout->lock);
	TAILQ_REMOVE(&fanout->taps, tap, link);
	fanout->n--;
	pthread_mutex_unlock(&fanout->lock);
	for (size_t i = 0; i < STREAMS; i++)
		fd_close(tap->fds[i]);
	free(tap);
	return NULL;
}

int fanout_tap_status(struct tap *tap, struct err *err)
{
	pthread_mutex_lock(&tap->fanout->lock);
	bool cut_off = tap->cut_off;
	bool ended = tap->fds[0] < 0 && tap->fds[1] < 0;
	pthread_mutex_unlock(&tap->fanout->lock);
	if (cut_off)
		return err_set(err, -ENOBUFS,
			"more than %u bytes of output waited for this client: it was detached; the "
			"log has all of it",
			FANOUT_BYTES);
	return ended;
}

static int open_stdin(struct agent *agent, const char *container_id, int *ret_fd, struct err *err)
{
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.container_id = (char *)container_id;
	open.stream = BULKHEAD__AGENT__STREAM__STDIN;
	return agent_stream_open(agent, &open, OPEN_MS, ret_fd, NULL, err);
}

int fanout_stdin_take(struct fanout *fanout, struct agent *agent, const char *container_id,
	int *ret_fd, struct err *err)
{
	int r = 0;
	pthread_mutex_lock(&fanout->stdin_lock);
	if (!fanout->stdin_users)
		r = open_stdin(agent, container_id, &fanout->stdin_fd, err);
	if (r == 0) {
		*ret_fd = fcntl(fanout->stdin_fd, F_DUPFD_CLOEXEC, 3);
		if (*ret_fd < 0)
			r = err_errno(err, "duplicate stdin's descriptor");
		else
			fanout->stdin_users++;
	}
	if (!fanout->stdin_users)
		fanout->stdin_fd = fd_close(fanout->stdin_fd);
	pthread_mutex_unlock(&fanout->stdin_lock);
	return r;
}

void fanout_stdin_drop(struct fanout *fanout)
{
	pthread_mutex_lock(&fanout->stdin_lock);
	if (--fanout->stdin_users == 0)
		fanout->stdin_fd = fd_close(fanout->stdin_fd);
	pthread_mutex_unlock(&fanout->stdin_lock);
}
