#include "agent/devices.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/fd.h"

#define DEPTH_MAX 4

static const struct {
	const char *name;
	unsigned major;
	unsigned minor;
} nodes[] = {
	{"null", 1, 3},
	{"zero", 1, 5},
	{"full", 1, 7},
	{"random", 1, 8},
	{"urandom", 1, 9},
	{"tty", 5, 0},
};

static const struct {
	const char *name;
	const char *target;
} links[] = {
	{"ptmx", "pts/ptmx"},
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
};

static int copy_node(int from, int to, const char *name, struct err *err)
{
	struct stat st;
	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "examine %s", name);
	if (mknodat(to, name, st.st_mode, st.st_rdev) < 0 && errno != EEXIST)
		return err_errno(err, "make %s", name);
	return 0;
}

/* Nodes only: not links, and not what is a mount of its own (pts, shm, mqueue are made already). */
static int copy_nodes(int from, int to, int depth, struct err *err)
{
	int again = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = again < 0 ? NULL : fdopendir(again);
	if (!dir) {
		fd_close(again);
		return err_errno(err, "list the guest's /dev");
	}
	int r = 0;
	struct dirent *entry;
	while (r == 0 && (entry = readdir(dir))) {
		const char *name = entry->d_name;
		/* The guest's console is not for a container: its log is the host's. */
		if (strcmp(name, "console") == 0)
			continue;
		if (entry->d_type == DT_CHR || entry->d_type == DT_BLK) {
			r = copy_node(from, to, name, err);
			continue;
		}
		if (entry->d_type != DT_DIR || name[0] == '.' || depth == DEPTH_MAX)
			continue;
		/* What exists is a mount point of the container's. */
		if (mkdirat(to, name, 0755) < 0)
			continue;
		_cleanup_close_ int below_from =
			openat(from, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		_cleanup_close_ int below_to = openat(to, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (below_from < 0 || below_to < 0)
			r = err_errno(err, "open %s", name);
		else
			r = copy_nodes(below_from, below_to, depth + 1, err);
	}
	closedir(dir);
	return r;
}

int devices_make(int dev, bool guest_nodes, struct err *err)
{
	mode_t mask = umask(0);
	int r = 0;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(nodes); i++) {
		if (mknodat(dev, nodes[i].name, S_IFCHR | 0666,
			    makedev(nodes[i].major, nodes[i].minor)) < 0)
			r = err_errno(err, "make %s", nodes[i].name);
	}
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(links); i++) {
		if (symlinkat(links[i].target, dev, links[i].name) < 0)
			r = err_errno(err, "make %s", links[i].name);
	}
	if (r == 0 && guest_nodes) {
		_cleanup_close_ int guest = open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC);
		r = guest < 0 ? err_errno(err, "open the guest's /dev")
			      : copy_nodes(guest, dev, 0, err);
	}
	umask(mask);
	return r;
}
