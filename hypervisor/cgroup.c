#include "hypervisor/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "common/cpu_weight.h"
#include "common/fd.h"

#define MOUNTINFO_MAX  (8u << 20)
#define FILE_MAX_BYTES 65536
#define CHILDREN_MAX   (1u << 20)
#define REMOVE_TRIES   200 /* 10 ms apart */
#define OWNER_XATTR    "trusted.bulkhead"

/* Whether the word is in a list that commas or blanks separate. */
static bool has_word(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = list; *p; p += strspn(p, ", \n")) {
		size_t n = strcspn(p, ", \n");

		if (n == len && memcmp(p, word, len) == 0)
			return true;
		p += n;
	}
	return false;
}

/* "36 35 98:0 /root /mount rw,noatime master:1 - type source options": proc(5). */
struct mount_line {
	char device[24], mount[256], type[32], options[256];
};

static bool read_line(const char *text, struct mount_line *ret)
{
	const char *tail = strstr(text, " - ");

	*ret = (struct mount_line){0};
	return tail && sscanf(text, "%*s %*s %23s %*s %255s", ret->device, ret->mount) == 2 &&
	       sscanf(tail, " - %31s %*s %255s", ret->type, ret->options) >= 1;
}

/* Others mount them once more, below directories of their own, and may take that away again. */
static bool is_known(const struct cgroups *cgroups, const char *device)
{
	for (size_t i = 0; i < cgroups->n; i++)
		if (strcmp(cgroups->items[i].device, device) == 0)
			return true;
	return false;
}

static void add_hierarchy(struct cgroups *cgroups, const struct mount_line *line)
{
	struct cgroup_hierarchy *h = &cgroups->items[cgroups->n];
	_cleanup_free_ char *controllers = NULL;
	const char *options = line->options;

	if (cgroups->n == CGROUPS_MAX || is_known(cgroups, line->device) ||
		access(line->mount, W_OK) < 0)
		return;
	*h = (struct cgroup_hierarchy){.v2 = strcmp(line->type, "cgroup2") == 0};
	if (h->v2) {
		_cleanup_free_ char *file = str_printf("%s/cgroup.controllers", line->mount);

		if (!file || fd_read_file(file, FILE_MAX_BYTES, &controllers, NULL, NULL) < 0)
			return;
		options = controllers;
	} else if (has_word(options, "devices") || strstr(options, "name=")) {
		return;
	}
	h->memory = has_word(options, "memory");
	h->cpu = has_word(options, "cpu");
	h->cpuset = has_word(options, "cpuset");
	memcpy(h->device, line->device, sizeof(h->device));
	h->mount = strdup(line->mount);
	if (h->mount)
		cgroups->n++;
}

int cgroups_read(const char *mountinfo, struct cgroups *ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	char *rest = NULL;
	int r = fd_read_file(mountinfo, MOUNTINFO_MAX, &text, NULL, err);

	*ret = (struct cgroups){0};
	if (r < 0)
		return r;
	for (char *p = strtok_r(text, "\n", &rest); p; p = strtok_r(NULL, "\n", &rest)) {
		struct mount_line line;

		if (read_line(p, &line) && strncmp(line.type, "cgroup", 6) == 0)
			add_hierarchy(ret, &line);
	}
	return 0;
}

void cgroups_done(struct cgroups *cgroups)
{
	for (size_t i = 0; i < cgroups->n; i++)
		free(cgroups->items[i].mount);
	*cgroups = (struct cgroups){0};
}

static int write_text(const char *dir, const char *file, const char *text, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/%s", dir, file);
	_cleanup_close_ int fd = -EBADF;

	if (!path)
		return err_nomem(err);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return err_errno(err, "Write '%s' to %s", text, path);
	return 0;
}

static int write_number(const char *dir, const char *file, int64_t value, struct err *err)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, value);
	return write_text(dir, file, text, err);
}

static bool is_blank(const char *path)
{
	_cleanup_free_ char *text = NULL;

	return fd_read_file(path, FILE_MAX_BYTES, &text, NULL, NULL) == 0 &&
	       !text[strspn(text, "\n")];
}

/*
 * A v1 cpuset begins empty, and takes no process so: it gets what the one above it has. One that is
 * there already may have been made by another thread a moment ago, which has not come to this yet.
 */
static int inherit_cpuset(const char *parent, const char *dir, struct err *err)
{
	static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_free_ char *from = str_printf("%s/%s", parent, files[i]);
		_cleanup_free_ char *to = str_printf("%s/%s", dir, files[i]);
		_cleanup_free_ char *text = NULL;
		int r;

		if (!from || !to)
			return err_nomem(err);
		if (!is_blank(to))
			continue;
		r = fd_read_file(from, FILE_MAX_BYTES, &text, NULL, err);
		if (r == 0)
			r = write_text(dir, files[i], text, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* To those below. What cannot be given is missed when it is to be limited. */
static void give_controllers(const char *dir)
{
	static const char *const controllers[] = {"+io", "+cpu", "+pids", "+cpuset", "+memory"};

	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++)
		write_text(dir, "cgroup.subtree_control", controllers[i], NULL);
}

static int make_one(
	const struct cgroup_hierarchy *h, const char *parent, const char *dir, struct err *err)
{
	if (h->v2)
		give_controllers(parent);
	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return err_errno(err, "Make cgroup %s", dir);
	return h->cpuset && !h->v2 ? inherit_cpuset(parent, dir, err) : 0;
}

static int make_in(const struct cgroup_hierarchy *h, const char *path, struct err *err)
{
	_cleanup_free_ char *dir = str_printf("%s%s", h->mount, path);
	_cleanup_free_ char *parent = strdup(h->mount);
	int r = 0;

	if (!dir || !parent)
		return err_nomem(err);
	for (char *slash = dir + strlen(h->mount); slash && r == 0;) {
		slash = strchr(slash + 1, '/');
		if (slash)
			*slash = '\0';
		r = make_one(h, parent, dir, err);
		free(parent);
		parent = strdup(dir);
		if (!parent)
			return err_nomem(err);
		if (slash)
			*slash = '/';
	}
	return r;
}

/*
 * systemd, when it sets a slice anew, takes the controllers that no unit below asked for away from
 * what is there.
 */
static void give_again(const struct cgroup_hierarchy *h, const char *path)
{
	_cleanup_free_ char *dir = str_printf("%s%s", h->mount, path);

	for (char *slash = dir ? dir + strlen(h->mount) : NULL; slash;
		slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		give_controllers(dir);
		*slash = '/';
	}
}

static void note_owner(const struct cgroup_hierarchy *h, const char *path, const char *owner)
{
	_cleanup_free_ char *dir = str_printf("%s%s", h->mount, path);

	if (dir)
		setxattr(dir, OWNER_XATTR, owner, strlen(owner), 0);
}

bool cgroup_is_of(const char *dir, const char *owner)
{
	char noted[PATH_MAX];
	ssize_t n = lgetxattr(dir, OWNER_XATTR, noted, sizeof(noted));

	return n >= 0 && (size_t)n == strlen(owner) && memcmp(noted, owner, (size_t)n) == 0;
}

int cgroups_make(
	const struct cgroups *cgroups, const char *path, const char *owner, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < cgroups->n && r == 0; i++) {
		r = make_in(&cgroups->items[i], path, err);
		if (r == 0)
			note_owner(&cgroups->items[i], path, owner);
	}
	return r;
}

int cgroups_enter(const struct cgroup_place *place, pid_t pid, struct err *err)
{
	const struct cgroups *cgroups = place->cgroups;
	int r = 0;

	/* 0 is who writes it: we would end with the machine. */
	if (pid <= 0)
		return err_set(err, -ESRCH, "Enter cgroup %s: the process is gone", place->path);
	for (size_t i = 0; i < cgroups->n && r == 0; i++) {
		_cleanup_free_ char *dir = str_printf("%s%s", cgroups->items[i].mount, place->path);

		r = dir ? write_number(dir, "cgroup.procs", pid, err) : err_nomem(err);
	}
	return r;
}

static bool is_named(pid_t pid, const char *name)
{
	_cleanup_free_ char *comm = NULL;
	size_t len = strlen(name);
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	return fd_read_file(path, 64, &comm, NULL, NULL) == 0 && strncmp(comm, name, len) == 0 &&
	       strcmp(comm + len, "\n") == 0;
}

/* They are the children of kthreadd, which is process 2. */
void cgroups_enter_kernel_threads(const struct cgroup_place *place, const char *name)
{
	_cleanup_free_ char *text = NULL;
	char *rest = NULL;

	if (!is_named(2, "kthreadd") ||
		fd_read_file("/proc/2/task/2/children", CHILDREN_MAX, &text, NULL, NULL) < 0)
		return;
	for (char *p = strtok_r(text, " ", &rest); p; p = strtok_r(NULL, " ", &rest))
		if (is_named(atoi(p), name))
			cgroups_enter(place, atoi(p), NULL);
}

/* First without a quota: the old one in the new period may be more than what is above allows. */
static int limit_cpu_time_v1(const char *dir, const struct hv_limits *limits, struct err *err)
{
	int r = write_number(dir, "cpu.cfs_quota_us", -1, err);

	if (r == 0 && limits->cpu_period_us)
		r = write_number(dir, "cpu.cfs_period_us", (int64_t)limits->cpu_period_us, err);
	if (r < 0 || !limits->cpu_quota_us)
		return r;
	r = write_number(dir, "cpu.cfs_quota_us", (int64_t)limits->cpu_quota_us, err);
	/* One above allows less, which holds for this too. */
	return r == -EINVAL ? 0 : r;
}

static int limit_v1(const struct cgroup_hierarchy *h, const char *dir,
	const struct hv_limits *limits, struct err *err)
{
	int r = 0;

	if (h->memory && limits->memory_mib)
		r = write_number(
			dir, "memory.limit_in_bytes", (int64_t)(limits->memory_mib << 20), err);
	if (r == 0 && h->cpu && limits->cpu_shares)
		r = write_number(dir, "cpu.shares", (int64_t)limits->cpu_shares, err);
	return r == 0 && h->cpu ? limit_cpu_time_v1(dir, limits, err) : r;
}

static int limit_v2(const struct cgroup_hierarchy *h, const char *dir,
	const struct hv_limits *limits, struct err *err)
{
	char text[48], quota[24] = "max";
	int r = 0;

	if (h->memory && limits->memory_mib)
		r = write_number(dir, "memory.max", (int64_t)(limits->memory_mib << 20), err);
	if (r == 0 && h->cpu && limits->cpu_shares)
		r = write_number(
			dir, "cpu.weight", (int64_t)cpu_weight_of_shares(limits->cpu_shares), err);
	if (r < 0 || !h->cpu)
		return r;
	if (limits->cpu_quota_us)
		snprintf(quota, sizeof(quota), "%" PRIu64, limits->cpu_quota_us);
	snprintf(text, sizeof(text), "%s %" PRIu64, quota,
		limits->cpu_period_us ? limits->cpu_period_us : 100000);
	return write_text(dir, "cpu.max", text, err);
}

int cgroups_limit(const struct cgroups *cgroups, const char *path, const struct hv_limits *limits,
	struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < cgroups->n && r == 0; i++) {
		const struct cgroup_hierarchy *h = &cgroups->items[i];
		_cleanup_free_ char *dir = str_printf("%s%s", h->mount, path);

		if (!dir)
			return err_nomem(err);
		r = h->v2 ? limit_v2(h, dir, limits, err) : limit_v1(h, dir, limits, err);
		if (r == -ENOENT && h->v2) {
			give_again(h, path);
			r = limit_v2(h, dir, limits, err);
		}
	}
	return r;
}

/* An empty list is the one above's: in v2 by itself, in v1 it is no list. */
static int pin_one(const struct cgroup_hierarchy *h, const char *path, const char *file,
	const char *list, struct err *err)
{
	_cleanup_free_ char *dir = str_printf("%s%s", h->mount, path);
	_cleanup_free_ char *from = NULL, *above = NULL;
	int r;

	if (!dir)
		return err_nomem(err);
	if (*list || h->v2) {
		r = write_text(dir, file, *list ? list : "\n", err);
		/* Without the controller nothing was ever pinned there. */
		return r == -ENOENT && !*list ? 0 : r;
	}
	from = str_printf("%.*s/%s", (int)(strrchr(dir, '/') - dir), dir, file);
	if (!from)
		return err_nomem(err);
	r = fd_read_file(from, FILE_MAX_BYTES, &above, NULL, err);
	return r < 0 ? r : write_text(dir, file, above, err);
}

static int pin_in(const struct cgroup_hierarchy *h, const char *path, const char *cpus,
	const char *mems, struct err *err)
{
	int r = pin_one(h, path, "cpuset.cpus", cpus, err);

	return r < 0 ? r : pin_one(h, path, "cpuset.mems", mems, err);
}

int cgroups_pin(const struct cgroups *cgroups, const char *path, const char *cpus, const char *mems,
	struct err *err)
{
	bool known = !*cpus && !*mems;
	int r = 0;

	for (size_t i = 0; i < cgroups->n && r == 0; i++) {
		const struct cgroup_hierarchy *h = &cgroups->items[i];

		if (!h->cpuset)
			continue;
		known = true;
		r = pin_in(h, path, cpus, mems, err);
		if (r == -ENOENT && h->v2) {
			give_again(h, path);
			r = pin_in(h, path, cpus, mems, err);
		}
	}
	return known ? r : err_set(err, -EOPNOTSUPP, "the host has no cgroups of cpusets");
}

static void kill_all(const char *dir)
{
	_cleanup_free_ char *path = str_printf("%s/cgroup.procs", dir);
	_cleanup_free_ char *text = NULL;
	char *rest = NULL;

	if (!path || fd_read_file(path, FILE_MAX_BYTES, &text, NULL, NULL) < 0)
		return;
	for (char *p = strtok_r(text, "\n", &rest); p; p = strtok_r(NULL, "\n", &rest))
		if (atoi(p) > 1)
			kill(atoi(p), SIGKILL);
}

static int remove_one(const char *dir, struct err *err)
{
	for (int i = 0; i < REMOVE_TRIES; i++) {
		if (rmdir(dir) == 0 || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			break;
		kill_all(dir);
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	return err_errno(err, "Remove cgroup %s", dir);
}

int cgroups_remove(const struct cgroups *cgroups, const char *path, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < cgroups->n && r == 0; i++) {
		_cleanup_free_ char *dir = str_printf("%s%s", cgroups->items[i].mount, path);

		r = dir ? remove_one(dir, err) : err_nomem(err);
	}
	return r;
}
