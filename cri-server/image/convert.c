#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/image/pull.h"

enum conversion_state {
	CONVERSION_WAITS,
	CONVERSION_RUNS,
	CONVERSION_DONE,
};

struct conversion {
	TAILQ_ENTRY(conversion) link;
	char blob_digest[72], diff_id[72];
	int cancel_fd;
	enum conversion_state state;
	unsigned users;
	int result;
	uint64_t bytes; /* of the disk, when done */
	struct err err;
};

/* All functions but those of the header and the thread's are called with the lock held. */

static void conversion_free(struct img *img, struct conversion *c)
{
	TAILQ_REMOVE(&img->conversions, c, link);
	fd_close(c->cancel_fd);
	free(c);
}

static bool layer_runs(struct img *img, const char *diff_id)
{
	struct conversion *c;
	TAILQ_FOREACH(c, &img->conversions, link)
		if (c->state == CONVERSION_RUNS && strcmp(c->diff_id, diff_id) == 0)
			return true;
	return false;
}

/* One that was cancelled may still be at the same layer's files: the next waits for its end. */
static struct conversion *next(struct img *img)
{
	struct conversion *c;
	TAILQ_FOREACH(c, &img->conversions, link)
		if (c->state == CONVERSION_WAITS && !layer_runs(img, c->diff_id))
			return c;
	return NULL;
}

/* What a layer that is there takes of the disk; 0 where it went meanwhile. */
static uint64_t layer_bytes(const struct img *img, const char *diff_id)
{
	_cleanup_free_ char *file = img_layer_file(img, diff_id);
	struct stat st;
	return file && stat(file, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void *convert_all(void *userdata)
{
	struct img *img = userdata;
	struct conversion *c;
	pthread_setname_np(pthread_self(), "layers");
	pthread_mutex_lock(&img->lock);
	while ((c = next(img))) {
		struct err err = ERR_INIT;
		c->state = CONVERSION_RUNS;
		img_unlock(img);
		int r = img_convert_layer(img, c->blob_digest, c->diff_id, c->cancel_fd, &err);
		uint64_t bytes = r == 0 ? layer_bytes(img, c->diff_id) : 0;
		pthread_mutex_lock(&img->lock);
		c->state = CONVERSION_DONE;
		c->result = r;
		c->bytes = bytes;
		c->err = err;
		/* It was done before it saw that it was cancelled. */
		if (r == 0 && !img_file_is_needed(img, IMG_LAYER, c->diff_id))
			img_file_discard(img, IMG_LAYER, c->diff_id);
		if (!c->users)
			conversion_free(img, c);
		pthread_cond_broadcast(&img->changed);
	}
	img->converters--;
	pthread_cond_broadcast(&img->changed);
	img_unlock(img);
	return NULL;
}

static int start_converter(struct img *img, struct err *err)
{
	if (img->converters >= img->cores)
		return 0;
	int r = img_start_thread(convert_all, img, err);
	img->converters += r == 0;
	return img->converters ? 0 : r;
}

static struct conversion *find_shared(struct img *img, const char *blob_digest, const char *diff_id)
{
	struct conversion *c;
	TAILQ_FOREACH(c, &img->conversions, link)
		if (c->users && c->state != CONVERSION_DONE && strcmp(c->diff_id, diff_id) == 0 &&
			strcmp(c->blob_digest, blob_digest) == 0)
			return c;
	return NULL;
}

static int get_locked(struct img *img, const char *blob_digest, const char *diff_id,
	struct conversion **ret, struct err *err)
{
	struct conversion *c = find_shared(img, blob_digest, diff_id);
	if (c) {
		c->users++;
		*ret = c;
		return 0;
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_nomem(err);
	memcpy(c->blob_digest, blob_digest, sizeof(c->blob_digest));
	memcpy(c->diff_id, diff_id, sizeof(c->diff_id));
	c->users = 1;
	c->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r = c->cancel_fd < 0 ? err_errno(err, "make an eventfd") : 0;
	TAILQ_INSERT_TAIL(&img->conversions, c, link);
	if (r == 0)
		r = start_converter(img, err);
	if (r < 0)
		conversion_free(img, c);
	else
		*ret = c;
	return r;
}

int conversion_get(struct img *img, const char *blob_digest, const char *diff_id,
	struct conversion **ret, struct err *err)
{
	pthread_mutex_lock(&img->lock);
	int r = get_locked(img, blob_digest, diff_id, ret, err);
	pthread_mutex_unlock(&img->lock);
	return r;
}

int conversion_result(const struct conversion *c, uint64_t *ret_bytes, struct err *err)
{
	if (c->state != CONVERSION_DONE)
		return 1;
	*ret_bytes = c->bytes;
	if (c->result < 0)
		*err = c->err;
	return c->result;
}

void conversion_put(struct img *img, struct conversion *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&img->lock);
	if (--c->users == 0) {
		if (c->state == CONVERSION_RUNS)
			eventfd_write(c->cancel_fd, 1);
		else
			conversion_free(img, c);
	}
	pthread_mutex_unlock(&img->lock);
}
