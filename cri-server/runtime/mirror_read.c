/*
 * Reads the tree of a mirrored volume.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/message.h"
#include "cri-server/runtime/mirror.h"

#define DEPTH_MAX 16

struct reading {
	Bulkhead__Agent__WriteVolumeRequest *request;
	size_t bytes;
	const char *path; /* for messages */
};

static int too_big(const struct reading *reading, struct err *err)
{
	return err_set(err, -EFBIG, "%s holds more than %u files or %u MiB", reading->path,
		MIRROR_ENTRIES_MAX, MIRROR_BYTES_MAX >> 20);
}

static int add_entry(struct reading *reading, const char *path, const struct stat *st,
	Bulkhead__Agent__VolumeEntry **ret, struct err *err)
{
	Bulkhead__Agent__WriteVolumeRequest *request = reading->request;
	/* What the message itself takes counts too, or its bound would be met by names alone. */
	reading->bytes += strlen(path) + 64;
	if (request->n_entries >= MIRROR_ENTRIES_MAX || reading->bytes > MIRROR_BYTES_MAX)
		return too_big(reading, err);
	Bulkhead__Agent__VolumeEntry **entries =
		realloc(request->entries, (request->n_entries + 1) * sizeof(*entries));
	if (!entries)
		return err_nomem(err);
	request->entries = entries;
	Bulkhead__Agent__VolumeEntry *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return err_nomem(err);
	bulkhead__agent__volume_entry__init(entry);
	entries[request->n_entries++] = entry;
	entry->mode = st->st_mode;
	entry->uid = st->st_uid;
	entry->gid = st->st_gid;
	*ret = entry;
	return message_set_string(&entry->path, path, err);
}

/* 0; positive 1: it vanished. */
static int read_file(struct reading *reading, int parent, const char *name,
	Bulkhead__Agent__VolumeEntry *entry, struct err *err)
{
	_cleanup_close_ int fd =
		openat(parent, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return errno == ENOENT ? 1
				       : err_errno(err, "open %s/%s", reading->path, entry->path);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > MIRROR_BYTES_MAX - reading->bytes)
		return too_big(reading, err);
	size_t size = (size_t)st.st_size;
	entry->data.data = malloc(size ? size : 1);
	if (!entry->data.data)
		return err_nomem(err);
	while (entry->data.len < size) {
		ssize_t n = read(fd, entry->data.data + entry->data.len, size - entry->data.len);
		if (n < 0)
			return err_errno(err, "read %s/%s", reading->path, entry->path);
		if (n == 0)
			break; /* it shrank; another event follows */
		entry->data.len += (size_t)n;
	}
	reading->bytes += entry->data.len;
	return 0;
}

static int read_link(struct reading *reading, int parent, const char *name,
	Bulkhead__Agent__VolumeEntry *entry, struct err *err)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(parent, name, target, sizeof(target) - 1);
	if (n < 0)
		return errno == ENOENT ? 1
				       : err_errno(err, "read %s/%s", reading->path, entry->path);
	target[n] = '\0';
	reading->bytes += (size_t)n;
	return message_set_string(&entry->target, target, err);
}

static int read_directory(
	struct reading *reading, int directory, const char *path, unsigned levels, struct err *err);

static int read_entry(struct reading *reading, int parent, const char *path, const char *name,
	unsigned levels, struct err *err)
{
	struct stat st;
	if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "examine %s/%s", reading->path, path);
	if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
		return 0; /* nothing that a kubelet puts there */
	Bulkhead__Agent__VolumeEntry *entry;
	int r = add_entry(reading, path, &st, &entry, err);
	if (r < 0)
		return r;
	if (S_ISDIR(st.st_mode)) {
		int below = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (levels == 0)
			r = too_big(reading, err);
		else if (below >= 0)
			return read_directory(reading, below, path, levels - 1, err);
		else
			r = errno == ENOENT ? 1 : err_errno(err, "open %s", path);
		fd_close(below);
	} else if (S_ISREG(st.st_mode)) {
		r = read_file(reading, parent, name, entry, err);
	} else {
		r = read_link(reading, parent, name, entry, err);
	}
	if (r > 0)
		bulkhead__agent__volume_entry__free_unpacked(
			reading->request->entries[--reading->request->n_entries], NULL);
	return r < 0 ? r : 0;
}

/* Takes the descriptor. */
static int read_directory(
	struct reading *reading, int directory, const char *path, unsigned levels, struct err *err)
{
	DIR *dir = fdopendir(directory);
	int r = 0;
	if (!dir) {
		fd_close(directory);
		return err_errno(err, "list %s/%s", reading->path, path);
	}
	for (struct dirent *e; r == 0 && (e = readdir(dir));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		_cleanup_free_ char *own =
			str_printf("%s%s%s", path, path[0] ? "/" : "", e->d_name);
		r = own ? read_entry(reading, directory, own, e->d_name, levels, err)
			: err_nomem(err);
	}
	closedir(dir);
	return r;
}

int mirror_read(const char *path, Bulkhead__Agent__WriteVolumeRequest **ret, struct err *err)
{
	int top = fd_open_no_links(path, O_RDONLY | O_DIRECTORY, err);
	if (top < 0)
		return top;
	struct reading reading = {.request = calloc(1, sizeof(*reading.request)), .path = path};
	if (!reading.request) {
		fd_close(top);
		return err_nomem(err);
	}
	bulkhead__agent__write_volume_request__init(reading.request);
	int r = read_directory(&reading, top, "", DEPTH_MAX, err);
	if (r < 0)
		bulkhead__agent__write_volume_request__free_unpacked(reading.request, NULL);
	else
		*ret = reading.request;
	return r;
}
