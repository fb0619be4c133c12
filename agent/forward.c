#include "agent/forward.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/proto/agent.pb-c.h"
#include "agent/stdio.h"
#include "common/fd.h"

#define FORWARDS_MAX   1024
#define CANDIDATES_MAX 16
#define BUFFER_BYTES   16384
/*
 * For each address. A listener whose queue is full lets SYNs fall, which the kernel repeats after
 * 1, 3 and 7 s; where nobody listens the answer comes at once.
 */
#define DIAL_MS 8000

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* The two ends, and what comes from each. */
enum { HOST, POD };

struct end {
	struct forward *forward;
	int fd;
	struct ev_source *source;
	bool read_ended; /* nothing more comes from it */
	bool shut;       /* nothing more goes to it */
	char *data;      /* read from it, for the other; made with the first byte */
	size_t start;
	size_t len;
};

struct forward {
	LIST_ENTRY(forward) link;
	struct forwards *forwards;
	union address candidates[CANDIDATES_MAX];
	unsigned n_candidates;
	unsigned next;
	struct ev_source *timer;
	struct err failure; /* what the dialled addresses said so far */
	struct end ends[2];
};

struct forwards {
	struct ev_loop *loop;
	LIST_HEAD(forward_list, forward) list;
	unsigned n;
};

int forwards_new(struct ev_loop *loop, struct forwards **ret, struct err *err)
{
	struct forwards *forwards = calloc(1, sizeof(*forwards));
	if (!forwards)
		return err_nomem(err);
	forwards->loop = loop;
	LIST_INIT(&forwards->list);
	*ret = forwards;
	return 0;
}

static void end_close(struct end *end)
{
	end->source = ev_source_free(end->source);
	end->fd = fd_close(end->fd);
}

static void forward_free(struct forward *f)
{
	LIST_REMOVE(f, link);
	f->forwards->n--;
	ev_source_free(f->timer);
	for (unsigned i = 0; i < 2; i++) {
		end_close(&f->ends[i]);
		free(f->ends[i].data);
	}
	free(f);
}

struct forwards *forwards_free(struct forwards *forwards)
{
	if (!forwards)
		return NULL;
	while (!LIST_EMPTY(&forwards->list))
		forward_free(LIST_FIRST(&forwards->list));
	free(forwards);
	return NULL;
}

static void add_candidate(struct forward *f, const union address *address, uint32_t port)
{
	if (f->n_candidates == CANDIDATES_MAX)
		return;
	union address *to = &f->candidates[f->n_candidates++];
	*to = *address;
	if (to->any.sa_family == AF_INET)
		to->v4.sin_port = htons((uint16_t)port);
	else
		to->v6.sin6_port = htons((uint16_t)port);
}

static void add_pod_addresses(struct forward *f, uint32_t port)
{
	struct ifaddrs *all;
	if (getifaddrs(&all) < 0)
		return;
	for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
		union address address = {.any = {.sa_family = AF_UNSPEC}};
		if (!i->ifa_addr || (i->ifa_flags & IFF_LOOPBACK))
			continue;
		if (i->ifa_addr->sa_family == AF_INET)
			memcpy(&address.v4, i->ifa_addr, sizeof(address.v4));
		else if (i->ifa_addr->sa_family == AF_INET6)
			memcpy(&address.v6, i->ifa_addr, sizeof(address.v6));
		else
			continue;
		if (address.any.sa_family == AF_INET6 &&
			IN6_IS_ADDR_LINKLOCAL(&address.v6.sin6_addr))
			continue; /* nobody binds a server to it alone */
		add_candidate(f, &address, port);
	}
	freeifaddrs(all);
}

static void find_candidates(struct forward *f, uint32_t port)
{
	const union address v4 = {
		.v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
	const union address v6 = {
		.v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}};
	add_candidate(f, &v4, port);
	add_candidate(f, &v6, port);
	add_pod_addresses(f, port);
}

static void end_arm(struct end *end)
{
	struct end *other = &end->forward->ends[end == &end->forward->ends[HOST] ? POD : HOST];
	/* A host that went away altogether is to be noticed after the end of its bytes too. */
	uint32_t events = end->read_ended && !end->len ? EPOLLPRI : 0;
	if (!end->read_ended && !end->len)
		events |= EPOLLIN;
	if (other->len)
		events |= EPOLLOUT;
	ev_io_set(end->source, events);
}

/* Moves what there is from one end to the other; false when the connection is over. */
static bool move(struct end *from, struct end *to)
{
	if (!from->read_ended && !from->len) {
		if (!from->data)
			from->data = malloc(BUFFER_BYTES);
		if (!from->data)
			return false;
		ssize_t n = recv(from->fd, from->data, BUFFER_BYTES, MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return false;
		from->read_ended = n == 0;
		from->start = 0;
		from->len = n > 0 ? (size_t)n : 0;
	}
	while (from->len) {
		ssize_t n = send(
			to->fd, from->data + from->start, from->len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return true;
		if (n < 0)
			return false;
		from->start += (size_t)n;
		from->len -= (size_t)n;
	}
	if (from->read_ended && !to->shut) {
		to->shut = true;
		shutdown(to->fd, SHUT_WR);
	}
	return !(from->shut && to->shut);
}

static void on_end(void *userdata, uint32_t events)
{
	struct end *end = userdata;
	struct forward *f = end->forward;
	bool gone = (events & (EPOLLHUP | EPOLLERR)) && end->read_ended && !end->len;
	if (gone || !move(&f->ends[HOST], &f->ends[POD]) || !move(&f->ends[POD], &f->ends[HOST])) {
		forward_free(f);
		return;
	}
	end_arm(&f->ends[HOST]);
	end_arm(&f->ends[POD]);
}

static void give_up(struct forward *f, const struct err *err)
{
	Bulkhead__Agent__StreamOpened opened = BULKHEAD__AGENT__STREAM_OPENED__INIT;
	opened.error = (uint32_t)-err->code;
	opened.message = (char *)err->msg;
	stdio_answer(f->ends[HOST].fd, &opened, NULL);
	forward_free(f);
}

static void connected(struct forward *f)
{
	struct end *host = &f->ends[HOST], *pod = &f->ends[POD];
	Bulkhead__Agent__StreamOpened opened = BULKHEAD__AGENT__STREAM_OPENED__INIT;
	struct err err = ERR_INIT;
	int on = 1;
	f->timer = ev_source_free(f->timer);
	pod->source = ev_source_free(pod->source);
	setsockopt(pod->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (stdio_answer(host->fd, &opened, NULL) < 0 ||
		ev_io_new(f->forwards->loop, host->fd, EPOLLIN, on_end, host, &host->source, &err) <
			0 ||
		ev_io_new(f->forwards->loop, pod->fd, EPOLLIN, on_end, pod, &pod->source, &err) < 0)
		forward_free(f);
}

static void note_failure(struct forward *f, int code)
{
	const union address *address = &f->candidates[f->next - 1];
	char text[INET6_ADDRSTRLEN] = "?";
	char before[sizeof(f->failure.msg)];
	inet_ntop(address->any.sa_family,
		address->any.sa_family == AF_INET ? (const void *)&address->v4.sin_addr
						  : (const void *)&address->v6.sin6_addr,
		text, sizeof(text));
	memcpy(before, f->failure.msg, sizeof(before));
	err_set(&f->failure, f->failure.code ? f->failure.code : -code, "%.800s%s%s: %s", before,
		before[0] ? "; " : "", text, strerror(code));
}

static void dial_next(struct forward *f);

static void dialled(struct forward *f, int code)
{
	if (code == 0) {
		connected(f);
		return;
	}
	end_close(&f->ends[POD]);
	note_failure(f, code);
	dial_next(f);
}

static void on_dialled(void *userdata, uint32_t events)
{
	struct forward *f = userdata;
	int code = 0;
	socklen_t len = sizeof(code);
	(void)events;
	if (getsockopt(f->ends[POD].fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
		code = errno;
	dialled(f, code);
}

static void on_dial_timeout(void *userdata)
{
	dialled(userdata, ETIMEDOUT);
}

/* Begins to dial one address; 0: the loop goes on with it, else what it failed with. */
static int dial(struct forward *f, const union address *address)
{
	struct end *pod = &f->ends[POD];
	pod->fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (pod->fd < 0)
		return errno;
	socklen_t len =
		address->any.sa_family == AF_INET ? sizeof(address->v4) : sizeof(address->v6);
	if (connect(pod->fd, &address->any, len) < 0 && errno != EINPROGRESS)
		return errno;
	ev_timer_set(f->timer, DIAL_MS);
	return -ev_io_new(f->forwards->loop, pod->fd, EPOLLOUT, on_dialled, f, &pod->source, NULL);
}

static void dial_next(struct forward *f)
{
	while (f->next < f->n_candidates) {
		int code = dial(f, &f->candidates[f->next++]);
		if (code == 0)
			return;
		end_close(&f->ends[POD]);
		note_failure(f, code);
	}
	const struct err failure = f->failure;
	give_up(f, &failure);
}

static void on_begin(void *userdata)
{
	struct forward *f = userdata;
	/* The first turn of the timer begins; later ones are time-outs. */
	if (f->next == 0)
		dial_next(f);
	else
		on_dial_timeout(f);
}

int forward_start(struct forwards *forwards, uint32_t port, int fd, struct err *err)
{
	if (port < 1 || port > UINT16_MAX)
		return err_set(err, -EINVAL, "%u is not a port", port);
	if (forwards->n == FORWARDS_MAX)
		return err_set(err, -EAGAIN, "the pod has %d forwarded connections, the limit",
			FORWARDS_MAX);
	struct forward *f = calloc(1, sizeof(*f));
	if (!f)
		return err_nomem(err);
	f->forwards = forwards;
	for (unsigned i = 0; i < 2; i++)
		f->ends[i] = (struct end){.forward = f, .fd = -EBADF};
	int r = ev_timer_new(forwards->loop, 0, on_begin, f, &f->timer, err);
	if (r < 0) {
		free(f);
		return r;
	}
	LIST_INSERT_HEAD(&forwards->list, f, link);
	forwards->n++;
	f->ends[HOST].fd = fd;
	find_candidates(f, port);
	return 0;
}
