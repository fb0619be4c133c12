#include "cri-server/stream/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SESSIONS_MAX     2048
#define JOB_STACK_BYTES  (512u << 10)
#define IDLE_LOOK_MS_MAX 60000
#define RETRY_MS         100

static void session_free(struct session *session)
{
	struct sessions *sessions = session->sessions;
	LIST_REMOVE(session, link);
	session->type->done(session);
	ev_source_free(session->idle);
	peer_free(session->peer);
	session->release(session->connection);
	free(session->early);
	free(session);
	pthread_mutex_lock(&sessions->lock);
	if (--sessions->n == 0)
		pthread_cond_broadcast(&sessions->none);
	pthread_mutex_unlock(&sessions->lock);
}

static void session_go_on(struct session *session);

static void on_job_done(void *userdata)
{
	struct session_job *job = userdata;
	struct session *session = job->session;
	session->jobs--;
	job->done(job);
	session_go_on(session);
}

static void count_threads(struct sessions *sessions, int change)
{
	pthread_mutex_lock(&sessions->lock);
	sessions->threads += (unsigned)change;
	if (!sessions->threads)
		pthread_cond_broadcast(&sessions->none);
	pthread_mutex_unlock(&sessions->lock);
}

static void *job_main(void *arg)
{
	struct session_job *job = arg;
	struct sessions *sessions = job->session->sessions;
	job->work(job);
	/* The session waits for it, so nothing but to try again when memory is out. */
	while (ev_post(sessions->loop, on_job_done, job) < 0)
		nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000L}, NULL);
	count_threads(sessions, -1);
	return NULL;
}

int session_job(struct session_job *job, struct err *err)
{
	pthread_attr_t attr;
	pthread_t thread;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, JOB_STACK_BYTES);
	struct sessions *sessions = job->session->sessions;
	job->session->jobs++;
	count_threads(sessions, 1);
	int r = pthread_create(&thread, &attr, job_main, job);
	pthread_attr_destroy(&attr);
	if (!r)
		return 0;
	job->session->jobs--;
	count_threads(sessions, -1);
	return err_set(err, -r, "start a thread: %s", strerror(r));
}

static void end_work(struct session_job *job)
{
	const struct stream_request *request = &job->session->request;
	request->ops->end(request->target);
}

static void end_done(struct session_job *job)
{
	job->session->ended = true;
}

/* The session's end, one step after the other. */
static void session_go_on(struct session *session)
{
	if ((!session->finishing && !session->gone) || session->jobs)
		return;
	if (!session->end_begun) {
		session->ending = (struct session_job){session, end_work, end_done};
		session->end_begun = session_job(&session->ending, NULL) == 0;
		if (!session->end_begun)
			ev_timer_set(session->idle, RETRY_MS);
		return;
	}
	if (session->ended && session->gone)
		session_free(session);
}

bool session_ends(const struct session *session)
{
	return session->finishing || session->gone;
}

static void on_gone(void *userdata)
{
	struct session *session = userdata;
	session->gone = true;
	session_go_on(session);
}

static void go_on_later(void *userdata)
{
	session_go_on(userdata);
}

void session_finish(struct session *session)
{
	if (session->finishing)
		return;
	session->finishing = true;
	peer_finish(session->peer);
	/* Through the timer: nothing is freed from within a call. */
	ev_timer_set(session->idle, 0);
}

void session_drop(struct session *session)
{
	peer_drop(session->peer);
	session->finishing = true;
	ev_timer_set(session->idle, 0);
}

void session_log(struct session *session, const char *message, const struct err *err)
{
	static const char *const kinds[] = {"exec", "attach", "port-forward"};
	log_event(session->sessions->log, err ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG, message, "kind",
		kinds[session->request.kind], "pod", session->request.pod, "err",
		err ? err->msg : NULL, NULL);
}

static void on_error(void *userdata, const struct err *err)
{
	struct session *session = userdata;
	session_log(session, "streaming client broke the protocol", err);
	session_finish(session);
}

static void on_idle(void *userdata)
{
	struct session *session = userdata;
	if (session_ends(session)) {
		go_on_later(session);
		return;
	}
	uint64_t at = peer_last_ms(session->peer) + session->sessions->idle_timeout_ms;
	uint64_t now = ev_now_ms();
	if (now >= at) {
		struct err err = ERR_INIT;
		err_set(&err, -ETIMEDOUT, "nothing came or went for %u ms",
			session->sessions->idle_timeout_ms);
		session_log(session, "streaming session ended", &err);
		session_finish(session);
		return;
	}
	ev_timer_set(session->idle, at - now < IDLE_LOOK_MS_MAX ? at - now : IDLE_LOOK_MS_MAX);
}

static int session_open(struct session *session, struct err *err)
{
	const struct peer_config config = {.kind = session->peer_kind,
		.fd = session->fd,
		.finish_ms = session->sessions->idle_timeout_ms,
		.handler = &session->type->handler,
		.on_gone = on_gone,
		.on_error = on_error,
		.session = session};
	int r = fd_set_nonblock(session->fd, err);
	if (r == 0)
		r = ev_timer_new(session->sessions->loop, session->sessions->idle_timeout_ms,
			on_idle, session, &session->idle, err);
	if (r == 0)
		r = peer_new(session->sessions->loop, &config, &session->peer, err);
	return r < 0 ? r : session->type->open(session, err);
}

/* On the loop. Without memory the session ends before it began. */
static void session_begin(void *userdata)
{
	struct session *session = userdata;
	struct err err = ERR_INIT;
	LIST_INSERT_HEAD(&session->sessions->list, session, link);
	if (session_open(session, &err) < 0) {
		session_log(session, "streaming session failed", &err);
		session->request.ops->end(session->request.target);
		session_free(session);
		return;
	}
	peer_begin(session->peer, session->early, session->early_len);
}

static int session_make(struct sessions *sessions, const struct stream_request *request,
	const struct session_client *client, struct session **ret, struct err *err)
{
	const struct session_type *type =
		request->kind == STREAM_FORWARD ? &session_forward : &session_remote;
	struct session *session = calloc(1, type->size);
	void *early = malloc(client->early_len + 1);
	if (!session || !early) {
		free(session);
		free(early);
		return err_nomem(err);
	}
	if (client->early_len)
		memcpy(early, client->early, client->early_len);
	session->sessions = sessions;
	session->type = type;
	session->request = *request;
	session->peer_kind = client->kind;
	session->protocol = client->protocol;
	session->fd = client->fd;
	session->early = early;
	session->early_len = client->early_len;
	session->release = client->release;
	session->connection = client->connection;
	*ret = session;
	return 0;
}

int session_new(struct sessions *sessions, const struct stream_request *request,
	const struct session_client *client, struct err *err)
{
	struct session *session = NULL;
	pthread_mutex_lock(&sessions->lock);
	bool room = sessions->n < SESSIONS_MAX;
	sessions->n += room;
	pthread_mutex_unlock(&sessions->lock);
	int r = room ? session_make(sessions, request, client, &session, err)
		     : err_set(err, -EAGAIN, "%d streaming sessions, the limit", SESSIONS_MAX);
	if (r == 0) {
		r = ev_post(sessions->loop, session_begin, session);
		if (r == 0)
			return 0;
		err_nomem(err);
		free(session->early);
		free(session);
	}
	request->ops->end(request->target);
	client->release(client->connection);
	pthread_mutex_lock(&sessions->lock);
	if (room && --sessions->n == 0)
		pthread_cond_broadcast(&sessions->none);
	pthread_mutex_unlock(&sessions->lock);
	return r;
}
