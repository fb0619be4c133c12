/*
 * One machine, as long as it lives: create, resume, connect, disks. Its end is vm_end.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <libvirt/virterror.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/console.h"
#include "hypervisor/domain_xml.h"
#include "hypervisor/helper.h"
#include "hypervisor/internal.h"
#include "hypervisor/share.h"

/*
 * quiet, for the serial port costs an exit per character; warnings and the panic are still seen. A
 * panic ends the machine at once, and reset ends it too (on_reboot). The rest is for the time to
 * the agent and is measured in guest-image/README.md; no dummy0 appears beside the pod's
 * interfaces.
 */
#define KERNEL_ARGUMENTS                                                                           \
	"console=ttyS0 quiet panic=-1 reboot=t noreplace-smp rcupdate.rcu_expedited=1 "            \
	"dummy.numdummies=0"
/* Emulated, the TSC is steady but the kernel cannot know, and falls back to the slow HPET. */
#define KERNEL_ARGUMENTS_TCG " tsc=reliable tsc_early_khz=%u no_timer_check clearcpuid=erms"

int hv_check_id(const char *id, struct err *err)
{
	size_t len = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-");

	if (len == 0 || len > HV_ID_MAX || id[len])
		return err_set(err, -EINVAL,
			"A machine's id is 1 to %d characters of a-z, 0-9 and -", HV_ID_MAX);
	return 0;
}

char *hv_vm_dir(const struct hv *hv, const char *id)
{
	return str_printf("%s/vm/%s", hv->config.run_dir, id);
}

static int vm_new(struct hv *hv, const char *id, struct hv_vm **ret, struct err *err)
{
	struct hv_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return err_nomem(err);
	vm->hv = hv;
	snprintf(vm->id, sizeof(vm->id), "%s", id);
	vm->dir = hv_vm_dir(hv, id);
	if (!vm->dir) {
		free(vm);
		return err_nomem(err);
	}
	*ret = vm;
	return 0;
}

struct hv_vm *hv_vm_unref(struct hv_vm *vm)
{
	if (!vm)
		return NULL;
	if (vm->domain)
		virDomainFree(vm->domain);
	free(vm->dir);
	free(vm);
	return NULL;
}

static void vm_unrefp(struct hv_vm **vm)
{
	*vm = hv_vm_unref(*vm);
}

static int check_spec(const struct hv *hv, const struct hv_vm_spec *spec, struct err *err)
{
	const struct sockaddr_un *address = NULL;
	int r = hv_check_id(spec->id, err);

	if (r < 0)
		return r;
	if (strlen(hv->config.run_dir) + strlen("/vm//console.sock") + strlen(spec->id) >=
		sizeof(address->sun_path))
		return err_set(err, -ENAMETOOLONG,
			"run_dir %s is too long for a Unix socket below it (at most %zu bytes)",
			hv->config.run_dir,
			sizeof(address->sun_path) - strlen("/vm//console.sock") - HV_ID_MAX - 1);
	if (spec->vcpus == 0 || spec->memory_mib == 0)
		return err_set(err, -EINVAL, "A machine needs a CPU and memory");
	return 0;
}

static int make_directory(const struct hv_vm *vm, struct err *err)
{
	_cleanup_free_ char *parent = str_printf("%s/vm", vm->hv->config.run_dir);
	int r;

	if (!parent)
		return err_nomem(err);
	r = fd_mkdir_all(parent, 0711, err);
	if (r < 0)
		return r;
	if (mkdir(vm->dir, 0711) < 0)
		return err_errno(err, "Make %s", vm->dir);
	return 0;
}

char *hv_console_program(const char *vsock_helper)
{
	const char *slash = strrchr(vsock_helper, '/');

	if (!slash)
		return strdup("bulkhead-console");
	return str_printf("%.*s/bulkhead-console", (int)(slash - vsock_helper), vsock_helper);
}

static int start_console(const struct hv_vm *vm, const struct cgroup_place *place,
	const char *socket, struct err *err)
{
	_cleanup_free_ char *program = hv_console_program(vm->hv->config.vsock_helper);
	_cleanup_free_ char *file = str_printf("%s/console", vm->dir);
	char text[VM_USER_TEXT];
	const char *user = vm_user_text(vm, text);
	const char *argv[] = {
		program, "--listen", socket, "--file", file, user ? "--user" : NULL, user, NULL};
	int r;

	if (!program || !file)
		return err_nomem(err);
	r = helper_start(
		&(struct helper){.dir = vm->dir, .name = "console", .argv = argv, .place = place},
		err);
	return r < 0 ? r : vm_user_give(vm, socket, err);
}

static int start_transport(
	const struct hv_vm *vm, const struct cgroup_place *place, char **ret_vhost, struct err *err)
{
	char text[VM_USER_TEXT];
	const struct transport_machine machine = {
		.dir = vm->dir,
		.program = vm->hv->config.vsock_helper,
		.user = vm_user_text(vm, text),
		.place = place,
	};
	_cleanup_free_ char *vhost = NULL;
	int r = vm->hv->transport->prepare(&machine, &vhost, err);

	if (r == 0 && vhost)
		r = vm_user_give(vm, vhost, err);
	if (r == 0)
		*ret_vhost = TAKE_PTR(vhost);
	return r;
}

/* What virtiofsd said, where it is the reason why QEMU did not start. */
static void add_share_log(int log, struct err *err)
{
	char text[300], quoted[400];
	ssize_t n = pread(log, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	if (!text[0])
		return;
	log_escape(quoted, sizeof(quoted), text);
	err_wrap(err, "virtiofsd said %s", quoted);
}

static int start_share(const struct hv_vm *vm, const struct cgroup_place *place, char **ret_socket,
	int *ret_log, struct err *err)
{
	const struct share share = {
		.dir = vm->dir, .program = vm->hv->config.virtiofsd, .place = place};
	_cleanup_free_ char *socket = NULL;
	int r = share_start(&share, &socket, ret_log, err);

	if (r == 0)
		r = vm_user_give(vm, socket, err);
	if (r == 0)
		*ret_socket = TAKE_PTR(socket);
	return r;
}

static void take_live(struct hv_vm *vm, const char *xml)
{
	struct domain_live live;

	domain_xml_read(xml, &live);
	vm_user_take(vm, live.uid);
	vm->cid = live.cid;
	vm->size = live.size;
	vm->boot_memory_mib = live.boot_memory_mib;
}

static int start_domain(
	struct hv_vm *vm, const char *xml, const struct cgroup_place *place, struct err *err)
{
	_cleanup_free_ char *live = NULL;
	int r;

	vm->domain = virDomainCreateXML(vm->hv->connection, xml, VIR_DOMAIN_START_PAUSED);
	if (!vm->domain)
		return hv_fail(err, "Start QEMU");
	live = virDomainGetXMLDesc(vm->domain, 0);
	if (!live)
		return hv_fail(err, "Ask libvirt for the machine's XML");
	take_live(vm, live);
	r = vm_user_fence(vm, err);
	if (r < 0)
		return r;
	return place ? vm_cgroup_enter(vm, place, err) : 0;
}

/* Emulated CPUs are all there from the start (domain_xml.c); some wait to be brought online. */
static char *kernel_arguments(const struct hv *hv, const struct hv_vm_spec *spec)
{
	char emulated[128] = "", waiting[32] = "";

	if (!hv->kvm)
		snprintf(emulated, sizeof(emulated), KERNEL_ARGUMENTS_TCG, tsc_khz_since(&hv->tsc));
	if (!hv->kvm && domain_vcpus_max(spec) != spec->vcpus)
		snprintf(waiting, sizeof(waiting), " maxcpus=%u", spec->vcpus);
	return str_printf(
		"%s%s%s %s", KERNEL_ARGUMENTS, emulated, waiting, hv->config.kernel_arguments);
}

static int bring_up(struct hv_vm *vm, const struct hv_vm_spec *spec, struct err *err)
{
	_cleanup_free_ char *console = str_printf("%s/console.sock", vm->dir);
	_cleanup_free_ char *arguments = kernel_arguments(vm->hv, spec);
	_cleanup_free_ char *vhost = NULL, *share = NULL, *xml = NULL;
	_cleanup_close_ int share_log = -EBADF;
	const struct cgroup_place place = {&vm->hv->cgroups, spec->cgroup};
	const struct cgroup_place *in = spec->cgroup ? &place : NULL;
	struct domain_xml domain = {
		.spec = spec,
		.run_dir = vm->hv->config.run_dir,
		.kvm = vm->hv->kvm,
		.libvirtd = vm->hv->libvirtd,
		.uid = vm->uid,
		.gid = vm->hv->qemu_user.gid,
		.vhost_net = vm->hv->vhost_net,
		.kernel = vm->hv->config.kernel,
		.initramfs = vm->hv->config.initramfs,
		.arguments = arguments,
		.console_socket = console,
	};
	int r;

	if (!console || !arguments)
		return err_nomem(err);
	r = spec->cgroup ? vm_cgroup_make(vm, spec->cgroup, &spec->limits, err) : 0;
	if (r == 0)
		r = start_console(vm, in, console, err);
	if (r == 0)
		r = start_transport(vm, in, &vhost, err);
	if (r == 0 && spec->share)
		r = start_share(vm, in, &share, &share_log, err);
	if (r == 0 && spec->scratch)
		r = vm_user_give(vm, spec->scratch, err);
	domain.vhost_socket = vhost;
	domain.cid = vhost ? 0 : transport_pick_cid();
	domain.share_socket = share;
	if (r == 0)
		r = domain_xml_write(&domain, &xml, err);
	if (r == 0)
		r = start_domain(vm, xml, in, err);
	if (r == 0 && spec->share)
		r = share_seal(vm->dir, err);
	if (r < 0 && share_log >= 0)
		add_share_log(share_log, err);
	return r;
}

int hv_vm_create(struct hv *hv, const struct hv_vm_spec *spec, struct hv_vm **ret, struct err *err)
{
	_cleanup_(vm_unrefp) struct hv_vm *vm = NULL;
	int r;

	r = check_spec(hv, spec, err);
	if (r == 0)
		r = vm_new(hv, spec->id, &vm, err);
	if (r < 0)
		return r;
	r = make_directory(vm, err);
	if (r < 0)
		/* It exists: another machine's, which is not to be touched. */
		return err_wrap(err, "Create machine %s", vm->id);
	r = vm_user_pick(vm, err);
	if (r == 0)
		r = bring_up(vm, spec, err);
	if (r < 0) {
		hv_vm_destroy(hv, vm->id, NULL);
		return err_wrap(err, "Create machine %s", vm->id);
	}
	*ret = TAKE_PTR(vm);
	return 0;
}

int hv_vm_resume(struct hv_vm *vm, struct err *err)
{
	_cleanup_monitor_ int monitor = hv_monitor_begin(vm);

	if (virDomainResume(vm->domain) < 0)
		return hv_fail(err, "Resume machine %s", vm->id);
	return 0;
}

int hv_vm_open(struct hv *hv, const char *id, struct hv_vm **ret, struct err *err)
{
	_cleanup_(vm_unrefp) struct hv_vm *vm = NULL;
	_cleanup_free_ char *xml = NULL;
	int r = hv_check_id(id, err);

	if (r == 0)
		r = vm_new(hv, id, &vm, err);
	if (r == 0)
		r = hv_lookup(hv, id, &vm->domain, err);
	if (r != 0)
		return r;
	xml = virDomainGetXMLDesc(vm->domain, 0);
	if (!xml && virGetLastErrorCode() == VIR_ERR_NO_DOMAIN)
		return 1;
	if (!xml)
		return hv_fail(err, "Open machine %s", id);
	take_live(vm, xml);
	*ret = TAKE_PTR(vm);
	return 0;
}

static int fail_connect(const struct hv_vm *vm, int code, const char *what, struct err *err)
{
	char quoted[700];

	console_quote(vm->dir, quoted, sizeof(quoted));
	return err_set(err, code, "Machine %s %s; its console ends with: %s", vm->id, what, quoted);
}

static int check_runs(const struct hv_vm *vm, struct err *err)
{
	int r = hv_is_active(vm->domain, vm->id, err);

	if (r == 0)
		return fail_connect(vm, -EHOSTDOWN, "has ended", err);
	return r < 0 ? r : 0;
}

/*
 * What answered at a CID of the kernel's may be another machine, which has got that of ours: it is
 * ours if that still runs.
 */
static int check_connected(const struct hv_vm *vm, int *ret_fd, struct err *err)
{
	int r = check_runs(vm, err);

	if (r < 0)
		*ret_fd = fd_close(*ret_fd);
	return r;
}

/* Attempts follow one another after 1 ms at first, then more and more, at most 10 ms. */
int hv_vm_connect(
	struct hv_vm *vm, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err)
{
	const struct transport_machine machine = {.dir = vm->dir, .cid = vm->cid};
	const struct transport *transport = transport_of(vm->cid);
	uint64_t begin = ev_now_ms(), deadline = begin + timeout_ms, next_check = begin + 50;

	for (unsigned pause_ms = 1;; pause_ms = pause_ms < 10 ? pause_ms + 1 : 10) {
		uint64_t now = ev_now_ms();
		uint64_t left = now < deadline ? deadline - now : 0;
		int r = transport->connect(&machine, port, left < 250 ? left : 250, ret_fd, err);

		if (r <= 0)
			return r == 0 ? check_connected(vm, ret_fd, err) : r;
		now = ev_now_ms();
		if (now >= next_check) {
			r = check_runs(vm, err);
			if (r < 0)
				return r;
			next_check = now + 50;
		}
		if (now >= deadline)
			return fail_connect(vm, -ETIMEDOUT, "did not answer in time", err);
		nanosleep(&(struct timespec){.tv_nsec = pause_ms * 1000000L}, NULL);
	}
}

static int check_target(unsigned target, struct err *err)
{
	if (target == 0 || target > HV_DISK_TARGET_MAX)
		return err_set(err, -EINVAL, "A disk's target is 1 to %d", HV_DISK_TARGET_MAX);
	return 0;
}

int hv_vm_attach_disk(struct hv_vm *vm, unsigned target, const char *path, struct err *err)
{
	_cleanup_monitor_ int monitor = hv_monitor_begin(vm);
	_cleanup_free_ char *xml = NULL;
	int r = check_target(target, err);

	if (r == 0)
		r = domain_xml_write_disk(target, path, &xml, err);
	if (r < 0)
		return r;
	if (virDomainAttachDeviceFlags(vm->domain, xml, VIR_DOMAIN_AFFECT_LIVE) < 0)
		return hv_fail(err, "Attach %s to machine %s as disk %u", path, vm->id, target);
	return 0;
}

/*
 * The machine may not open the host's node, whose owner is not ours to change: a node of the
 * machine's own is. It lies in /dev because libvirt makes QEMU's own /dev of what is there.
 */
static char *device_node(const struct hv_vm *vm, unsigned target)
{
	return str_printf(HV_DEVICE_NODES "%u", vm->id, target);
}

static int make_device_node(
	const struct hv_vm *vm, const char *node, const char *path, struct err *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_errno(err, "Examine %s", path);
	if (!S_ISBLK(st.st_mode))
		return err_set(err, -ENOTBLK, "%s is not a block device", path);
	unlink(node); /* of a machine's disk that is gone */
	if (mknod(node, S_IFBLK | 0600, st.st_rdev) < 0)
		return err_errno(err, "Make %s", node);
	return vm_user_give(vm, node, err);
}

int hv_vm_attach_device(
	struct hv_vm *vm, unsigned target, const char *path, bool read_only, struct err *err)
{
	_cleanup_monitor_ int monitor = hv_monitor_begin(vm);
	_cleanup_free_ char *xml = NULL, *node = device_node(vm, target);
	int r = check_target(target, err);

	if (r == 0 && !node)
		r = err_nomem(err);
	if (r == 0)
		r = domain_xml_write_device(target, node, read_only, &xml, err);
	if (r == 0)
		r = make_device_node(vm, node, path, err);
	if (r < 0)
		return r;
	if (virDomainAttachDeviceFlags(vm->domain, xml, VIR_DOMAIN_AFFECT_LIVE) < 0) {
		unlink(node);
		return hv_fail(err, "Attach %s to machine %s as disk %u", path, vm->id, target);
	}
	return 0;
}

int hv_vm_detach_disk(struct hv_vm *vm, unsigned target, struct err *err)
{
	_cleanup_monitor_ int monitor = hv_monitor_begin(vm);
	_cleanup_free_ char *xml = NULL, *node = NULL;
	int r = check_target(target, err);

	if (r == 0)
		r = domain_xml_write_disk(target, NULL, &xml, err);
	if (r < 0)
		return r;
	if (virDomainDetachDeviceFlags(vm->domain, xml, VIR_DOMAIN_AFFECT_LIVE) < 0 &&
		virGetLastErrorCode() != VIR_ERR_DEVICE_MISSING)
		return hv_fail(err, "Detach disk %u from machine %s", target, vm->id);
	node = device_node(vm, target);
	if (node)
		unlink(node); /* a layer's disk has none */
	return 0;
}

int hv_vm_bind(struct hv_vm *vm, const char *name, int source, unsigned flags,
	const struct userns_map *map, struct err *err)
{
	return share_bind(vm->dir, name, &(struct share_source){source, flags, map}, err);
}

int hv_vm_bind_writable(struct hv_vm *vm, const char *name, struct err *err)
{
	return share_writable(vm->dir, name, err);
}

int hv_vm_unbind(struct hv_vm *vm, const char *name, struct err *err)
{
	return share_unbind(vm->dir, name, err);
}

int hv_vm_each_bind(struct hv_vm *vm, int (*fn)(void *userdata, const char *name), void *userdata,
	struct err *err)
{
	return share_each(vm->dir, fn, userdata, err);
}

int hv_vm_share_pidfd(struct hv_vm *vm, int *ret_pidfd, struct err *err)
{
	return share_pidfd(vm->dir, ret_pidfd, err);
}

int hv_vm_pid(struct hv_vm *vm)
{
	_cleanup_close_ int pidfd = -EBADF;
	int pid = 0;

	pidfd = hv_open_qemu(vm->hv, vm->id, &pid);
	return pidfd < 0 ? 0 : pid;
}

char *hv_vm_console_path(struct hv *hv, const char *id)
{
	_cleanup_free_ char *dir = hv_vm_dir(hv, id);
	return dir ? str_printf("%s/console", dir) : NULL;
}

int hv_vm_console(struct hv *hv, const char *id, size_t max, char **ret_text, struct err *err)
{
	_cleanup_free_ char *dir = NULL;
	int r = hv_check_id(id, err);

	if (r < 0)
		return r;
	dir = hv_vm_dir(hv, id);
	if (!dir)
		return err_nomem(err);
	return console_tail(dir, max, ret_text, err);
}
