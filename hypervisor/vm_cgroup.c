/*
 * A machine's own cgroup. The file "cgroup" in its directory names it from before it is made, so
 * whatever comes, it is found again and removed.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "hypervisor/internal.h"

#define PATH_BYTES_MAX 4096
#define PROC_BYTES_MAX 262144

static int read_path(const char *dir, char **ret, struct err *err)
{
	_cleanup_free_ char *file = str_printf("%s/cgroup", dir);

	if (!file)
		return err_nomem(err);
	return fd_read_file(file, PATH_BYTES_MAX, ret, NULL, err);
}

int vm_cgroup_make(
	const struct hv_vm *vm, const char *path, const struct hv_limits *limits, struct err *err)
{
	_cleanup_free_ char *file = str_printf("%s/cgroup", vm->dir);
	int r;

	if (!file)
		return err_nomem(err);
	r = fd_write_file(file, path, strlen(path), 0600, err);
	if (r == 0)
		r = cgroups_make(&vm->hv->cgroups, path, vm->hv->config.run_dir, err);
	return r < 0 ? r : cgroups_limit(&vm->hv->cgroups, path, limits, err);
}

/* Before its path a line of proc(5)'s may have what is above the hierarchy's mount. */
static bool names_cgroup(const char *line, size_t len, const char *path)
{
	size_t path_len = strlen(path);

	return len >= path_len && memcmp(line + len - path_len, path, path_len) == 0;
}

bool vm_cgroup_has(const struct hv *hv, const char *id, pid_t pid)
{
	_cleanup_free_ char *dir = hv_vm_dir(hv, id);
	_cleanup_free_ char *proc = str_printf("/proc/%d/cgroup", (int)pid);
	_cleanup_free_ char *path = NULL, *text = NULL;

	if (!dir || !proc || read_path(dir, &path, NULL) < 0 || path[0] != '/' ||
		fd_read_file(proc, PROC_BYTES_MAX, &text, NULL, NULL) < 0)
		return false;
	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
		if (names_cgroup(line, strcspn(line, "\n"), path))
			return true;
	return false;
}

/*
 * Before Linux 6.4 vhost's workers are threads of the kernel, one for each queue, which have been
 * in the cgroup of QEMU since it opened the device; later ones are threads of QEMU.
 */
int vm_cgroup_enter(struct hv_vm *vm, const struct cgroup_place *place, struct err *err)
{
	const struct hv *hv = vm->hv;
	int pid = hv_vm_pid(vm), r = cgroups_enter(place, pid, err);
	char name[32];

	if (r < 0 || (!hv->vhost_net && !vm->cid))
		return r;
	snprintf(name, sizeof(name), "vhost-%d", pid);
	cgroups_enter_kernel_threads(place, name);
	return 0;
}

int hv_vm_limit(struct hv_vm *vm, const struct hv_limits *limits, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	int r = read_path(vm->dir, &path, err);

	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : cgroups_limit(&vm->hv->cgroups, path, limits, err);
}

int hv_vm_pin(struct hv_vm *vm, const char *cpus, const char *mems, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	int r = read_path(vm->dir, &path, err);

	if (r == -ENOENT)
		return 0;
	return r < 0 ? r : cgroups_pin(&vm->hv->cgroups, path, cpus, mems, err);
}

int vm_cgroup_remove(const struct hv *hv, const char *dir, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	int r = read_path(dir, &path, err);

	/* Empty: the process died between making the file and writing it. */
	if (r == -ENOENT || (r == 0 && path[0] != '/'))
		return 0;
	return r < 0 ? r : cgroups_remove(&hv->cgroups, path, err);
}
