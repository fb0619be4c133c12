#include "agent/devices.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/disk.h"
#include "agent/root_path.h"
#include "common/fd.h"

#define DEPTH_MAX       4
#define DISK_TIMEOUT_MS 10000

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

struct node {
	mode_t type;
	dev_t number;
};

static int find_node(const Bulkhead__Agent__Device *device, struct node *ret, struct err *err)
{
	char path[DISK_PATH_MAX];
	struct stat st;
	if (!device->disk) {
		*ret = (struct node){S_IFCHR, makedev(device->major, device->minor)};
		return 0;
	}
	int r = disk_wait(device->target, DISK_TIMEOUT_MS, path, err);
	if (r < 0)
		return r;
	if (stat(path, &st) < 0)
		return err_errno(err, "examine %s", path);
	*ret = (struct node){S_IFBLK, st.st_rdev};
	return 0;
}

static int make_node(int root, const Bulkhead__Agent__Device *device, const struct node *node,
	const struct ids *ids, struct err *err)
{
	const char *slash = strrchr(device->path, '/');
	const char *name = slash ? slash + 1 : device->path;
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return err_set(err, -EINVAL, "'%s' names no device", device->path);
	_cleanup_free_ char *above = str_printf("/%.*s", (int)(name - device->path), device->path);
	if (!above)
		return err_nomem(err);
	_cleanup_close_ int parent = root_make(root, above, true, err);
	if (parent < 0)
		return parent;
	if (unlinkat(parent, name, 0) < 0 && errno != ENOENT)
		return err_errno(err, "take the place of what is there");
	mode_t mask = umask(0);
	int r = mknodat(parent, name, node->type | (device->mode & 0777), node->number);
	umask(mask);
	if (r < 0 || fchownat(parent, name, ids_uid(ids, device->uid), ids_gid(ids, device->gid),
			     AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(err, "make the node");
	return 0;
}

int devices_add(int root, const Bulkhead__Agent__CreateContainerRequest *request,
	const struct ids *ids, struct device_rules *rules, struct err *err)
{
	if (request->n_devices > AGENT_DEVICES_MAX)
		return err_set(err, -EINVAL, "%zu devices, at most %d are possible",
			request->n_devices, AGENT_DEVICES_MAX);
	for (size_t i = 0; i < request->n_devices; i++) {
		const Bulkhead__Agent__Device *device = request->devices[i];
		struct node node;
		if (find_node(device, &node, err) < 0 ||
			make_node(root, device, &node, ids, err) < 0)
			return err_wrap(err, "device %s", device->path);
		rules->rules[i].type =
			node.type == S_IFBLK ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR;
		rules->rules[i].access = (device->read ? BPF_DEVCG_ACC_READ : 0) |
					 (device->write ? BPF_DEVCG_ACC_WRITE : 0) |
					 (device->make ? BPF_DEVCG_ACC_MKNOD : 0);
		rules->rules[i].major = major(node.number);
		rules->rules[i].minor = minor(node.number);
		rules->n++;
	}
	return 0;
}
