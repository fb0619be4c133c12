#include "cri-server/runtime/mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

#define CALL_MS 5000
#define RETRY_S 1
/* The kubelet's changes of one update come together. */
#define QUIET_MS       20
#define QUIET_PATIENCE 10
/* virtiofsd ends with its machine; when it ends alone, the machine is still there after this time.
 */
#define SHARE_GRACE_MS 1000

#define EVENTS                                                                                     \
	(IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_CLOSE_WRITE | IN_ATTRIB |        \
		IN_ONLYDIR)

struct entry {
	char *name;
	char *path;
	int wd; /* negative: its directory is not watched, or not any more */
	bool dirty;
	bool failed; /* the last time that it was written, which was logged */
	bool mapped; /* its ids, to `map` */
	struct userns_map map;
	struct entry *next;
};

struct mirror {
	struct sandbox *sandbox;
	struct machine *machine; /* a reference */
	pthread_t thread;
	int inotify;
	int stop;
	int retry;            /* a timer: something is dirty still */
	int share;            /* a pidfd; negative once its end was told of */
	pthread_mutex_t lock; /* protects the list, also across a call to the agent */
	struct entry *entries;
};

static struct entry *entry_free(struct entry *entry)
{
	if (entry) {
		free(entry->name);
		free(entry->path);
		free(entry);
	}
	return NULL;
}

static void map_ids(
	const struct userns_map *map, const Bulkhead__Agent__WriteVolumeRequest *request)
{
	for (size_t i = 0; i < request->n_entries; i++) {
		Bulkhead__Agent__VolumeEntry *entry = request->entries[i];
		entry->uid = userns_uid(map, entry->uid);
		entry->gid = userns_gid(map, entry->gid);
	}
}

/* By its name, which may be another directory's since, but leads over no link. */
static int watch(struct mirror *mirror, struct entry *entry, struct err *err)
{
	char own[32];
	_cleanup_close_ int fd = fd_open_no_links(entry->path, O_PATH | O_DIRECTORY, err);
	if (fd < 0)
		return fd;
	snprintf(own, sizeof(own), "/proc/self/fd/%d", fd);
	entry->wd = inotify_add_watch(mirror->inotify, own, EVENTS);
	return entry->wd < 0 ? err_errno(err, "watch %s", entry->path) : 0;
}

/* Watches it from before it is read on, so that no change falls in between. The lock is held. */
static int push(struct mirror *mirror, struct entry *entry, struct err *err)
{
	Bulkhead__Agent__WriteVolumeRequest *request;
	int r = entry->wd < 0 ? watch(mirror, entry, err) : 0;
	if (r < 0)
		return r;
	r = mirror_read(entry->path, &request, err);
	if (r < 0)
		return r;
	if (entry->mapped)
		map_ids(&entry->map, request);
	r = message_set_string(&request->name, entry->name, err);
	if (r == 0)
		r = agent_call(
			mirror->machine->agent, "WriteVolume", &request->base, CALL_MS, NULL, err);
	bulkhead__agent__write_volume_request__free_unpacked(request, NULL);
	return r;
}

/* The lock is held. */
static void push_or_log(struct mirror *mirror, struct entry *entry)
{
	struct err err = ERR_INIT;
	int r = push(mirror, entry, &err);
	/* What has grown too big stays as it was, until it changes again. */
	entry->dirty = r < 0 && r != -EFBIG;
	if (r < 0 && !entry->failed)
		log_event(mirror->sandbox->runtime->log, LOG_LEVEL_WARNING,
			"volume not updated in the guest", "pod", mirror->sandbox->id, "volume",
			entry->path, "err", err.msg, NULL);
	entry->failed = r < 0;
	if (entry->dirty)
		timerfd_settime(
			mirror->retry, 0, &(struct itimerspec){.it_value.tv_sec = RETRY_S}, NULL);
}

static void push_dirty(struct mirror *mirror)
{
	pthread_mutex_lock(&mirror->lock);
	timerfd_settime(mirror->retry, 0, &(struct itimerspec){0}, NULL);
	for (struct entry *entry = mirror->entries; entry; entry = entry->next)
		if (entry->dirty)
			push_or_log(mirror, entry);
	pthread_mutex_unlock(&mirror->lock);
}

static void note(struct entry *entry, const struct inotify_event *event)
{
	/* An overflow tells of nothing and means all. */
	if (entry->wd != event->wd && !(event->mask & IN_Q_OVERFLOW))
		return;
	entry->dirty = true;
	if (event->mask & IN_IGNORED)
		entry->wd = -1;
}

/* Reads what there is of events; false when there was nothing. */
static bool take_events(struct mirror *mirror)
{
	char buffer[16 * (sizeof(struct inotify_event) + NAME_MAX + 1)]
		__attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n = read(mirror->inotify, buffer, sizeof(buffer));
	if (n <= 0)
		return false;
	pthread_mutex_lock(&mirror->lock);
	for (char *at = buffer; at < buffer + n;) {
		const struct inotify_event *event = (const void *)at;
		for (struct entry *entry = mirror->entries; entry; entry = entry->next)
			note(entry, event);
		at += sizeof(*event) + event->len;
	}
	pthread_mutex_unlock(&mirror->lock);
	return true;
}

static void share_ended(struct mirror *mirror)
{
	struct pollfd stop = {.fd = mirror->stop, .events = POLLIN};
	mirror->share = fd_close(mirror->share);
	if (poll(&stop, 1, SHARE_GRACE_MS) == 0)
		sandbox_report_death(mirror->sandbox->runtime, mirror->sandbox->id,
			"virtiofsd, which serves the pod's volumes, ended");
}

static void *mirror_main(void *arg)
{
	struct mirror *mirror = arg;
	for (;;) {
		struct pollfd fds[] = {{.fd = mirror->stop, .events = POLLIN},
			{.fd = mirror->inotify, .events = POLLIN},
			{.fd = mirror->share, .events = POLLIN},
			{.fd = mirror->retry, .events = POLLIN}};
		int n = poll(fds, ARRAY_SIZE(fds), -1);
		if (n < 0 && errno != EINTR)
			break;
		if (fds[0].revents)
			break;
		if (n > 0 && fds[2].revents)
			share_ended(mirror);
		for (int i = 0; i < QUIET_PATIENCE && take_events(mirror); i++)
			poll(fds, 1, QUIET_MS);
		push_dirty(mirror);
	}
	return NULL;
}

int mirror_new(
	struct sandbox *sandbox, struct machine *machine, struct mirror **ret, struct err *err)
{
	struct mirror *mirror = calloc(1, sizeof(*mirror));
	if (!mirror)
		return err_nomem(err);
	mirror->sandbox = sandbox;
	mirror->share = -EBADF;
	mirror->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	mirror->stop = eventfd(0, EFD_CLOEXEC);
	mirror->retry = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	pthread_mutex_init(&mirror->lock, NULL);
	int r = 0;
	if (mirror->inotify < 0 || mirror->stop < 0 || mirror->retry < 0)
		r = err_errno(err, "watch the pod's volumes");
	if (r == 0)
		r = hv_vm_share_pidfd(machine->vm, &mirror->share, err);
	if (r == 0) {
		int code = pthread_create(&mirror->thread, NULL, mirror_main, mirror);
		if (code)
			r = err_set(err, -code, "start a thread: %s", strerror(code));
	}
	if (r == 0) {
		mirror->machine = machine_ref(machine);
		*ret = mirror;
		return 0;
	}
	fd_close(mirror->inotify);
	fd_close(mirror->stop);
	fd_close(mirror->retry);
	fd_close(mirror->share);
	pthread_mutex_destroy(&mirror->lock);
	free(mirror);
	return r;
}

struct mirror *mirror_free(struct mirror *mirror)
{
	if (!mirror)
		return NULL;
	const uint64_t one = 1;
	fd_write_all(mirror->stop, &one, sizeof(one), NULL);
	pthread_join(mirror->thread, NULL);
	for (struct entry *entry; (entry = mirror->entries);) {
		mirror->entries = entry->next;
		entry_free(entry);
	}
	fd_close(mirror->inotify);
	fd_close(mirror->stop);
	fd_close(mirror->retry);
	fd_close(mirror->share);
	pthread_mutex_destroy(&mirror->lock);
	machine_unref(mirror->machine);
	free(mirror);
	return NULL;
}

static struct entry **find_entry(struct mirror *mirror, const char *name)
{
	struct entry **link = &mirror->entries;
	while (*link && strcmp((*link)->name, name) != 0)
		link = &(*link)->next;
	return link;
}

static int entry_new(const char *name, const char *path, const struct userns_map *map,
	struct entry **ret, struct err *err)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return err_nomem(err);
	entry->wd = -1;
	entry->name = strdup(name);
	entry->path = strdup(path);
	if (!entry->name || !entry->path) {
		entry_free(entry);
		return err_nomem(err);
	}
	entry->mapped = map;
	if (map)
		entry->map = *map;
	*ret = entry;
	return 0;
}

/*
 * One directory has one watch, though two volumes show it that differ in their ids: the other is
 * told of the watch's end, and is watched anew.
 */
static void unwatch(struct mirror *mirror, struct entry *entry)
{
	if (entry->wd >= 0)
		inotify_rm_watch(mirror->inotify, entry->wd);
	entry_free(entry);
}

/* The lock is held. */
static void enter(struct mirror *mirror, struct entry *entry)
{
	entry->next = mirror->entries;
	mirror->entries = entry;
}

int mirror_add(struct mirror *mirror, const char *name, const char *path,
	const struct userns_map *map, struct err *err)
{
	pthread_mutex_lock(&mirror->lock);
	struct entry *entry = NULL;
	int r = *find_entry(mirror, name) ? 0 : entry_new(name, path, map, &entry, err);
	if (entry)
		r = push(mirror, entry, err);
	if (entry && r < 0)
		unwatch(mirror, entry);
	else if (entry)
		enter(mirror, entry);
	pthread_mutex_unlock(&mirror->lock);
	return r;
}

int mirror_resume(struct mirror *mirror, const char *name, const char *path,
	const struct userns_map *map, struct err *err)
{
	struct entry *entry;
	int r = entry_new(name, path, map, &entry, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&mirror->lock);
	enter(mirror, entry);
	push_or_log(mirror, entry);
	pthread_mutex_unlock(&mirror->lock);
	return 0;
}

void mirror_remove(struct mirror *mirror, const char *name)
{
	pthread_mutex_lock(&mirror->lock);
	struct entry **link = find_entry(mirror, name);
	struct entry *entry = *link;
	if (entry) {
		*link = entry->next;
		unwatch(mirror, entry);
	}
	pthread_mutex_unlock(&mirror->lock);
}
