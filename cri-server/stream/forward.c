/*
 * Port-forward: pairs of streams, one pair for each connection.
 *
 * Source: k8s.io/kubelet/pkg/cri/streaming/portforward. The client opens an "error" and a "data"
 * stream with the same request id and port; when both are there the port is dialled inside the pod.
 * A failure is text on the error stream. Each pair ends by itself.
 *
 * A WebSocket that does not carry SPDY has no streams but channels, two for each port that the CRI
 * call named: 2n for data, 2n + 1 for errors. On both the port is told first. Nothing says there
 * that one of them ends: the connection does with the last pair.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cri-server/stream/pump.h"
#include "cri-server/stream/session.h"

#define PAIRS_MAX      (512)
#define DIALS_MAX      8 /* at once; others wait */
#define REQUEST_ID_MAX 64

struct pair {
	TAILQ_ENTRY(pair) link;
	struct forward *forward;
	char request_id[REQUEST_ID_MAX + 1];
	uint16_t port;
	bool has_error, has_data; /* these are there */
	uint32_t error_id, data_id;
	struct pump *pump;
	struct ev_source *timer; /* the creation time-out; later the pair's end */
	enum { OPENING, WAITING, DIALLING, RUNNING, ENDED } state;
	struct session_job job;
	int fd;
	int result;
	struct err err;
};

struct forward {
	struct session session; /* first */
	TAILQ_HEAD(pair_list, pair) pairs;
	unsigned n;
	unsigned dials;
};

static bool has_channels(const struct forward *forward)
{
	enum peer_kind kind = forward->session.peer_kind;
	return kind == PEER_WEBSOCKET || kind == PEER_WEBSOCKET_BASE64;
}

static bool all_ended(const struct forward *forward)
{
	const struct pair *pair;
	TAILQ_FOREACH(pair, &forward->pairs, link)
		if (pair->state != ENDED)
			return false;
	return true;
}

static void pair_free(struct pair *pair)
{
	TAILQ_REMOVE(&pair->forward->pairs, pair, link);
	pair->forward->n--;
	pump_free(pair->pump);
	ev_source_free(pair->timer);
	fd_close(pair->fd);
	free(pair);
}

/* Freed by the timer: never from within. */
static void pair_end(struct pair *pair, const char *why)
{
	struct peer *peer = pair->forward->session.peer;
	if (pair->state == ENDED)
		return;
	bool dials = pair->state == DIALLING;
	pair->state = ENDED;
	if (why && pair->has_error)
		peer_send(peer, pair->error_id, why, strlen(why));
	if (pair->has_error)
		peer_end(peer, pair->error_id);
	if (pair->has_data) {
		peer_end(peer, pair->data_id);
		if (why)
			peer_reset(peer, pair->data_id);
	}
	if (!dials) /* else when that is done */
		ev_timer_set(pair->timer, 0);
	if (has_channels(pair->forward) && all_ended(pair->forward))
		session_finish(&pair->forward->session);
}

static void on_pair_timer(void *userdata)
{
	struct pair *pair = userdata;
	if (pair->state == OPENING)
		pair_end(pair, "timed out waiting for streams");
	else if (pair->state == ENDED)
		pair_free(pair);
}

static void on_pump_end(void *userdata)
{
	pair_end(userdata, NULL);
}

static void dial_waiting(struct forward *forward);

static void dial_work(struct session_job *job)
{
	struct pair *pair = (struct pair *)((char *)job - offsetof(struct pair, job));
	const struct stream_request *request = &job->session->request;
	pair->result = request->ops->dial(request->target, pair->port, &pair->fd, &pair->err);
}

static void dial_done(struct session_job *job)
{
	struct pair *pair = (struct pair *)((char *)job - offsetof(struct pair, job));
	struct forward *forward = pair->forward;
	forward->dials--;
	if (pair->state == ENDED) { /* the client did not wait */
		ev_timer_set(pair->timer, 0);
	} else {
		pair->state = RUNNING;
		int r = pair->result;
		if (r == 0)
			r = pump_attach(pair->pump, TAKE_FD(pair->fd), &pair->err);
		if (r < 0) {
			char text[sizeof(pair->err.msg) + 128];
			snprintf(text, sizeof(text), "error forwarding port %u to pod %s: %s",
				pair->port, forward->session.request.pod, pair->err.msg);
			session_log(&forward->session, "port not forwarded", &pair->err);
			pair_end(pair, text);
		}
	}
	dial_waiting(forward);
}

static void dial_waiting(struct forward *forward)
{
	struct pair *pair;
	TAILQ_FOREACH(pair, &forward->pairs, link) {
		if (forward->dials >= DIALS_MAX || session_ends(&forward->session))
			return;
		if (pair->state != WAITING)
			continue;
		pair->job = (struct session_job){&forward->session, dial_work, dial_done};
		if (session_job(&pair->job, &pair->err) < 0) {
			pair_end(pair, pair->err.msg);
			continue;
		}
		pair->state = DIALLING;
		forward->dials++;
	}
}

static int pair_new(
	struct forward *forward, const char *request_id, unsigned long port, struct pair **ret)
{
	struct pair *pair = forward->n < PAIRS_MAX ? calloc(1, sizeof(*pair)) : NULL;
	if (!pair)
		return -ENOMEM;
	pair->forward = forward;
	pair->fd = -EBADF;
	pair->port = (uint16_t)port;
	snprintf(pair->request_id, sizeof(pair->request_id), "%s", request_id);
	struct sessions *sessions = forward->session.sessions;
	if (ev_timer_new(sessions->loop, sessions->creation_timeout_ms, on_pair_timer, pair,
		    &pair->timer, NULL) < 0) {
		free(pair);
		return -ENOMEM;
	}
	TAILQ_INSERT_TAIL(&forward->pairs, pair, link);
	forward->n++;
	*ret = pair;
	return 0;
}

static struct pair *find_request(struct forward *forward, const char *request_id)
{
	struct pair *pair;
	TAILQ_FOREACH(pair, &forward->pairs, link)
		if (pair->state == OPENING && strcmp(pair->request_id, request_id) == 0)
			return pair;
	return NULL;
}

/* From the data stream's opening on: what the client sends waits there for the connection. */
static int make_pump(struct pair *pair)
{
	const struct pump_config config = {.peer = pair->forward->session.peer,
		.id = pair->data_id,
		.flags = PUMP_IN | PUMP_OUT | (has_channels(pair->forward) ? PUMP_ONE_END : 0),
		.on_end = on_pump_end,
		.userdata = pair};
	return pump_new(pair->forward->session.sessions->loop, &config, &pair->pump, NULL);
}

static void begin(struct pair *pair)
{
	pair->state = WAITING;
	ev_timer_set(pair->timer, EV_NEVER);
	dial_waiting(pair->forward);
}

static int on_open(void *userdata, uint32_t id, const struct stream_open *open)
{
	struct forward *forward = userdata;
	bool is_error = strcmp(open->type, "error") == 0;
	char *end;
	unsigned long port = strtoul(open->port, &end, 10);
	if ((!is_error && strcmp(open->type, "data") != 0) || *end || port < 1 ||
		port > UINT16_MAX || strlen(open->request_id) > REQUEST_ID_MAX ||
		session_ends(&forward->session))
		return -EINVAL;
	struct pair *pair = find_request(forward, open->request_id);
	if (!pair) {
		int r = pair_new(forward, open->request_id, port, &pair);
		if (r < 0)
			return r;
	}
	bool *there = is_error ? &pair->has_error : &pair->has_data;
	if (*there || pair->port != port)
		return -EINVAL;
	*there = true;
	*(is_error ? &pair->error_id : &pair->data_id) = id;
	int r = is_error ? 0 : make_pump(pair);
	if (r == 0 && pair->has_error && pair->has_data)
		begin(pair);
	return r;
}

static struct pair *find_data(struct forward *forward, uint32_t id)
{
	struct pair *pair;
	TAILQ_FOREACH(pair, &forward->pairs, link)
		if (pair->has_data && pair->data_id == id)
			return pair;
	return NULL;
}

static void on_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	struct forward *forward = userdata;
	struct pair *pair = find_data(forward, id);
	if (pair && pair->pump && pair->state != ENDED && !session_ends(&forward->session))
		pump_client_data(pair->pump, data, len);
	else
		peer_took(forward->session.peer, id, len);
}

static void on_end(void *userdata, uint32_t id, bool reset)
{
	struct forward *forward = userdata;
	struct pair *pair = find_data(forward, id);
	if (!pair || pair->state == ENDED || session_ends(&forward->session))
		return;
	if (reset)
		pair_end(pair, NULL);
	else if (pair->pump)
		pump_client_end(pair->pump);
}

static void on_room(void *userdata)
{
	struct forward *forward = userdata;
	struct pair *pair;
	TAILQ_FOREACH(pair, &forward->pairs, link)
		if (pair->pump)
			pump_room(pair->pump);
}

static bool open_channel(struct forward *forward, unsigned i)
{
	const uint16_t port = forward->session.request.ports[i];
	const uint8_t told[] = {port & 0xff, port >> 8};
	struct peer *peer = forward->session.peer;
	struct pair *pair = NULL;
	if (pair_new(forward, "", port, &pair) < 0)
		return false;
	pair->has_data = pair->has_error = true;
	pair->data_id = 2 * i;
	pair->error_id = 2 * i + 1;
	if (make_pump(pair) < 0)
		return false;
	peer_send(peer, pair->data_id, told, sizeof(told));
	peer_send(peer, pair->error_id, told, sizeof(told));
	return true;
}

/* All that were asked for, from the start. */
static void open_channels(struct forward *forward)
{
	unsigned n = forward->session.request.n_ports, i = 0;
	peer_set_channels(forward->session.peer, 2 * n);
	while (i < n && open_channel(forward, i))
		i++;
	if (i < n || !n) {
		session_finish(&forward->session);
		return;
	}
	struct pair *pair;
	TAILQ_FOREACH(pair, &forward->pairs, link)
		begin(pair);
}

static int forward_open(struct session *session, struct err *err)
{
	struct forward *forward = (struct forward *)session;
	(void)err;
	TAILQ_INIT(&forward->pairs);
	if (has_channels(forward))
		open_channels(forward);
	return 0;
}

static void forward_done(struct session *session)
{
	struct forward *forward = (struct forward *)session;
	while (!TAILQ_EMPTY(&forward->pairs))
		pair_free(TAILQ_FIRST(&forward->pairs));
}

const struct session_type session_forward = {
	.size = sizeof(struct forward),
	.handler = {.on_open = on_open, .on_data = on_data, .on_end = on_end, .on_room = on_room},
	.open = forward_open,
	.done = forward_done,
};
