#include "cri-server/runtime/mirror.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

#define CALL_MS 5000
#define RETRY_S 1
/* A start waits so long for a pod's volumes to be written; its thread goes on with the rest. */
#define RESUME_MS 5000
/* The kubelet's changes of one update come together. */
#define QUIET_MS       20
#define QUIET_PATIENCE 10
/* virtiofsd ends with its machine; when it ends alone, the machine is still there after this time.
 */
#define SHARE_GRACE_MS 1000

struct entry {
	struct mirror *mirror;
	char *name;
	char *path;
	struct dir_watch watch;
	atomic_bool changed; /* since it was read last */
	bool dirty;          /* it was not written since a change */
	bool failed;         /* the last time that it was written, which was logged */
	unsigned pass;       /* in which the thread looked at it last */
	bool mapped;         /* its ids, to `map` */
	struct userns_map map;
	struct entry *next;
};

struct mirror {
	struct sandbox *sandbox;
	struct machine *machine; /* a reference */
	pthread_t thread;
	int stop;
	int changed;          /* one of the entries was */
	int retry;            /* a timer: something is dirty still */
	int share;            /* a pidfd; negative once its end was told of */
	unsigned pass;        /* of the thread over the list */
	pthread_mutex_t lock; /* protects what follows; not held across a call to the agent */
	pthread_cond_t moved; /* `busy` changed */
	struct entry *entries;
	struct entry *busy; /* which the thread is writing; it stays until that is over */
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

static void unwatch(struct entry *entry)
{
	dir_watch_end(entry->mirror->sandbox->runtime->volume_watcher, &entry->watch);
	entry_free(entry);
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

/* Watches it from before it is read on, so that no change falls in between. */
static int push(struct mirror *mirror, struct entry *entry, struct err *err)
{
	Bulkhead__Agent__WriteVolumeRequest *request;
	int r = dir_watch_begin(
		mirror->sandbox->runtime->volume_watcher, &entry->watch, entry->path, err);
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

/* On the thread. */
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

static bool is_stopping(const struct mirror *mirror)
{
	struct pollfd stop = {.fd = mirror->stop, .events = POLLIN};
	return poll(&stop, 1, 0) > 0;
}

/* The next one of this pass, each of which is looked at once. The lock is held. */
static struct entry *take_dirty(struct mirror *mirror)
{
	for (struct entry *entry = mirror->entries; entry; entry = entry->next) {
		if (entry->pass == mirror->pass)
			continue;
		entry->pass = mirror->pass;
		if (atomic_exchange(&entry->changed, false) || entry->dirty)
			return entry;
	}
	return NULL;
}

/* A guest that does not answer holds up its pod's end for one call, however many volumes it has. */
static void push_dirty(struct mirror *mirror)
{
	struct entry *entry;
	pthread_mutex_lock(&mirror->lock);
	timerfd_settime(mirror->retry, 0, &(struct itimerspec){0}, NULL);
	mirror->pass++;
	while (!is_stopping(mirror) && (entry = take_dirty(mirror))) {
		mirror->busy = entry;
		pthread_mutex_unlock(&mirror->lock);
		push_or_log(mirror, entry);
		pthread_mutex_lock(&mirror->lock);
		mirror->busy = NULL;
		pthread_cond_broadcast(&mirror->moved);
	}
	pthread_mutex_unlock(&mirror->lock);
}

/* On the thread of the watcher. */
static void on_changed(void *userdata)
{
	struct entry *entry = userdata;
	const uint64_t one = 1;
	entry->changed = true;
	fd_write_all(entry->mirror->changed, &one, sizeof(one), NULL);
}

/* Whether something changed since it was asked last. */
static bool take_changes(struct mirror *mirror)
{
	uint64_t n;
	return read(mirror->changed, &n, sizeof(n)) == sizeof(n);
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
			{.fd = mirror->changed, .events = POLLIN},
			{.fd = mirror->share, .events = POLLIN},
			{.fd = mirror->retry, .events = POLLIN}};
		int n = poll(fds, ARRAY_SIZE(fds), -1);
		if (n < 0 && errno != EINTR)
			break;
		if (fds[0].revents)
			break;
		if (n > 0 && fds[2].revents)
			share_ended(mirror);
		for (int i = 0; i < QUIET_PATIENCE && take_changes(mirror); i++)
			poll(fds, 1, QUIET_MS);
		push_dirty(mirror);
	}
	return NULL;
}

/* Whose thread does not run. */
static void release(struct mirror *mirror)
{
	fd_close(mirror->stop);
	fd_close(mirror->changed);
	fd_close(mirror->retry);
	fd_close(mirror->share);
	pthread_cond_destroy(&mirror->moved);
	pthread_mutex_destroy(&mirror->lock);
	free(mirror);
}

int mirror_new(
	struct sandbox *sandbox, struct machine *machine, struct mirror **ret, struct err *err)
{
	struct mirror *mirror = calloc(1, sizeof(*mirror));
	if (!mirror)
		return err_nomem(err);
	mirror->sandbox = sandbox;
	mirror->share = -EBADF;
	mirror->stop = eventfd(0, EFD_CLOEXEC);
	mirror->changed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	mirror->retry = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	ev_cond_init(&mirror->moved);
	pthread_mutex_init(&mirror->lock, NULL);
	int r = 0;
	if (mirror->stop < 0 || mirror->changed < 0 || mirror->retry < 0)
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
	release(mirror);
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
		unwatch(entry);
	}
	machine_unref(mirror->machine);
	release(mirror);
	return NULL;
}

static struct entry **find_entry(struct mirror *mirror, const char *name)
{
	struct entry **link = &mirror->entries;
	while (*link && strcmp((*link)->name, name) != 0)
		link = &(*link)->next;
	return link;
}

static int entry_new(struct mirror *mirror, const char *name, const char *path,
	const struct userns_map *map, struct entry **ret, struct err *err)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return err_nomem(err);
	entry->mirror = mirror;
	entry->watch = (struct dir_watch)DIR_WATCH_INIT(on_changed, entry);
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

static void enter(struct mirror *mirror, struct entry *entry)
{
	pthread_mutex_lock(&mirror->lock);
	entry->next = mirror->entries;
	mirror->entries = entry;
	pthread_mutex_unlock(&mirror->lock);
}

int mirror_add(struct mirror *mirror, const char *name, const char *path,
	const struct userns_map *map, struct err *err)
{
	struct entry *entry = NULL;
	pthread_mutex_lock(&mirror->lock);
	bool known = *find_entry(mirror, name);
	pthread_mutex_unlock(&mirror->lock);
	int r = known ? 0 : entry_new(mirror, name, path, map, &entry, err);
	if (!entry)
		return r;
	/* Before the thread knows of it. */
	r = push(mirror, entry, err);
	if (r < 0) {
		unwatch(entry);
		return r;
	}
	enter(mirror, entry);
	/* What has changed in between. */
	if (entry->changed)
		on_changed(entry);
	return 0;
}

int mirror_resume(struct mirror *mirror, const char *name, const char *path,
	const struct userns_map *map, struct err *err)
{
	struct entry *entry;
	int r = entry_new(mirror, name, path, map, &entry, err);
	if (r < 0)
		return r;
	entry->changed = true;
	enter(mirror, entry);
	on_changed(entry);
	return 0;
}

/* The lock is held. */
static bool is_settled(const struct mirror *mirror)
{
	const struct entry *entry = mirror->entries;
	while (entry && !entry->changed)
		entry = entry->next;
	return !entry && !mirror->busy;
}

void mirror_settle(struct mirror *mirror)
{
	uint64_t until_ms = ev_now_ms() + RESUME_MS;
	int r = 0;
	pthread_mutex_lock(&mirror->lock);
	while (r == 0 && !is_settled(mirror))
		r = ev_cond_wait(&mirror->moved, &mirror->lock, until_ms);
	pthread_mutex_unlock(&mirror->lock);
}

void mirror_remove(struct mirror *mirror, const char *name)
{
	pthread_mutex_lock(&mirror->lock);
	struct entry **link = find_entry(mirror, name);
	struct entry *entry = *link;
	if (entry)
		*link = entry->next;
	while (entry && mirror->busy == entry)
		pthread_cond_wait(&mirror->moved, &mirror->lock);
	pthread_mutex_unlock(&mirror->lock);
	if (entry)
		unwatch(entry);
}
