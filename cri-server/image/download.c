/*
 * From a manifest to converted layers. skopeo brings all blobs in one run into a layout of its own,
 * for it writes some of them in place: each into a temporary file, which is renamed when its digest
 * is right. Meanwhile this looks, several times a second, which are there, and takes them over, so
 * that each layer is converted while others are still coming; and how large all is that it does not
 * take, for a registry may send what it likes. What the store has is lent to the layout, by links
 * too.
 *
 * A blob that another pull is bringing from the same registry is not asked for twice: the copy
 * begins when that one has it, has ended, or has not come on for a while. Of another registry
 * nobody knows whether it has the blob that its manifest names, nor how long it takes over it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/image/pull.h"

#define LOOK_MS  50
#define STUCK_MS 10000
/* What skopeo writes beside layers, and what compressing adds to what cannot be compressed. */
#define SLACK_BYTES (16u << 20)

struct download {
	struct pull *pull;
	pthread_t copier;
	bool copier_runs;
	bool checked;               /* after the copy, that all blobs are there */
	struct transport transport; /* with a cancel_fd of the copy's own */
};

static void *copy(void *userdata)
{
	struct download *d = userdata;
	struct pull *p = d->pull;
	struct err err = ERR_INIT;
	pthread_setname_np(pthread_self(), "pull-copy");
	int r = transport_copy(&d->transport, p->copied, &err);
	pthread_mutex_lock(&p->img->lock);
	p->copy = COPY_DONE;
	p->copy_result = r;
	p->copy_err = err;
	pthread_cond_broadcast(&p->img->changed);
	pthread_mutex_unlock(&p->img->lock);
	return NULL;
}

/* ---- blobs that others bring; with the lock held ---- */

static bool brings(const struct pull *other, const char *digest)
{
	for (size_t i = 0; i < other->manifest.n_layers; i++)
		if (!other->layers[i].present &&
			strcmp(other->manifest.layers[i].digest, digest) == 0)
			return true;
	return false;
}

/* Up to the slash after the registry in "docker://r.test/a@sha256:…"; local sources have none. */
static bool same_registry(const struct pull *one, const struct pull *other)
{
	static const char docker[] = "docker://";
	size_t len = strlen(docker);
	if (strncmp(one->pinned, docker, len) != 0)
		return false;
	len += strcspn(one->pinned + len, "/") + 1;
	return strncmp(one->pinned, other->pinned, len) == 0;
}

/* A copy that is done has brought what its pull may not have taken over yet. */
static bool must_wait(const struct pull *p)
{
	const struct pull *other;
	uint64_t now = ev_now_ms();
	TAILQ_FOREACH(other, &p->img->pulls, link) {
		if (other == p || other->copy == COPY_NONE || now - other->moved_ms > STUCK_MS ||
			!same_registry(p, other))
			continue;
		for (size_t i = 0; i < p->manifest.n_layers; i++)
			if (!p->layers[i].present && brings(other, p->manifest.layers[i].digest))
				return true;
	}
	return false;
}

/* ---- what is there ---- */

static int look_at_layer(struct pull *p, size_t i, struct err *err)
{
	const struct manifest_layer *layer = &p->manifest.layers[i];
	struct stat st;
	_cleanup_free_ char *path = img_blob_path(p->img, layer->digest);
	_cleanup_free_ char *copied = transport_blob_path(&p->transport, layer->digest);
	if (!path || !copied)
		return err_nomem(err);
	bool kept = stat(path, &st) == 0;
	if (!kept && stat(copied, &st) < 0)
		return 0;
	if ((uint64_t)st.st_size != layer->size)
		return err_set(err, -EBADMSG, "blob %s has %llu bytes, the manifest says %llu",
			layer->digest, (unsigned long long)st.st_size,
			(unsigned long long)layer->size);
	if (!kept && link(copied, path) < 0 && errno != EEXIST)
		return err_errno(err, "link %s to %s", copied, path);
	pthread_mutex_lock(&p->img->lock);
	p->layers[i].present = true;
	pthread_cond_broadcast(&p->img->changed); /* others may wait for it */
	pthread_mutex_unlock(&p->img->lock);
	return conversion_get(p->img, layer->digest, p->diff_ids[i], &p->layers[i].conversion, err);
}

static int look_at_layers(struct pull *p, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < p->manifest.n_layers && r == 0; i++)
		if (!p->layers[i].present)
			r = look_at_layer(p, i, err);
	return r;
}

/* Sizes of the files in a directory of the layout that are no blobs of the store's too. */
static void add_sizes(const char *path, uint64_t *sum, uint64_t *largest)
{
	DIR *dir = opendir(path);
	if (!dir)
		return; /* not yet */
	for (struct dirent *entry; (entry = readdir(dir));) {
		struct stat st;
		if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
			!S_ISREG(st.st_mode) || st.st_nlink > 1)
			continue;
		*sum += (uint64_t)st.st_size;
		if ((uint64_t)st.st_size > *largest)
			*largest = (uint64_t)st.st_size;
	}
	closedir(dir);
}

/* What skopeo has brought and was not taken over, finished or not: the sum and the largest. */
static int look_at_layout(
	const struct pull *p, uint64_t *ret_sum, uint64_t *ret_largest, struct err *err)
{
	_cleanup_free_ char *blobs = str_printf("%s/blobs/sha256", p->transport.layout);
	*ret_sum = *ret_largest = 0;
	if (!blobs)
		return err_nomem(err);
	add_sizes(p->transport.layout, ret_sum, ret_largest);
	add_sizes(blobs, ret_sum, ret_largest);
	return 0;
}

/* What was lent does not come; what another pull has brought since then does all the same. */
static int check_sizes(const struct pull *p, uint64_t sum, uint64_t largest, struct err *err)
{
	const struct manifest_layer *big = NULL;
	uint64_t wanted = 0;
	for (size_t i = 0; i < p->manifest.n_layers; i++) {
		const struct manifest_layer *layer = &p->manifest.layers[i];
		if (p->layers[i].lent)
			continue;
		wanted += layer->size;
		if (!big || layer->size > big->size)
			big = layer;
	}
	if (largest <= (big ? big->size : 0) + SLACK_BYTES && sum <= wanted + SLACK_BYTES)
		return 0;
	return err_set(err, -EBADMSG,
		"the registry sends more than the manifest says: %llu bytes so far of a blob that "
		"has %llu at most (%s)",
		(unsigned long long)largest, (unsigned long long)(big ? big->size : 0),
		big ? big->digest : "no layer is missing");
}

static int look(struct pull *p, struct err *err)
{
	uint64_t bytes = 0, sum, largest;
	unsigned present = 0;
	int r = look_at_layers(p, err);
	for (size_t i = 0; i < p->manifest.n_layers; i++) {
		present += p->layers[i].present;
		bytes += p->layers[i].present ? p->manifest.layers[i].size : 0;
	}
	if (r < 0)
		return r;
	r = look_at_layout(p, &sum, &largest, err);
	/* Of a local source nothing is known before. */
	if (r == 0 && p->manifest.config_digest[0])
		r = check_sizes(p, sum, largest, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&p->img->lock);
	struct img_pull_progress *progress = &p->progress;
	if (bytes + sum > progress->bytes_done) { /* it falls for a moment at a rename */
		if (progress->bytes_reused == UINT64_MAX)
			progress->bytes_reused = bytes;
		progress->bytes_done = bytes + sum;
		p->moved_ms = ev_now_ms();
	}
	progress->layers_done = present;
	progress->elapsed_ms = p->copy_began_ms ? ev_now_ms() - p->copy_began_ms : 0;
	pthread_mutex_unlock(&p->img->lock);
	return r;
}

/* ---- the copy's begin ---- */

static int lend_blobs(struct pull *p, struct err *err)
{
	_cleanup_free_ char *dir = str_printf("%s/blobs/sha256", p->transport.layout);
	int r = dir ? fd_mkdir_all(dir, 0700, err) : err_nomem(err);
	for (size_t i = 0; i < p->manifest.n_layers && r == 0; i++) {
		const char *digest = p->manifest.layers[i].digest;
		_cleanup_free_ char *from = img_blob_path(p->img, digest);
		_cleanup_free_ char *to = transport_blob_path(&p->transport, digest);
		if (!from || !to)
			r = err_nomem(err);
		else if (p->layers[i].present && link(from, to) < 0 && errno != EEXIST)
			r = err_errno(err, "link %s to %s", from, to);
		else
			p->layers[i].lent = p->layers[i].present;
	}
	return r;
}

static bool may_begin(struct pull *p)
{
	pthread_mutex_lock(&p->img->lock);
	bool may = !must_wait(p);
	if (may) {
		p->copy = COPY_RUNS;
		p->copy_began_ms = p->moved_ms = ev_now_ms();
	}
	pthread_mutex_unlock(&p->img->lock);
	return may;
}

/* From here on others wait for it; what it has waited for may have come since it was looked for. */
static int begin_copy(struct download *d, struct err *err)
{
	struct pull *p = d->pull;
	if (!may_begin(p))
		return 0;
	int r = look_at_layers(p, err);
	if (r == 0)
		r = lend_blobs(p, err);
	if (r < 0)
		return r;
	r = pthread_create(&d->copier, NULL, copy, d);
	d->copier_runs = r == 0;
	return r == 0 ? 0 : err_set(err, -r, "start a thread: %s", strerror(r));
}

/* A layer that the registry has uncompressed, skopeo has compressed: it has another digest, which
 * only the copy's manifest tells. */
static int adopt_compressed(struct pull *p, struct err *err)
{
	struct manifest copied = {0};
	int r = pull_read_copied(p, &copied, err);
	if (r == 0 && copied.n_layers != p->manifest.n_layers)
		r = err_set(err, -EBADMSG, "skopeo copied %zu layers of %zu", copied.n_layers,
			p->manifest.n_layers);
	for (size_t i = 0; i < p->manifest.n_layers && r == 0; i++) {
		if (p->layers[i].present)
			continue;
		r = img_need_file(p->need, IMG_BLOB, copied.layers[i].digest, err);
		pthread_mutex_lock(&p->img->lock);
		p->manifest.layers[i] = copied.layers[i];
		pthread_mutex_unlock(&p->img->lock);
		if (r == 0)
			r = look_at_layer(p, i, err);
		if (r == 0 && !p->layers[i].present)
			r = err_set(err, -EIO, "blob %s was not copied", copied.layers[i].digest);
	}
	manifest_done(&copied);
	return r;
}

static int finish_copy(struct download *d, struct err *err)
{
	struct pull *p = d->pull;
	d->checked = true;
	int r = p->copy_result;
	if (r < 0)
		*err = p->copy_err;
	bool all = true;
	if (r == 0 && !img_source_is_local(p->source))
		r = pull_check_copied(p, err);
	for (size_t i = 0; i < p->manifest.n_layers; i++)
		all &= p->layers[i].present;
	if (r == 0 && !all)
		r = adopt_compressed(p, err);
	return r;
}

/* ---- the loop ---- */

/* With the lock held: 0 all are converted, positive 1 not yet. */
static int converted(struct pull *p, struct err *err)
{
	unsigned done = 0;
	uint64_t sum = 0, limit = p->img->config.image_bytes_max;
	for (size_t i = 0; i < p->manifest.n_layers; i++) {
		uint64_t bytes = 0;
		if (!p->layers[i].conversion)
			continue;
		int r = conversion_result(p->layers[i].conversion, &bytes, err);
		if (r < 0)
			return r;
		done += r == 0;
		sum += bytes;
	}
	if (limit && sum > limit)
		return err_set(err, -EFBIG,
			"the image unpacks to more than images.image_bytes_max, %llu bytes",
			(unsigned long long)limit);
	p->progress.layers_converted = done;
	return done < p->manifest.n_layers;
}

/*
 * With the lock held. A large image may take any time; of a registry that is silent nobody knows
 * whether it will ever say more. A local source has nobody to wait for, and is read before anything
 * is to be seen.
 */
static bool is_stuck(const struct pull *p)
{
	uint64_t limit_ms = p->img->config.pull_timeout_ms;
	return p->copy == COPY_RUNS && limit_ms && !img_source_is_local(p->source) &&
	       ev_now_ms() - p->moved_ms > limit_ms;
}

/* Until something may have happened; 0 when all is done. */
static int wait_for_change(struct download *d, struct err *err)
{
	struct pull *p = d->pull;
	uint64_t until_ms = ev_now_ms() + LOOK_MS;
	pthread_mutex_lock(&p->img->lock);
	int r = 0;
	if (p->cancelled)
		r = err_set(err, -ECANCELED, "nobody waits for it any more");
	else if (is_stuck(p))
		r = err_set(err, -ETIMEDOUT,
			"the registry has sent nothing for %llu ms (images.pull_timeout_ms)",
			(unsigned long long)p->img->config.pull_timeout_ms);
	else
		r = converted(p, err);
	bool ended = p->copy == COPY_DONE && !d->checked; /* which is to be looked at */
	if (r == 0 && !d->checked)
		r = 1;
	if (r > 0 && !ended)
		ev_cond_wait(&p->img->changed, &p->img->lock, until_ms);
	pthread_mutex_unlock(&p->img->lock);
	return r;
}

static int run(struct download *d, struct err *err)
{
	struct pull *p = d->pull;
	int r = 1;
	while (r > 0) {
		pthread_mutex_lock(&p->img->lock);
		enum copy_state state = p->copy;
		pthread_mutex_unlock(&p->img->lock);
		r = look(p, err);
		if (r == 0 && state == COPY_NONE)
			r = begin_copy(d, err);
		if (r == 0 && state == COPY_DONE && !d->checked)
			r = finish_copy(d, err);
		if (r == 0)
			r = wait_for_change(d, err);
	}
	return r;
}

static void end_copy(struct download *d)
{
	if (d->copier_runs) {
		eventfd_write(d->transport.cancel_fd, 1);
		pthread_join(d->copier, NULL);
	}
	fd_close(d->transport.cancel_fd);
}

int pull_download(struct pull *p, struct err *err)
{
	struct download d = {.pull = p, .transport = p->transport};
	d.transport.cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d.transport.cancel_fd < 0)
		return err_errno(err, "make an eventfd");
	pthread_mutex_lock(&p->img->lock);
	p->progress.layers = (unsigned)p->manifest.n_layers;
	p->progress.bytes_total = 0;
	for (size_t i = 0; i < p->manifest.n_layers; i++)
		p->progress.bytes_total += p->manifest.layers[i].size;
	pthread_mutex_unlock(&p->img->lock);
	int r = run(&d, err);
	end_copy(&d);
	for (size_t i = 0; i < p->manifest.n_layers; i++) {
		conversion_put(p->img, p->layers[i].conversion);
		p->layers[i].conversion = NULL;
	}
	return r;
}
