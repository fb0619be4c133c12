#include "agent/implied.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/proto/layer.h"
#include "common/fd.h"

#define OPAQUE_XATTR "trusted.overlay.opaque"

/* What a layer says of a path. */
enum says {
	NOTHING,
	HIDES,   /* it has something else there or above, or hides what is below */
	IMPLIES, /* a directory without an entry */
	HAS,     /* a directory with one */
};

static int open_dir(int dir, const char *path)
{
	return fd_openat2(dir, *path ? path : ".", O_RDONLY | O_DIRECTORY,
		RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

static int open_layer(size_t i)
{
	char name[24];
	snprintf(name, sizeof(name), "%zu", i);
	return open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int implied_bits(int fd)
{
	char value;
	return fgetxattr(fd, LAYER_IMPLIED_XATTR, &value, 1) == 1 ? value - '0' : 0;
}

static bool is_opaque(int fd)
{
	char value;
	return fgetxattr(fd, OPAQUE_XATTR, &value, 1) == 1 && value == 'y';
}

/* `path` is changed on the way, and whole again at the end. */
static enum says ask(int layer, char *path)
{
	_cleanup_close_ int at = open_dir(layer, "");
	bool opaque = false;
	for (char *p = path; *p && at >= 0;) {
		size_t len = strcspn(p, "/");
		char end = p[len];
		opaque = opaque || is_opaque(at);
		p[len] = '\0';
		int next = openat(at, p, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		int why = errno;
		p[len] = end;
		fd_close(at);
		at = next;
		if (next < 0)
			return why == ENOENT && !opaque ? NOTHING : HIDES;
		p += len + (end == '/');
	}
	if (at < 0)
		return HIDES;
	if (!(implied_bits(at) & LAYER_IMPLIED))
		return HAS;
	return opaque ? HIDES : IMPLIES;
}

static bool of_the_image(const char *name)
{
	return strncmp(name, "trusted.", 8) != 0;
}

static int copy_xattrs(int from, int to, struct err *err)
{
	char names[4096], value[4096];
	ssize_t n = flistxattr(from, names, sizeof(names));
	for (ssize_t i = 0; i < n; i += (ssize_t)strlen(names + i) + 1) {
		if (!of_the_image(names + i))
			continue;
		ssize_t len = fgetxattr(from, names + i, value, sizeof(value));
		if (len < 0 || fsetxattr(to, names + i, value, (size_t)len, 0) < 0)
			return err_errno(err, "copy the attribute %s", names + i);
	}
	return 0;
}

static int copy_attributes(size_t layer, const char *path, int merged, struct err *err)
{
	struct stat st;
	_cleanup_close_ int source = open_layer(layer);
	_cleanup_close_ int from = open_dir(source, path);
	_cleanup_close_ int to = open_dir(merged, path);
	if (from < 0 || to < 0 || fstat(from, &st) < 0)
		return err_errno(err, "open it");
	const struct timespec times[] = {st.st_mtim, st.st_mtim};
	if (fchown(to, st.st_uid, st.st_gid) < 0 || fchmod(to, st.st_mode & 07777) < 0)
		return err_errno(err, "set its owner and mode");
	int r = copy_xattrs(from, to, err);
	if (r == 0 && futimens(to, times) < 0)
		r = err_errno(err, "set its time");
	return r;
}

/* Gives the directory what the layers below `from` say, unless one above has it. */
static int settle(size_t n_layers, bool implied, char *path, int merged, struct err *err)
{
	for (size_t i = n_layers; i-- > 0;) {
		_cleanup_close_ int layer = open_layer(i);
		if (layer < 0)
			return err_errno(err, "open layer %zu", i);
		enum says says = ask(layer, path);
		if (says == IMPLIES)
			implied = true;
		else if (says == HAS && implied)
			return copy_attributes(i, path, merged, err);
		else if (says != NOTHING)
			return 0;
	}
	return 0;
}

struct walk {
	size_t n_layers;
	int merged;
	char path[PATH_MAX]; /* from the root, without a slash at its beginning */
};

/* All below an open directory of a layer, whose path is w->path. Takes fd. */
static int walk(struct walk *w, int fd, struct err *err)
{
	DIR *dir = fdopendir(fd);
	struct dirent *entry;
	size_t len = strlen(w->path);
	int r = 0;
	if (!dir) {
		fd_close(fd);
		return err_errno(err, "read it");
	}
	while (r == 0 && (entry = readdir(dir))) {
		if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 ||
			strcmp(entry->d_name, "..") == 0)
			continue;
		int n = snprintf(w->path + len, sizeof(w->path) - len, "%s%s", len ? "/" : "",
			entry->d_name);
		_cleanup_close_ int below =
			openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (below < 0 || (size_t)n >= sizeof(w->path) - len) {
			r = err_errno(err, "open '%s'", entry->d_name);
			break;
		}
		int bits = implied_bits(below);
		if (bits & LAYER_IMPLIED)
			r = settle(w->n_layers, false, w->path, w->merged, err);
		if (r == 0 && (bits & LAYER_IMPLIED_BELOW))
			r = walk(w, TAKE_FD(below), err);
		if (r == 0)
			w->path[len] = '\0';
	}
	closedir(dir);
	return r;
}

int implied_settle(size_t n_layers, int merged, struct err *err)
{
	const struct timespec never[2] = {0};
	struct walk w = {.n_layers = n_layers, .merged = merged};
	/* The time of a root that no layer names; it is not the day's. */
	if (utimensat(merged, ".", never, 0) < 0)
		return err_errno(err, "set the root's time");
	int r = settle(n_layers, true, w.path, merged, err);
	for (size_t i = n_layers; r == 0 && i-- > 1;) {
		_cleanup_close_ int layer = open_layer(i);
		if (layer < 0)
			r = err_errno(err, "open layer %zu", i);
		else if (implied_bits(layer) & LAYER_IMPLIED_BELOW)
			r = walk(&w, TAKE_FD(layer), err);
	}
	return r < 0 ? err_wrap(err, "directory '/%s' of the image", w.path) : 0;
}
