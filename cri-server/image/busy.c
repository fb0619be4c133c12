/*
 * Work that several want and one does: whoever enters a key has it until it leaves; the others
 * wait, or give up when they are cancelled.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/fd.h"
#include "cri-server/image/internal.h"

static struct busy *busy_find(struct img *img, const char *kind, const char *key)
{
	size_t len = strlen(kind);
	struct busy *busy;
	TAILQ_FOREACH(busy, &img->busy, link)
		if (strncmp(busy->key, kind, len) == 0 && busy->key[len] == ':' &&
			strcmp(busy->key + len + 1, key) == 0)
			return busy;
	return NULL;
}

/* Until something ends, or for a moment: a descriptor does not wake a condition. */
static int wait_for_change(struct img *img, int cancel_fd)
{
	struct pollfd cancel = {.fd = cancel_fd, .events = POLLIN};
	struct timespec until;
	if (cancel_fd > 0 && poll(&cancel, 1, 0) > 0)
		return -ECANCELED;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 100000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_cond_timedwait(&img->busy_changed, &img->lock, &until);
	return 0;
}

int img_busy_enter(
	struct img *img, const char *kind, const char *key, int cancel_fd, struct err *err)
{
	struct busy *busy = calloc(1, sizeof(*busy));
	char *full = str_printf("%s:%s", kind, key);
	if (!busy || !full) {
		free(busy);
		free(full);
		return err_nomem(err);
	}
	busy->key = full;
	pthread_mutex_lock(&img->lock);
	int r = 0;
	while (r == 0 && busy_find(img, kind, key))
		r = wait_for_change(img, cancel_fd);
	if (r == 0)
		TAILQ_INSERT_TAIL(&img->busy, busy, link);
	pthread_mutex_unlock(&img->lock);
	if (r == 0)
		return 0;
	free(full);
	free(busy);
	return err_set(err, r, "cancelled while another call did the same");
}

void img_busy_leave(struct img *img, const char *kind, const char *key)
{
	pthread_mutex_lock(&img->lock);
	struct busy *busy = busy_find(img, kind, key);
	TAILQ_REMOVE(&img->busy, busy, link);
	pthread_cond_broadcast(&img->busy_changed);
	pthread_mutex_unlock(&img->lock);
	free(busy->key);
	free(busy);
}
