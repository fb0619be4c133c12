/*
 * Pulls and their callers. The work: what the reference stands for → blobs and, as they come, their
 * layers → the record, in one transaction.
 */
#include "cri-server/image/pull.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "common/fault.h"
#include "common/fd.h"
#include "common/loop.h"

int img_start_thread(void *(*fn)(void *), void *userdata, struct err *err)
{
	pthread_t thread;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int r = pthread_create(&thread, &attr, fn, userdata);
	pthread_attr_destroy(&attr);
	return r ? err_set(err, -r, "start a thread: %s", strerror(r)) : 0;
}

/* ---- the credentials' copy ---- */

#define AUTH_FIELDS 6

/* The same member of each at the same place. */
static void auth_fields(struct img_auth *auth, const char **ret[AUTH_FIELDS])
{
	const char **fields[] = {&auth->username, &auth->password, &auth->auth,
		&auth->server_address, &auth->identity_token, &auth->registry_token};
	memcpy(ret, fields, sizeof(fields));
}

static const char *text_or_empty(const char *text)
{
	return text ? text : "";
}

static bool auth_copy(struct img_auth *to, const struct img_auth *from)
{
	struct img_auth source = from ? *from : (struct img_auth){0};
	const char **old[AUTH_FIELDS], **new[AUTH_FIELDS];
	auth_fields(&source, old);
	auth_fields(to, new);
	bool ok = true;
	for (size_t i = 0; i < AUTH_FIELDS; i++)
		ok &= (*new[i] = strdup(text_or_empty(*old[i]))) != NULL;
	return ok;
}

static void auth_done(struct img_auth *auth)
{
	const char **fields[AUTH_FIELDS];
	auth_fields(auth, fields);
	for (size_t i = 0; i < AUTH_FIELDS; i++) {
		if (*fields[i])
			OPENSSL_cleanse((char *)*fields[i], strlen(*fields[i]));
		free((char *)*fields[i]);
	}
}

static bool auth_equal(const struct img_auth *one, const struct img_auth *other)
{
	struct img_auth a = *one, b = other ? *other : (struct img_auth){0};
	const char **left[AUTH_FIELDS], **right[AUTH_FIELDS];
	auth_fields(&a, left);
	auth_fields(&b, right);
	for (size_t i = 0; i < AUTH_FIELDS; i++)
		if (strcmp(*left[i], text_or_empty(*right[i])) != 0)
			return false;
	return true;
}

/* ---- a pull's thread ---- */

static int download(struct pull *p, struct err *err)
{
	if (!img_source_is_local(p->source)) {
		int r = pull_resolve(p, err);
		return r < 0 ? r : pull_download(p, err);
	}
	p->pinned = strdup(p->source);
	p->copied = strdup(p->source);
	int r = p->pinned && p->copied
			? transport_open(&p->transport, p->img, NULL, &p->auth, p->cancel_fd, err)
			: err_nomem(err);
	if (r == 0)
		r = pull_download(p, err);
	if (r == 0)
		r = pull_read_layout(p, err);
	return r < 0 ? r : pull_download(p, err);
}

/* Blobs and layers were synced before they got their names: with these a power cut leaves no record
 * whose files are not whole. */
static int sync_names(const struct img *img, struct err *err)
{
	_cleanup_free_ char *blobs = str_printf("%s/sha256", img->blobs);
	int r = blobs ? fd_sync_directory(blobs, err) : err_nomem(err);
	return r < 0 ? r : fd_sync_directory(img->layers, err);
}

static int run(struct pull *p, struct err *err)
{
	p->record = calloc(1, sizeof(*p->record));
	p->need = img_need_new(p->img);
	if (!p->record || !p->need)
		return err_nomem(err);
	bulkhead__store__image__init(p->record);
	FAULT_POINT("PullImage", "download");
	int r = download(p, err);
	FAULT_POINT("PullImage", "describe");
	if (r == 0)
		r = pull_fill_record(p, err);
	if (r == 0)
		r = sync_names(p->img, err);
	if (r == 0)
		p->id = strdup(p->manifest.config_digest);
	FAULT_POINT("PullImage", "record");
	if (r == 0)
		r = p->id ? img_add(p->img, p->id, TAKE_PTR(p->record), err) : err_nomem(err);
	FAULT_POINT("PullImage", "done");
	return r;
}

/* What it needed for its work. */
static void done(struct pull *p)
{
	transport_close(&p->transport);
	p->need = img_need_free(p->need);
	if (p->record)
		bulkhead__store__image__free_unpacked(p->record, NULL);
	for (size_t i = 0; i < p->manifest.n_layers; i++)
		free(p->diff_ids[i]);
	manifest_done(&p->manifest);
	free(p->pinned);
	free(p->copied);
}

/* With the lock held. */
static void unref(struct pull *p)
{
	if (--p->refs)
		return;
	auth_done(&p->auth);
	fd_close(p->cancel_fd);
	fd_close(p->done_fd);
	free(p->source);
	free(p->id);
	free(p);
}

static void *pull_thread(void *userdata)
{
	struct pull *p = userdata;
	struct img *img = p->img;
	struct err err = ERR_INIT;
	pthread_setname_np(pthread_self(), "pull");
	int r = run(p, &err);
	pthread_mutex_lock(&img->lock);
	TAILQ_REMOVE(&img->pulls, p, link); /* nobody joins, or looks at its blobs */
	img->pull_threads++;
	pthread_mutex_unlock(&img->lock);
	done(p);
	pthread_mutex_lock(&img->lock);
	p->result = r;
	p->err = err;
	p->done = true;
	eventfd_write(p->done_fd, 1);
	img->pull_threads--;
	pthread_cond_broadcast(&img->changed);
	unref(p);
	pthread_mutex_unlock(&img->lock);
	return NULL;
}

/* ---- callers; with the lock held ---- */

static int make_pull(struct img *img, const char *source, const struct img_auth *auth,
	struct pull **ret, struct err *err)
{
	struct pull *p = calloc(1, sizeof(*p));
	if (!p)
		return err_nomem(err);
	p->img = img;
	p->refs = 1;
	p->source = strdup(source);
	p->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	p->progress.started_ns = (int64_t)time(NULL) * 1000000000;
	p->progress.bytes_reused = UINT64_MAX;
	int r = 0;
	if (p->cancel_fd < 0 || p->done_fd < 0)
		r = err_errno(err, "make an eventfd");
	else if (!auth_copy(&p->auth, auth) || !p->source)
		r = err_nomem(err);
	TAILQ_INSERT_TAIL(&img->pulls, p, link);
	if (r == 0)
		r = img_start_thread(pull_thread, p, err);
	if (r < 0) {
		TAILQ_REMOVE(&img->pulls, p, link);
		unref(p);
		return r;
	}
	*ret = p;
	return 0;
}

static int join(struct img *img, const char *source, const struct img_auth *auth, struct pull **ret,
	struct err *err)
{
	struct pull *p;
	int r = 0;
	TAILQ_FOREACH(p, &img->pulls, link)
		if (!p->cancelled && strcmp(p->source, source) == 0 && auth_equal(&p->auth, auth))
			break;
	if (!p)
		r = make_pull(img, source, auth, &p, err);
	if (r < 0)
		return r;
	p->callers++;
	p->refs++;
	*ret = p;
	return 0;
}

static void cancel(struct pull *p)
{
	p->cancelled = true;
	eventfd_write(p->cancel_fd, 1);
	pthread_cond_broadcast(&p->img->changed);
}

/* Whether it is done; else the caller leaves it. The last one waits for its end, so that what was
 * made for it is gone. */
static bool wait_done(struct pull *p, int cancel_fd)
{
	struct pollfd fds[] = {
		{.fd = p->done_fd, .events = POLLIN},
		{.fd = cancel_fd, .events = POLLIN},
	};
	while (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno == EINTR)
		;
	pthread_mutex_lock(&p->img->lock);
	bool ended = p->done, last = --p->callers == 0;
	if (!ended && last)
		cancel(p);
	pthread_mutex_unlock(&p->img->lock);
	fds[1].fd = -EBADF;
	if (!ended && last)
		while (poll(fds, 1, -1) < 0 && errno == EINTR)
			;
	return ended;
}

int img_pull(struct img *img, const char *reference, const struct img_auth *auth, int cancel_fd,
	char **ret_id, struct err *err)
{
	static const char docker[] = "docker://";
	const char *source = strncmp(reference, docker, strlen(docker)) == 0
				     ? reference + strlen(docker)
				     : reference;
	struct pull *p;
	pthread_mutex_lock(&img->lock);
	int r = join(img, source, auth, &p, err);
	pthread_mutex_unlock(&img->lock);
	if (r < 0)
		return err_wrap(err, "pull '%.200s'", reference);
	bool ended = wait_done(p, cancel_fd);
	pthread_mutex_lock(&img->lock);
	if (!ended) {
		r = err_set(err, -ECANCELED, "cancelled");
	} else if (p->result < 0) {
		r = p->result;
		if (err)
			*err = p->err;
	} else {
		*ret_id = strdup(p->id);
		r = *ret_id ? 0 : err_nomem(err);
	}
	unref(p);
	pthread_mutex_unlock(&img->lock);
	return r < 0 ? err_wrap(err, "pull '%.200s'", reference) : 0;
}

/* ---- progress ---- */

int img_pulls(struct img *img, struct img_pull_progress **ret, size_t *ret_n, struct err *err)
{
	struct pull *p;
	size_t n = 0;
	pthread_mutex_lock(&img->lock);
	TAILQ_FOREACH(p, &img->pulls, link)
		n++;
	struct img_pull_progress *list = calloc(n + 1, sizeof(*list));
	n = 0;
	if (list)
		TAILQ_FOREACH(p, &img->pulls, link) {
			list[n] = p->progress;
			if (list[n].bytes_reused == UINT64_MAX)
				list[n].bytes_reused = list[n].bytes_done;
			list[n].callers = p->callers;
			list[n].reference = strdup(p->source);
			if (!list[n++].reference)
				break;
		}
	pthread_mutex_unlock(&img->lock);
	if (!list || (n && !list[n - 1].reference)) {
		img_pulls_free(list, n);
		return err_nomem(err);
	}
	*ret = list;
	*ret_n = n;
	return 0;
}

void img_pulls_free(struct img_pull_progress *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(list[i].reference);
	free(list);
}

void img_end_pulls(struct img *img)
{
	struct pull *p;
	pthread_mutex_lock(&img->lock);
	TAILQ_FOREACH(p, &img->pulls, link)
		cancel(p);
	img->closing = true;
	pthread_cond_broadcast(&img->changed);
	while (!TAILQ_EMPTY(&img->pulls) || img->pull_threads || img->converters || img->remaking)
		pthread_cond_wait(&img->changed, &img->lock);
	pthread_mutex_unlock(&img->lock);
}
