/* What the kernel has of machines: processes, cgroups, namespaces and taps. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <net/if.h>
#include <openssl/evp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "common/fd.h"
#include "cri-server/fsck/internal.h"
#include "hypervisor/cgroup.h"

#define COMMAND_LINE_MAX (1u << 20)
#define CGROUP_DEPTH     16

/* ---- processes ---- */

/* As the kernel cuts their names off. */
static const char *const process_names[FSCK_PROCESSES] = {
	[FSCK_QEMU] = "qemu-system-x86\n",
	[FSCK_CONSOLE] = "bulkhead-consol\n",
	[FSCK_VSOCK] = "bulkhead-vsock\n",
	[FSCK_VIRTIOFSD] = "virtiofsd\n",
};

static int process_kind(const char *pid)
{
	_cleanup_free_ char *path = str_printf("/proc/%s/comm", pid);
	_cleanup_free_ char *name = NULL;
	if (!path || fd_read_file(path, 64, &name, NULL, NULL) < 0)
		return -1;
	for (int i = 0; i < FSCK_PROCESSES; i++)
		if (strcmp(name, process_names[i]) == 0)
			return i;
	return -1;
}

/* Where the path begins that is no part of a longer one, as of another bulkheadd's directory. */
static const char *find_path(const char *line, size_t len, const char *path)
{
	static const char within[] = "/._-";
	const char *end = line + len, *at = line;
	while ((at = memmem(at, (size_t)(end - at), path, strlen(path)))) {
		if (at == line || (!isalnum((unsigned char)at[-1]) &&
					  !memchr(within, at[-1], strlen(within))))
			return at;
		at++;
	}
	return NULL;
}

/* The id of the machine whose directory the process was told of; one that ended has no arguments.
 * *ret_cid: the guest's address where the kernel's device carries it, else 0. */
static bool machine_of(
	const struct fsck *fsck, const char *pid, char id[FSCK_ID_LEN + 1], uint32_t *ret_cid)
{
	static const char cid[] = "guest-cid";
	_cleanup_free_ char *path = str_printf("/proc/%s/cmdline", pid);
	_cleanup_free_ char *dir = str_printf("%s/vm/", fsck->config->run_dir);
	_cleanup_free_ char *line = NULL;
	size_t len;
	if (!path || !dir || fd_read_file(path, COMMAND_LINE_MAX, &line, &len, NULL) < 0)
		return false;
	const char *at = memmem(line, len, cid, strlen(cid));
	*ret_cid = at ? (uint32_t)strtoul(at + strcspn(at, "0123456789"), NULL, 10) : 0;
	at = find_path(line, len, dir);
	return at && fsck_id_in(at + strlen(dir), id);
}

static void look_at_process(struct fsck *fsck, const char *pid, void *userdata)
{
	char id[FSCK_ID_LEN + 1];
	uint32_t cid;
	(void)userdata;
	if (strspn(pid, "0123456789") != strlen(pid))
		return;
	int kind = process_kind(pid);
	if (kind < 0 || !machine_of(fsck, pid, id, &cid))
		return;
	struct fsck_record *pod = fsck_record(fsck, STORE_SANDBOX, id);
	_cleanup_free_ char *who = str_printf(
		"%.*s %s", (int)strlen(process_names[kind]) - 1, process_names[kind], pid);
	if (pod)
		pod->processes[kind]++;
	if (pod && kind == FSCK_QEMU)
		pod->cid = cid;
	if (!pod)
		fsck_find(fsck, FSCK_KINDS, who ? who : pid,
			"process of the machine of pod %s, which has no record", id);
	else if (!fsck_allows(pod, FSCK_MACHINE))
		fsck_find(fsck, STORE_SANDBOX, pod->id, "does not run, and its process %s does",
			who ? who : pid);
}

/* The vsock device's program is there where the kernel has no such device. A pod lives without its
 * console's keeper, whose end costs what its guest's kernel says from then on. */
static bool needs_process(const struct fsck *fsck, const struct fsck_record *pod, int kind)
{
	if (kind != FSCK_VSOCK)
		return kind != FSCK_CONSOLE;
	_cleanup_free_ char *path =
		str_printf("%s/vm/%s/vsock.pid", fsck->config->run_dir, pod->id);
	struct stat st;
	return path && stat(path, &st) == 0;
}

int fsck_processes(struct fsck *fsck, struct err *err)
{
	int r = fsck_each_entry(fsck, "/proc", look_at_process, NULL, err);
	for (size_t i = 0; i < fsck->report->n[STORE_SANDBOX] && r == 0; i++) {
		const struct fsck_record *pod = &fsck->records[STORE_SANDBOX][i];
		for (int kind = 0; kind < FSCK_PROCESSES && fsck_pod_runs(pod); kind++) {
			int len = (int)strlen(process_names[kind]) - 1;
			if (!pod->processes[kind] && needs_process(fsck, pod, kind))
				fsck_find(fsck, STORE_SANDBOX, pod->id,
					"is recorded as running, and has no process %.*s", len,
					process_names[kind]);
		}
		if (pod->processes[FSCK_QEMU] > 1)
			fsck_find(fsck, STORE_SANDBOX, pod->id, "has %u machines",
				pod->processes[FSCK_QEMU]);
	}
	return r;
}

/* ---- cgroups ---- */

const char *fsck_libvirt_root(const struct config *config)
{
	static const char prefix[] = "qemu:///embed?root=";
	const char *uri = config->hypervisor.libvirt_uri;
	return strncmp(uri, prefix, strlen(prefix)) == 0 ? uri + strlen(prefix) : NULL;
}

/* What the names of our machines' cgroups begin with: the driver's are told apart by a digest. */
static void group_prefix(const struct fsck *fsck, char prefix[32])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	const char *root = fsck_libvirt_root(fsck->config);
	snprintf(prefix, 32, "qemu-");
	if (root && EVP_Digest(root, strlen(root), digest, NULL, EVP_sha256(), NULL) == 1)
		snprintf(prefix, 32, "qemu-embed-%02x%02x%02x%02x-", digest[0], digest[1],
			digest[2], digest[3]);
}

struct groups {
	const char *path;
	const char *prefix;
	unsigned depth;
};

/* libvirt's filter of devices, and the machine's own below the pod's, which may be anybody's. */
static const char *id_in_name(const char *name)
{
	const char *libvirt = strstr(name, "-bh-");
	if (libvirt)
		return libvirt + strlen("-bh-");
	return strncmp(name, "bulkhead-", 9) == 0 ? name + 9 : NULL;
}

static void look_at_group(struct fsck *fsck, const char *name, void *userdata)
{
	const struct groups *above = userdata;
	_cleanup_free_ char *path = str_printf("%s/%s", above->path, name);
	const char *machine = id_in_name(name);
	char id[FSCK_ID_LEN + 1];
	struct stat st;
	if (!path || above->depth == 0 || lstat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return;
	if (!machine || !fsck_id_in(machine, id)) {
		struct groups here = {path, above->prefix, above->depth - 1};
		fsck_each_entry(fsck, path, look_at_group, &here, NULL);
		return;
	}
	const struct fsck_record *pod = fsck_record(fsck, STORE_SANDBOX, id);
	bool ours = (fsck_libvirt_root(fsck->config) &&
			    strncmp(name, above->prefix, strlen(above->prefix)) == 0) ||
		    cgroup_is_of(path, fsck->config->run_dir);
	if (!pod && ours)
		fsck_find(fsck, FSCK_KINDS, path, "cgroup of a pod that has no record");
	else if (pod && !fsck_allows(pod, FSCK_MACHINE))
		fsck_find(fsck, STORE_SANDBOX, pod->id, "does not run, and still has its cgroup %s",
			path);
}

int fsck_cgroups(struct fsck *fsck, struct err *err)
{
	char prefix[32];
	group_prefix(fsck, prefix);
	struct groups top = {"/sys/fs/cgroup", prefix, CGROUP_DEPTH};
	return fsck_each_entry(fsck, top.path, look_at_group, &top, err);
}

/* ---- namespaces ---- */

static bool has_tap_inside(int netns, int own)
{
	if (setns(netns, CLONE_NEWNET) < 0)
		return false;
	bool found = if_nametoindex("tap0") > 0;
	if (setns(own, CLONE_NEWNET) < 0)
		abort(); /* nothing that follows would be true */
	return found;
}

static void look_at_network(struct fsck *fsck, const struct fsck_record *pod, int own)
{
	_cleanup_free_ char *path = str_printf("%s/netns/bh-%s", fsck->config->run_dir, pod->id);
	char tap[IFNAMSIZ];
	struct statfs fs;
	if (!path) {
		fsck->failure = -ENOMEM;
		return;
	}
	_cleanup_close_ int netns = open(path, O_RDONLY | O_CLOEXEC);
	if (netns < 0)
		return; /* its place was found empty */
	if (fstatfs(netns, &fs) < 0 || fs.f_type != NSFS_MAGIC) {
		fsck_find(fsck, STORE_SANDBOX, pod->id, "%s is no namespace", path);
		return;
	}
	if (!has_tap_inside(netns, own))
		fsck_find(fsck, STORE_SANDBOX, pod->id, "its machine has no tap in %s", path);
	snprintf(tap, sizeof(tap), "bh%.10s0", pod->id);
	if (if_nametoindex(tap) > 0)
		fsck_find(fsck, STORE_SANDBOX, pod->id, "its tap %s is not in its namespace", tap);
}

int fsck_networks(struct fsck *fsck, struct err *err)
{
	_cleanup_close_ int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (own < 0)
		return err_errno(err, "open /proc/self/ns/net");
	for (size_t i = 0; i < fsck->report->n[STORE_SANDBOX]; i++)
		if (fsck_pod_runs(&fsck->records[STORE_SANDBOX][i]))
			look_at_network(fsck, &fsck->records[STORE_SANDBOX][i], own);
	return 0;
}
