/*
 * Finding machines by id, and ending them with all they have on the host.
 */
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <glob.h>
#include <libvirt/virterror.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/domain_xml.h"
#include "hypervisor/helper.h"
#include "hypervisor/internal.h"
#include "hypervisor/share.h"

/*
 * The last event of a machine that we ended takes a millisecond, on a busy host longer. One that
 * came after this would be taken for the end of a machine that was made anew with the same id.
 */
#define EVENT_TIMEOUT_MS 10000

/* 1 or 0; an error where libvirt cannot tell. */
static int is_ours(const struct hv *hv, virDomainPtr domain, struct err *err)
{
	_cleanup_free_ char *metadata =
		virDomainGetMetadata(domain, VIR_DOMAIN_METADATA_ELEMENT, DOMAIN_XML_NAMESPACE, 0);
	int code = metadata ? VIR_ERR_OK : virGetLastErrorCode();

	if (!metadata && code != VIR_ERR_NO_DOMAIN_METADATA && code != VIR_ERR_NO_DOMAIN)
		return hv_fail(err, "Ask whose machine %s is", virDomainGetName(domain));
	return metadata && domain_xml_is_ours(metadata, hv->config.run_dir);
}

int hv_is_active(virDomainPtr domain, const char *id, struct err *err)
{
	int active = virDomainIsActive(domain);

	if (active >= 0)
		return active;
	/* One that has ended is forgotten. */
	return virGetLastErrorCode() == VIR_ERR_NO_DOMAIN
		       ? 0
		       : hv_fail(err, "Ask whether machine %s runs", id);
}

int hv_lookup(struct hv *hv, const char *id, virDomainPtr *ret, struct err *err)
{
	_cleanup_free_ char *name = str_printf("bh-%s", id);
	_cleanup_domain_ virDomainPtr domain = NULL;
	int r;

	if (!name)
		return err_nomem(err);
	domain = virDomainLookupByName(hv->connection, name);
	if (!domain)
		return virGetLastErrorCode() == VIR_ERR_NO_DOMAIN
			       ? 1
			       : hv_fail(err, "Look for machine %s", id);
	r = is_ours(hv, domain, err);
	if (r > 0)
		r = hv_is_active(domain, id, err);
	if (r <= 0)
		return r < 0 ? r : 1;
	*ret = TAKE_PTR(domain);
	return 0;
}

/*
 * By its arguments, until it is in the machine's cgroup; from then on by that: one that its guest
 * has taken over may write over its arguments.
 */
static bool is_qemu_of(const struct hv *hv, const char *id, pid_t pid)
{
	_cleanup_free_ char *mark = str_printf("guest=bh-%s,", id);
	_cleanup_free_ char *path = str_printf("/proc/%d/cmdline", (int)pid);
	_cleanup_free_ char *command = NULL;
	size_t len;

	if (mark && path && fd_read_file(path, 1 << 20, &command, &len, NULL) == 0 &&
		memmem(command, len, mark, strlen(mark)))
		return true;
	return vm_cgroup_has(hv, id, pid);
}

int hv_open_qemu(const struct hv *hv, const char *id, int *ret_pid)
{
	_cleanup_free_ char *path = str_printf("%s/bh-%s.pid", hv->state_dir, id);
	_cleanup_free_ char *text = NULL;
	_cleanup_close_ int pidfd = -EBADF;
	int pid;

	if (!path || fd_read_file(path, 32, &text, NULL, NULL) < 0)
		return -ESRCH;
	pid = atoi(text);
	if (pid <= 1)
		return -ESRCH;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	/* Looked at after the pidfd was opened: a process that took over a dead QEMU's id is told
	 * apart. */
	if (pidfd < 0 || !is_qemu_of(hv, id, pid))
		return -ESRCH;
	*ret_pid = pid;
	return TAKE_FD(pidfd);
}

static void begin_ending(struct hv *hv, struct hv_ending *ending)
{
	pthread_mutex_lock(&hv->lock);
	ending->next = hv->endings;
	hv->endings = ending;
	pthread_mutex_unlock(&hv->lock);
}

static void finish_ending(struct hv *hv, struct hv_ending *ending, bool wait)
{
	uint64_t until = ev_now_ms() + EVENT_TIMEOUT_MS;
	struct hv_ending **link;

	pthread_mutex_lock(&hv->lock);
	while (wait && !ending->gone)
		if (hv_wait_changed(hv, until) != 0)
			break;
	for (link = &hv->endings; *link != ending;)
		link = &(*link)->next;
	*link = ending->next;
	pthread_mutex_unlock(&hv->lock);
}

/*
 * Kills QEMU first: libvirt asks it to end with SIGTERM and looks again every 200 ms. What the
 * guest had to save was saved when its agent was asked to end.
 */
static int end_domain(struct hv *hv, const char *id, virDomainPtr domain, struct err *err)
{
	_cleanup_close_ int pidfd = -EBADF;
	int pid, r;

	pidfd = hv_open_qemu(hv, id, &pid);
	if (pidfd >= 0)
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	r = virDomainDestroy(domain) < 0 ? hv_fail(err, "Destroy machine %s", id) : 0;
	/* It may have ended by itself. */
	return r < 0 && hv_is_active(domain, id, NULL) == 0 ? 0 : r;
}

static int end_machine(struct hv *hv, const char *id, struct err *err)
{
	struct hv_ending ending = {.id = id};
	_cleanup_domain_ virDomainPtr domain = NULL;
	int r;

	begin_ending(hv, &ending);
	r = hv_lookup(hv, id, &domain, err);
	if (r == 0)
		r = end_domain(hv, id, domain, err);
	finish_ending(hv, &ending, domain && r == 0);
	return r < 0 ? r : 0;
}

static int remove_file(const char *dir, const char *id, const char *suffix, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/bh-%s%s", dir, id, suffix);

	if (!path)
		return err_nomem(err);
	if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR)
		return err_errno(err, "Remove %s", path);
	return 0;
}

/*
 * What libvirt leaves of a transient machine: the log always; the new copy of what it notes down of
 * one that ended before that was renamed; and QEMU's process id, which libvirt's child writes even
 * when its parent has died before it noted down that there is a process.
 */
static int remove_files(const struct hv *hv, const char *id, struct err *err)
{
	int r = remove_file(hv->log_dir, id, ".log", err);

	if (r == 0)
		r = remove_file(hv->state_dir, id, ".xml.new", err);
	return r < 0 ? r : remove_file(hv->state_dir, id, ".pid", err);
}

static int remove_group(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
	(void)st;
	(void)walk;
	/* A group's files go with it. */
	return kind == FTW_DP && rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

/*
 * The cgroups of a machine whose end libvirt saw only half, because its process died in the midst:
 * it does not remove them when it looks at the dead machine again. With systemd they are scopes,
 * and go by themselves.
 */
static int remove_cgroups(const char *id, struct err *err)
{
	_cleanup_free_ char *pattern =
		str_printf("/sys/fs/cgroup/{.,*}/machine/qemu*-bh-%s.libvirt-qemu", id);
	glob_t found;
	int r = 0;

	if (!pattern)
		return err_nomem(err);
	if (glob(pattern, GLOB_BRACE | GLOB_NOSORT, NULL, &found) != 0)
		return 0;
	for (size_t i = 0; i < found.gl_pathc && r == 0; i++)
		if (nftw(found.gl_pathv[i], remove_group, 8, FTW_DEPTH | FTW_PHYS) != 0)
			r = err_errno(err, "Remove cgroup %s", found.gl_pathv[i]);
	globfree(&found);
	return r;
}

static int remove_device_nodes(const char *id, struct err *err)
{
	_cleanup_free_ char *pattern = str_printf(HV_DEVICE_NODES "*", id);
	glob_t found;
	int r = 0;

	if (!pattern)
		return err_nomem(err);
	if (glob(pattern, GLOB_NOSORT, NULL, &found) != 0)
		return 0;
	for (size_t i = 0; i < found.gl_pathc && r == 0; i++)
		if (unlink(found.gl_pathv[i]) < 0 && errno != ENOENT)
			r = err_errno(err, "Remove %s", found.gl_pathv[i]);
	globfree(&found);
	return r;
}

static int remove_entries(const char *path, const char *suffix, struct err *err)
{
	struct dirent *entry;
	int r = 0;

	DIR *dir = opendir(path);
	if (!dir)
		return errno == ENOENT || errno == ENOTDIR
			       ? 0
			       : err_errno(err, "Open directory %s", path);
	while (r == 0 && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name), end = strlen(suffix);
		if (len < end || strcmp(entry->d_name + len - end, suffix) != 0)
			continue;
		_cleanup_free_ char *found = str_printf("%s/%s", path, entry->d_name);
		r = found ? fd_remove_tree(found, err) : err_nomem(err);
	}
	closedir(dir);
	return r;
}

/*
 * The directories of QEMU's monitor socket and key, and of its memory: libvirt forgets them when it
 * ends between making them and noting the machine down. Their names, domain-<n>-… and <n>-… below
 * ram, have the first 20 characters of the machine's.
 */
static int remove_lib_dirs(const struct hv *hv, const char *id, struct err *err)
{
	_cleanup_free_ char *suffix = str_printf("-bh-%.17s", id);
	_cleanup_free_ char *ram = str_printf("%s/ram", hv->lib_dir);

	if (!suffix || !ram)
		return err_nomem(err);
	int r = remove_entries(hv->lib_dir, suffix, err);
	return r < 0 ? r : remove_entries(ram, suffix, err);
}

int hv_vm_destroy(struct hv *hv, const char *id, struct err *err)
{
	_cleanup_free_ char *dir = NULL;
	int r = hv_check_id(id, err);

	if (r < 0)
		return r;
	dir = hv_vm_dir(hv, id);
	if (!dir)
		return err_nomem(err);
	r = end_machine(hv, id, err);
	if (r == 0)
		r = transport_end(dir, err);
	if (r == 0)
		r = helper_end(dir, "console", err);
	if (r == 0)
		r = share_end(dir, err);
	if (r == 0)
		r = remove_device_nodes(id, err);
	if (r == 0)
		r = remove_files(hv, id, err);
	if (r == 0)
		r = remove_lib_dirs(hv, id, err);
	if (r == 0)
		r = remove_cgroups(id, err);
	if (r == 0)
		r = vm_cgroup_remove(hv, dir, err);
	return r < 0 ? r : fd_remove_tree(dir, err);
}

int hv_vm_wait_off(struct hv *hv, const char *id, uint64_t timeout_ms)
{
	uint64_t until = ev_now_ms() + timeout_ms;
	int r = 0;

	while (r == 0) {
		_cleanup_domain_ virDomainPtr domain = NULL;
		uint64_t next;

		if (hv_lookup(hv, id, &domain, NULL) == 1)
			return 0;
		/* An event that arrives between look-up and wait is made up for by looking again.
		 */
		next = ev_now_ms() + 100;
		pthread_mutex_lock(&hv->lock);
		r = hv_wait_changed(hv, next < until ? next : until);
		pthread_mutex_unlock(&hv->lock);
		if (ev_now_ms() < until)
			r = 0;
	}
	return r;
}

/* The ids found so far; few, so that looking through them is cheap. */
struct ids {
	char (*items)[HV_ID_MAX + 1];
	size_t n;
};

static void ids_done(struct ids *ids)
{
	free(ids->items);
}

static int ids_add(struct ids *ids, const char *id)
{
	char(*items)[HV_ID_MAX + 1];

	if (hv_check_id(id, NULL) < 0)
		return 0;
	for (size_t i = 0; i < ids->n; i++)
		if (strcmp(ids->items[i], id) == 0)
			return 0;
	items = reallocarray(ids->items, ids->n + 1, sizeof(*items));
	if (!items)
		return -ENOMEM;
	ids->items = items;
	snprintf(ids->items[ids->n++], sizeof(*items), "%s", id);
	return 0;
}

static int add_domains(struct hv *hv, struct ids *ids, struct err *err)
{
	virDomainPtr *domains = NULL;
	int n = virConnectListAllDomains(hv->connection, &domains, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
	int r = 0;

	if (n < 0)
		return hv_fail(err, "List the machines");
	for (int i = 0; i < n; i++) {
		const char *name = virDomainGetName(domains[i]);

		if (r == 0 && name && strncmp(name, "bh-", 3) == 0 &&
			is_ours(hv, domains[i], NULL) == 1)
			r = ids_add(ids, name + 3);
		virDomainFree(domains[i]);
	}
	free(domains);
	return r < 0 ? err_nomem(err) : 0;
}

static void closedirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

static int add_directories(struct hv *hv, struct ids *ids, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/vm", hv->config.run_dir);
	_cleanup_(closedirp) DIR *dir = path ? opendir(path) : NULL;
	const struct dirent *entry;

	if (!path)
		return err_nomem(err);
	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, "Open %s", path);
	while ((entry = readdir(dir)))
		if (ids_add(ids, entry->d_name) < 0)
			return err_nomem(err);
	return 0;
}

int hv_each_vm(
	struct hv *hv, int (*fn)(void *userdata, const char *id), void *userdata, struct err *err)
{
	_cleanup_(ids_done) struct ids ids = {0};
	int r = add_domains(hv, &ids, err);

	if (r == 0)
		r = add_directories(hv, &ids, err);
	for (size_t i = 0; i < ids.n && r == 0; i++)
		r = fn(userdata, ids.items[i]);
	return r;
}
