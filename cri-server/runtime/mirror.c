#include "cri-server/runtime/mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

#define CALL_MS  5000
#define RETRY_MS 1000
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
	int wd;
	bool dirty;
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

static int push(struct mirror *mirror, struct entry *entry, struct err *err)
{
	Bulkhead__Agent__WriteVolumeRequest *request;
	int r = mirror_read(entry->path, &request, err);
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

static void push_dirty(struct mirror *mirror)
{
	pthread_mutex_lock(&mirror->lock);
	for (struct entry *entry = mirror->entries; entry; entry = entry->next) {
		struct err err = ERR_INIT;
		if (!entry->dirty)
			continue;
		int r = push(mirror, entry, &err);
		/* What has grown too big stays as it was, until it changes again. */
		entry->dirty = r < 0 && r != -EFBIG;
		if (r < 0)
			log_event(mirror->sandbox->runtime->log, LOG_LEVEL_WARNING,
				"volume not updated in the guest", "pod", mirror->sandbox->id,
				"volume", entry->path, "err", err.msg, NULL);
	}
	pthread_mutex_unlock(&mirror->lock);
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
			/* An overflow tells of nothing and means all. */
			if (entry->wd == event->wd || (event->mask & IN_Q_OVERFLOW))
				entry->dirty = true;
		at += sizeof(*event) + event->len;
	}
	pthread_mutex_unlock(&mirror->lock);
	return true;
}

static bool any_dirty(struct mirror *mirror)
{
	bool dirty = false;
	pthread_mutex_lock(&mirror->lock);
	for (struct entry *entry = mirror->entries; entry && !dirty; entry = entry->next)
		dirty = entry->dirty;
	pthread_mutex_unlock(&mirror->lock);
	return dirty;
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
			{.fd = mirror->share, .events = POLLIN}};
		int n = poll(fds, ARRAY_SIZE(fds), any_dirty(mirror) ? RETRY_MS : -1);
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
	pthread_mutex_init(&mirror->lock, NULL);
	int r = 0;
	if (mirror->inotify < 0 || mirror->stop < 0)
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

/* The lock is held. */
static int watch(struct mirror *mirror, const char *name, const char *path,
	const struct userns_map *map, struct err *err)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return err_nomem(err);
	entry->name = strdup(name);
	entry->path = strdup(path);
	if (!entry->name || !entry->path) {
		entry_free(entry);
		return err_nomem(err);
	}
	entry->mapped = map;
	if (map)
		entry->map = *map;
	/* Before it is read, so that no change falls in between. */
	entry->wd = inotify_add_watch(mirror->inotify, path, EVENTS);
	int r = entry->wd < 0 ? err_errno(err, "watch %s", path) : push(mirror, entry, err);
	if (r < 0) {
		if (entry->wd >= 0)
			inotify_rm_watch(mirror->inotify, entry->wd);
		entry_free(entry);
		return r;
	}
	entry->next = mirror->entries;
	mirror->entries = entry;
	return 0;
}

int mirror_add(struct mirror *mirror, const char *name, const char *path,
	const struct userns_map *map, struct err *err)
{
	pthread_mutex_lock(&mirror->lock);
	int r = *find_entry(mirror, name) ? 0 : watch(mirror, name, path, map, err);
	pthread_mutex_unlock(&mirror->lock);
	return r;
}

void mirror_remove(struct mirror *mirror, const char *name)
{
	pthread_mutex_lock(&mirror->lock);
	struct entry **link = find_entry(mirror, name);
	struct entry *entry = *link;
	if (entry) {
		*link = entry->next;
		inotify_rm_watch(mirror->inotify, entry->wd);
		entry_free(entry);
	}
	pthread_mutex_unlock(&mirror->lock);
}
