#include "cri-server/runtime/dir_watch.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "common/fd.h"

#define EVENTS                                                                                     \
	(IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_CLOSE_WRITE | IN_ATTRIB |        \
		IN_ONLYDIR)

struct dir_watcher {
	int inotify;
	struct ev_source *source;
	pthread_mutex_t lock;
	LIST_HEAD(dir_watches, dir_watch) watches;
};

/* The kernel has one watch of a directory, whoever asked for it: it may be several of ours. */
static void tell(struct dir_watcher *watcher, const struct inotify_event *event)
{
	struct dir_watch *next;
	for (struct dir_watch *watch = LIST_FIRST(&watcher->watches); watch; watch = next) {
		next = LIST_NEXT(watch, link);
		/* An overflow tells of nothing and means all, the ends of watches too. */
		if (watch->wd != event->wd && !(event->mask & IN_Q_OVERFLOW))
			continue;
		/* Else the directory is gone; its path may name another. */
		if (event->mask & (IN_IGNORED | IN_Q_OVERFLOW)) {
			LIST_REMOVE(watch, link);
			watch->wd = -1;
		}
		watch->changed(watch->userdata);
	}
}

static void on_readable(void *userdata, uint32_t events)
{
	char buffer[16 * (sizeof(struct inotify_event) + NAME_MAX + 1)]
		__attribute__((aligned(__alignof__(struct inotify_event))));
	struct dir_watcher *watcher = userdata;
	ssize_t n = read(watcher->inotify, buffer, sizeof(buffer));
	(void)events;
	pthread_mutex_lock(&watcher->lock);
	for (char *at = buffer; n > 0 && at < buffer + n;) {
		const struct inotify_event *event = (const void *)at;
		tell(watcher, event);
		at += sizeof(*event) + event->len;
	}
	pthread_mutex_unlock(&watcher->lock);
}

int dir_watcher_new(struct ev_loop *loop, struct dir_watcher **ret, struct err *err)
{
	struct dir_watcher *watcher = calloc(1, sizeof(*watcher));
	if (!watcher)
		return err_nomem(err);
	pthread_mutex_init(&watcher->lock, NULL);
	LIST_INIT(&watcher->watches);
	watcher->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	int r = watcher->inotify < 0
			? err_errno(
				  err, "watch volumes with inotify (fs.inotify.max_user_instances)")
			: ev_io_new(loop, watcher->inotify, EPOLLIN, on_readable, watcher,
				  &watcher->source, err);
	if (r < 0) {
		dir_watcher_free(watcher);
		return r;
	}
	*ret = watcher;
	return 0;
}

struct dir_watcher *dir_watcher_free(struct dir_watcher *watcher)
{
	if (!watcher)
		return NULL;
	ev_source_free(watcher->source);
	fd_close(watcher->inotify);
	pthread_mutex_destroy(&watcher->lock);
	free(watcher);
	return NULL;
}

/* By its name, which may be another directory's since, but leads over no link. */
static int add(struct dir_watcher *watcher, const char *path, struct err *err)
{
	char own[32];
	_cleanup_close_ int fd = fd_open_no_links(path, O_PATH | O_DIRECTORY, err);
	if (fd < 0)
		return fd;
	snprintf(own, sizeof(own), "/proc/self/fd/%d", fd);
	int wd = inotify_add_watch(watcher->inotify, own, EVENTS);
	return wd < 0 ? err_errno(err, "watch %s", path) : wd;
}

int dir_watch_begin(
	struct dir_watcher *watcher, struct dir_watch *watch, const char *path, struct err *err)
{
	int r = 0;
	/* Held from before the kernel's watch is there: another's end may not take it away. */
	pthread_mutex_lock(&watcher->lock);
	if (watch->wd < 0) {
		r = add(watcher, path, err);
		if (r >= 0) {
			watch->wd = r;
			LIST_INSERT_HEAD(&watcher->watches, watch, link);
		}
	}
	pthread_mutex_unlock(&watcher->lock);
	return r < 0 ? r : 0;
}

void dir_watch_end(struct dir_watcher *watcher, struct dir_watch *watch)
{
	pthread_mutex_lock(&watcher->lock);
	if (watch->wd >= 0) {
		LIST_REMOVE(watch, link);
		/* Others of the directory are told of this end, and may begin again. */
		inotify_rm_watch(watcher->inotify, watch->wd);
		watch->wd = -1;
	}
	pthread_mutex_unlock(&watcher->lock);
}
