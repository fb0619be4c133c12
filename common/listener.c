#include "common/listener.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define PAUSE_MS 100

struct ev_listener {
	int fd;
	bool accepts;
	struct ev_source *io;
	struct ev_source *pause; /* a timer: from a failure on */
	ev_accept_fn fn;
	void *userdata;
};

static void on_connection(void *userdata, uint32_t events)
{
	struct ev_listener *l = userdata;
	(void)events;
	int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		l->fn(l->userdata, fd);
	} else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		ev_io_set(l->io, 0);
		ev_timer_set(l->pause, PAUSE_MS);
	}
}

static void on_pause_over(void *userdata)
{
	struct ev_listener *l = userdata;
	ev_listener_set(l, l->accepts);
}

int ev_listener_new(struct ev_loop *loop, int fd, ev_accept_fn fn, void *userdata,
	struct ev_listener **ret, struct err *err)
{
	struct ev_listener *l = calloc(1, sizeof(*l));
	if (!l)
		return err_nomem(err);
	*l = (struct ev_listener){.fd = fd, .accepts = true, .fn = fn, .userdata = userdata};
	int r = ev_timer_new(loop, EV_NEVER, on_pause_over, l, &l->pause, err);
	if (r == 0)
		r = ev_io_new(loop, fd, EPOLLIN, on_connection, l, &l->io, err);
	if (r < 0) {
		ev_listener_free(l);
		return r;
	}
	*ret = l;
	return 0;
}

void ev_listener_set(struct ev_listener *l, bool accepts)
{
	l->accepts = accepts;
	ev_io_set(l->io, accepts ? EPOLLIN : 0);
}

struct ev_listener *ev_listener_free(struct ev_listener *l)
{
	if (!l)
		return NULL;
	ev_source_free(l->io);
	ev_source_free(l->pause);
	free(l);
	return NULL;
}
