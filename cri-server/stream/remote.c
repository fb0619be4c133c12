/*
 * Exec and attach: up to five streams of the client and up to three of the process.
 *
 * Source: k8s.io/kubelet/pkg/cri/streaming/remotecommand. The client opens the streams that were
 * asked for, an error stream always; with a terminal also one for its sizes (from v3 on). The end
 * is told on the error stream: up to v3 as text where it failed, from v4 on as a metav1.Status with
 * the exit code in it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cri-server/stream/pump.h"
#include "cri-server/stream/session.h"
#include "cri-server/stream/status_json.h"
#include "cri-server/stream/terminal_size.h"

#define SIZE_WAIT_MS 150  /* for the terminal's first size, so that the program begins with it */
#define LOOK_MS      1000 /* between looks at what no event tells of */
#define DRAIN_MS     1000 /* of silence, after the end of a process whose pipe others hold */

enum { IN, OUT, ERR, ERROR, RESIZE, CHANNELS };

static const char *const names[CHANNELS] = {"stdin", "stdout", "stderr", "error", "resize"};

struct channel {
	uint32_t id;
	bool wanted;
	bool open; /* once: one that was reset does not come again, for the process began with it */
};

struct remote {
	struct session session; /* first */
	struct channel channels[CHANNELS];
	struct pump *pumps[3];
	struct ev_source *timer;
	enum { OPENING, SIZING, STARTING, RUNNING } state;

	struct session_job start_job;
	int fds[3];
	struct err start_err;
	int start_result;

	struct terminal_size size;
	bool size_is_new;
	bool resizing;
	struct session_job resize_job;
	unsigned resize_columns, resize_rows;

	uint64_t exited_ms; /* when its end was heard; 0: it was not */
	int exit_code;
};

static void finish(struct remote *remote, const struct err *err)
{
	struct session *session = &remote->session;
	if (session_ends(session))
		return;
	_cleanup_free_ char *text = NULL;
	if (session->protocol >= 4)
		text = status_json(err ? err->msg : NULL, remote->exit_code);
	else
		text = status_text(err ? err->msg : NULL, remote->exit_code);
	if (remote->channels[ERROR].open) {
		if (text && text[0])
			peer_send(session->peer, remote->channels[ERROR].id, text, strlen(text));
		for (int i = 0; i < CHANNELS; i++)
			if (remote->channels[i].open)
				peer_end(session->peer, remote->channels[i].id);
	}
	ev_timer_set(remote->timer, EV_NEVER);
	session_finish(session);
}

static void finish_with(struct remote *remote, int code, const char *message)
{
	struct err err = ERR_INIT;
	err_set(&err, code, "%s", message);
	finish(remote, &err);
}

static bool drained(const struct remote *remote)
{
	bool all = true;
	for (int i = OUT; i <= ERR; i++)
		all &= !remote->pumps[i] || pump_is_done(remote->pumps[i]);
	return all;
}

/* Nothing came for a while that the client would have taken. When the end is heard, the last words
 * are on their way. */
static bool silent(const struct remote *remote)
{
	uint64_t now = ev_now_ms();
	if (now - remote->exited_ms < DRAIN_MS)
		return false;
	for (int i = OUT; i <= ERR; i++) {
		const struct pump *pump = remote->pumps[i];
		if (pump && !pump_is_done(pump) &&
			(pump_is_blocked(pump) || now - pump_last_ms(pump) < DRAIN_MS))
			return false;
	}
	return true;
}

/* Whether it is over: asked when something may have changed, and now and then. */
static void look(struct remote *remote)
{
	struct session *session = &remote->session;
	struct err err = ERR_INIT;
	if (session_ends(session) || remote->state != RUNNING)
		return;
	if (!remote->exited_ms) {
		int r = session->request.ops->status(
			session->request.target, &remote->exit_code, &err);
		if (r < 0 && (drained(remote) || silent(remote))) {
			finish(remote, &err);
			return;
		}
		remote->exited_ms = r > 0 ? ev_now_ms() : 0;
	}
	if (remote->exited_ms && (drained(remote) || silent(remote)))
		finish(remote, NULL);
	else
		ev_timer_set(remote->timer, LOOK_MS);
}

static void on_pump_end(void *userdata)
{
	struct remote *remote = userdata;
	if (remote->state == RUNNING)
		ev_timer_set(remote->timer, 0);
}

static void on_wake(void *userdata)
{
	look(userdata);
}

/* Any thread; ops->end() has returned before the session is freed, so this comes before. */
static void wake(void *userdata)
{
	struct remote *remote = userdata;
	ev_post(remote->session.sessions->loop, on_wake, remote);
}

static void start_work(struct session_job *job)
{
	struct remote *remote = (struct remote *)job->session;
	const struct stream_request *request = &job->session->request;
	const struct stream_start start = {.columns = remote->resize_columns,
		.rows = remote->resize_rows,
		.wake = wake,
		.userdata = remote};
	remote->start_result =
		request->ops->start(request->target, &start, remote->fds, &remote->start_err);
}

static void resize(struct remote *remote);

static void start_done(struct session_job *job)
{
	struct remote *remote = (struct remote *)job->session;
	struct err *err = &remote->start_err;
	int r = remote->start_result;
	for (int i = IN; i <= ERR && r == 0; i++) {
		if (remote->fds[i] < 0) /* a terminal has no stderr, a process perhaps no stdin */
			remote->pumps[i] = pump_free(remote->pumps[i]);
		if (remote->fds[i] < 0)
			continue;
		if (session_ends(job->session) || !remote->pumps[i])
			remote->fds[i] = fd_close(remote->fds[i]);
		else
			r = pump_attach(remote->pumps[i], TAKE_FD(remote->fds[i]), err);
	}
	if (r < 0) {
		finish(remote, err);
		return;
	}
	remote->state = RUNNING;
	session_log(job->session, "streaming session began", NULL);
	resize(remote);
	ev_timer_set(remote->timer, 0);
}

static void start(struct remote *remote)
{
	remote->state = STARTING;
	ev_timer_set(remote->timer, EV_NEVER);
	remote->resize_columns = remote->size.columns;
	remote->resize_rows = remote->size.rows;
	remote->size_is_new = false;
	remote->start_job = (struct session_job){&remote->session, start_work, start_done};
	if (session_job(&remote->start_job, &remote->start_err) < 0)
		finish(remote, &remote->start_err);
}

static void resize_work(struct session_job *job)
{
	struct remote *remote = (struct remote *)job->session;
	const struct stream_request *request = &job->session->request;
	/* One that comes too late has nobody to hear of it. */
	request->ops->resize(request->target, remote->resize_columns, remote->resize_rows, NULL);
}

static void resize_done(struct session_job *job)
{
	struct remote *remote = (struct remote *)job->session;
	remote->resizing = false;
	resize(remote);
}

/* One at a time; of those that come meanwhile the last one counts. */
static void resize(struct remote *remote)
{
	if (remote->state == SIZING) {
		start(remote);
		return;
	}
	if (remote->state != RUNNING || !remote->size_is_new || remote->resizing ||
		session_ends(&remote->session))
		return;
	remote->size_is_new = false;
	remote->resize_columns = remote->size.columns;
	remote->resize_rows = remote->size.rows;
	remote->resize_job = (struct session_job){&remote->session, resize_work, resize_done};
	remote->resizing = session_job(&remote->resize_job, NULL) == 0;
}

static void on_timer(void *userdata)
{
	struct remote *remote = userdata;
	if (session_ends(&remote->session))
		return;
	if (remote->state == OPENING)
		finish_with(remote, -ETIMEDOUT, "timed out waiting for client to create streams");
	else if (remote->state == SIZING)
		start(remote);
	else
		look(remote);
}

static void all_open(struct remote *remote)
{
	for (int i = 0; i < CHANNELS; i++)
		if (remote->channels[i].wanted && !remote->channels[i].open)
			return;
	if (remote->channels[RESIZE].wanted && !remote->size_is_new) {
		remote->state = SIZING;
		ev_timer_set(remote->timer, SIZE_WAIT_MS);
	} else {
		start(remote);
	}
}

static int make_pump(struct remote *remote, int i, struct err *err)
{
	const struct stream_request *request = &remote->session.request;
	unsigned flags = i == IN ? PUMP_IN : PUMP_OUT;
	if (i == IN && request->in_stays_open)
		flags |= PUMP_KEEP_OPEN;
	if (i != IN && request->kind == STREAM_EXEC)
		flags |= PUMP_ACK;
	if (!remote->channels[i].wanted)
		flags |= PUMP_DISCARD;
	const struct pump_config config = {.peer = remote->session.peer,
		.id = remote->channels[i].id,
		.flags = flags,
		.on_end = on_pump_end,
		.userdata = remote};
	return pump_new(remote->session.sessions->loop, &config, &remote->pumps[i], err);
}

static int open_channel(struct remote *remote, int i, uint32_t id)
{
	remote->channels[i].id = id;
	remote->channels[i].open = true;
	return i <= ERR ? make_pump(remote, i, NULL) : 0;
}

static int on_open(void *userdata, uint32_t id, const struct stream_open *open)
{
	struct remote *remote = userdata;
	for (int i = 0; i < CHANNELS; i++) {
		struct channel *channel = &remote->channels[i];
		if (strcmp(open->type, names[i]) != 0 || !channel->wanted || channel->open)
			continue;
		int r = open_channel(remote, i, id);
		if (r == 0)
			all_open(remote);
		return r;
	}
	return -EINVAL;
}

static int channel_of(const struct remote *remote, uint32_t id)
{
	for (int i = 0; i < CHANNELS; i++)
		if (remote->channels[i].open && remote->channels[i].id == id)
			return i;
	return -1;
}

static void on_data(void *userdata, uint32_t id, const void *data, size_t len)
{
	struct remote *remote = userdata;
	int i = channel_of(remote, id);
	if (i == IN && remote->pumps[IN] && !session_ends(&remote->session)) {
		pump_client_data(remote->pumps[IN], data, len);
		return;
	}
	peer_took(remote->session.peer, id, len);
	if (i == RESIZE && terminal_size_feed(&remote->size, data, len)) {
		remote->size_is_new = true;
		resize(remote);
	}
}

static void on_end(void *userdata, uint32_t id, bool reset)
{
	struct remote *remote = userdata;
	int i = channel_of(remote, id);
	(void)reset; /* what is sent on it then, SPDY drops */
	if (i == IN && remote->pumps[IN] && !session_ends(&remote->session))
		pump_client_end(remote->pumps[IN]);
}

static void on_room(void *userdata)
{
	struct remote *remote = userdata;
	for (int i = OUT; i <= ERR; i++)
		if (remote->pumps[i])
			pump_room(remote->pumps[i]);
}

/* A WebSocket has its channels from the start, and is told so. */
static int open_websocket(struct remote *remote, struct err *err)
{
	for (int i = 0; i < CHANNELS; i++)
		if (remote->channels[i].wanted && open_channel(remote, i, (uint32_t)i) < 0)
			return err_nomem(err);
	int first = remote->channels[OUT].open ? OUT : remote->channels[ERR].open ? ERR : ERROR;
	peer_send(remote->session.peer, (uint32_t)first, "", 0);
	all_open(remote);
	return 0;
}

static int remote_open(struct session *session, struct err *err)
{
	struct remote *remote = (struct remote *)session;
	const struct stream_request *request = &session->request;
	const bool wanted[CHANNELS] = {request->in, request->out, request->err, true,
		request->tty && session->protocol >= 3};
	remote->size = terminal_size_init();
	for (int i = 0; i < CHANNELS; i++)
		remote->channels[i].wanted = wanted[i];
	for (int i = IN; i <= ERR; i++)
		remote->fds[i] = -EBADF;
	int r = ev_timer_new(session->sessions->loop, session->sessions->creation_timeout_ms,
		on_timer, remote, &remote->timer, err);
	/* What the process writes is read, also where nobody asked for it. */
	for (int i = OUT; i <= ERR && r == 0; i++)
		if (!wanted[i])
			r = make_pump(remote, i, err);
	if (r == 0 && session->peer_kind != PEER_SPDY)
		r = open_websocket(remote, err);
	return r;
}

static void remote_done(struct session *session)
{
	struct remote *remote = (struct remote *)session;
	if (!session->peer) /* it was never opened */
		return;
	for (int i = IN; i <= ERR; i++) {
		pump_free(remote->pumps[i]);
		fd_close(remote->fds[i]);
	}
	ev_source_free(remote->timer);
	terminal_size_done(&remote->size);
}

const struct session_type session_remote = {
	.size = sizeof(struct remote),
	.handler = {.on_open = on_open, .on_data = on_data, .on_end = on_end, .on_room = on_room},
	.open = remote_open,
	.done = remote_done,
};
