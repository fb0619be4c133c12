#include <errno.h>
#include <libvirt/virterror.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/internal.h"

int hv_fail(struct err *err, const char *fmt, ...)
{
	const virError *error = virGetLastError();
	char what[512];
	int code = -EIO;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (error && error->code == VIR_ERR_NO_DOMAIN)
		code = -ENOENT;
	else if (error && error->domain == VIR_FROM_RPC)
		code = -EAGAIN; /* the libvirtd has gone: nothing is known of its machines */
	else if (error && error->code == VIR_ERR_OPERATION_TIMEOUT)
		code = -ETIMEDOUT;
	else if (error && error->code == VIR_ERR_NO_MEMORY)
		code = -ENOMEM;
	return err_set(err, code, "%s: %s", what,
		error && error->message ? error->message : "libvirt says no more");
}

int hv_wait_changed(struct hv *hv, uint64_t until_ms)
{
	return ev_cond_wait(&hv->changed, &hv->lock, until_ms) == ETIMEDOUT ? 1 : 0;
}

static const char *describe_end(int detail)
{
	switch (detail) {
	case VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN:
		return "the guest powered off";
	case VIR_DOMAIN_EVENT_STOPPED_DESTROYED:
		return "destroyed from outside";
	case VIR_DOMAIN_EVENT_STOPPED_CRASHED:
		return "the guest crashed";
	case VIR_DOMAIN_EVENT_STOPPED_FAILED:
		return "QEMU ended unexpectedly";
	default:
		return "stopped";
	}
}

/* Whether hv_vm_destroy() asked for this end, which then has nothing to tell. */
static bool note_end(struct hv *hv, const char *id)
{
	bool asked = false;

	pthread_mutex_lock(&hv->lock);
	for (struct hv_ending *ending = hv->endings; ending; ending = ending->next)
		if (strcmp(ending->id, id) == 0)
			asked = ending->gone = true;
	pthread_cond_broadcast(&hv->changed);
	pthread_mutex_unlock(&hv->lock);
	return asked;
}

static int on_lifecycle(
	virConnectPtr connection, virDomainPtr domain, int event, int detail, void *opaque)
{
	struct hv *hv = opaque;
	const char *name = virDomainGetName(domain);
	_cleanup_free_ char *dir = NULL;

	(void)connection;
	if (event != VIR_DOMAIN_EVENT_STOPPED || !name || strncmp(name, "bh-", 3) != 0)
		return 0;
	if (note_end(hv, name + 3) || hv_check_id(name + 3, NULL) < 0)
		return 0;
	/* The metadata is gone with the domain; the directory tells ours from others. */
	dir = hv_vm_dir(hv, name + 3);
	if (dir && access(dir, F_OK) == 0)
		hv->on_died(hv->userdata, name + 3, describe_end(detail));
	return 0;
}

static void *run_events(void *opaque)
{
	struct hv *hv = opaque;

	pthread_setname_np(pthread_self(), "libvirt-events");
	while (!atomic_load(&hv->stop))
		if (virEventRunDefaultImpl() < 0)
			usleep(10000);
	return NULL;
}

static void on_wake(int timer, void *opaque)
{
	(void)opaque;
	virEventUpdateTimeout(timer, -1);
}

static void ignore_error(void *userdata, virErrorPtr error)
{
	(void)userdata;
	(void)error;
}

/* The event loop is libvirt's, one per process, and cannot be registered twice. */
static void register_events(void)
{
	virEventRegisterDefaultImpl();
}

static int start_events(struct hv *hv, struct err *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int r;

	/* Errors reach our caller in struct err; libvirt would write them to stderr too. */
	setenv("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null", 0);
	if (virInitialize() < 0)
		return hv_fail(err, "Start libvirt");
	virSetErrorFunc(NULL, ignore_error);
	pthread_once(&once, register_events);
	hv->wake_timer = virEventAddTimeout(-1, on_wake, NULL, NULL);
	if (hv->wake_timer < 0)
		return hv_fail(err, "Add a timer to libvirt's event loop");
	r = pthread_create(&hv->thread, NULL, run_events, hv);
	if (r != 0)
		return err_set(err, -r, "Start the thread for libvirt's events");
	hv->thread_runs = true;
	return 0;
}

static void on_connection_end(virConnectPtr connection, int reason, void *opaque)
{
	const struct hv *hv = opaque;

	(void)connection;
	(void)reason;
	log_event(hv->log, LOG_LEVEL_ERROR,
		"libvirtd is gone: bulkheadd stops, to be started anew; pods go on", "libvirt_uri",
		hv->config.libvirt_uri, NULL);
	kill(getpid(), SIGTERM);
}

int hv_watch_connection(struct hv *hv, struct err *err)
{
	if (hv->libvirtd &&
		virConnectRegisterCloseCallback(hv->connection, on_connection_end, hv, NULL) < 0)
		return hv_fail(err, "Subscribe to the end of libvirt's connection");
	return 0;
}

void hv_unwatch_connection(struct hv *hv)
{
	if (hv->libvirtd)
		virConnectUnregisterCloseCallback(hv->connection, on_connection_end);
}

static int connect_libvirt(struct hv *hv, struct err *err)
{
	const char *uri = hv->config.libvirt_uri;
	_cleanup_free_ char *capabilities = NULL;
	unsigned long qemu, libvirt;

	hv->connection = virConnectOpen(uri);
	if (!hv->connection)
		return hv_fail(
			err, "Open libvirt at %s (is another bulkheadd running on it?)", uri);
	driver_fence(hv);
	/* Makes the driver probe QEMU now rather than in the first pod. */
	capabilities = virConnectGetDomainCapabilities(
		hv->connection, NULL, "x86_64", "q35", hv->kvm ? "kvm" : "qemu", 0);
	if (!capabilities)
		return hv_fail(err, "Find a QEMU for x86_64 (Debian: apt install qemu-system-x86)");
	if (virConnectGetVersion(hv->connection, &qemu) < 0 ||
		virConnectGetLibVersion(hv->connection, &libvirt) < 0)
		return hv_fail(err, "Ask libvirt for versions");
	snprintf(hv->version, sizeof(hv->version), "QEMU %lu.%lu.%lu, libvirt %lu.%lu.%lu",
		qemu / 1000000, qemu / 1000 % 1000, qemu % 1000, libvirt / 1000000,
		libvirt / 1000 % 1000, libvirt % 1000);
	hv->lifecycle_callback = virConnectDomainEventRegisterAny(hv->connection, NULL,
		VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), hv, NULL);
	if (hv->lifecycle_callback < 0)
		return hv_fail(err, "Subscribe to libvirt's events");
	return hv_watch_connection(hv, err);
}

static int settle_accelerator(struct hv *hv, struct err *err)
{
	char *reason = hv->accelerator_reason;
	size_t size = sizeof(hv->accelerator_reason);

	if (hv->config.accelerator == HV_ACCELERATOR_TCG) {
		snprintf(reason, size, "set in the configuration");
		return 0;
	}
	hv->kvm = hv_probe_kvm(reason, size) == 0;
	if (hv->config.accelerator == HV_ACCELERATOR_KVM && !hv->kvm)
		return err_set(
			err, -ENODEV, "KVM is demanded by the configuration, but %s", reason);
	if (hv->kvm)
		snprintf(reason, size, "a test machine ran under KVM");
	hv->vhost_net = hv->kvm && vhost_works("/dev/vhost-net");
	return 0;
}

static int copy_config(struct hv_config *to, const struct hv_config *from)
{
	*to = *from;
	to->libvirt_uri = strdup(from->libvirt_uri);
	to->run_dir = strdup(from->run_dir);
	to->kernel = strdup(from->kernel);
	to->initramfs = strdup(from->initramfs);
	to->kernel_arguments = strdup(from->kernel_arguments);
	to->virtiofsd = strdup(from->virtiofsd);
	to->vsock_helper = strdup(from->vsock_helper);
	if (!to->libvirt_uri || !to->run_dir || !to->kernel || !to->initramfs ||
		!to->kernel_arguments || !to->virtiofsd || !to->vsock_helper)
		return -ENOMEM;
	return 0;
}

static void config_done(struct hv_config *config)
{
	free((char *)config->libvirt_uri);
	free((char *)config->run_dir);
	free((char *)config->kernel);
	free((char *)config->initramfs);
	free((char *)config->kernel_arguments);
	free((char *)config->virtiofsd);
	free((char *)config->vsock_helper);
}

static void init_locks(struct hv *hv)
{
	pthread_mutex_init(&hv->lock, NULL);
	ev_cond_init(&hv->changed);
}

static void hv_closep(struct hv **hv)
{
	*hv = hv_close(*hv);
}

int hv_open(const struct hv_config *config, const struct log *log, hv_died_fn on_died,
	void *userdata, struct hv **ret, struct err *err)
{
	_cleanup_(hv_closep) struct hv *hv = calloc(1, sizeof(*hv));
	int r;

	if (!hv)
		return err_nomem(err);
	hv->wake_timer = hv->lifecycle_callback = -1;
	init_locks(hv);
	if (copy_config(&hv->config, config) < 0)
		return err_nomem(err);
	hv->log = log;
	hv->on_died = on_died;
	hv->userdata = userdata;
	hv->transport = transport_select();
	hv->tsc = tsc_mark();
	r = cgroups_read("/proc/self/mountinfo", &hv->cgroups, err);
	if (r < 0)
		return r;
	r = driver_prepare(hv, err);
	if (r == 0)
		r = settle_accelerator(hv, err);
	if (r == 0)
		r = driver_configure(hv, err);
	if (r == 0)
		r = start_events(hv, err);
	if (r == 0)
		r = connect_libvirt(hv, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(hv);
	return 0;
}

struct hv *hv_close(struct hv *hv)
{
	if (!hv)
		return NULL;
	if (hv->lifecycle_callback >= 0)
		virConnectDomainEventDeregisterAny(hv->connection, hv->lifecycle_callback);
	if (hv->connection) {
		hv_unwatch_connection(hv);
		virConnectClose(hv->connection);
	}
	if (hv->thread_runs) {
		atomic_store(&hv->stop, true);
		virEventUpdateTimeout(hv->wake_timer, 0);
		pthread_join(hv->thread, NULL);
	}
	if (hv->wake_timer >= 0)
		virEventRemoveTimeout(hv->wake_timer);
	pthread_mutex_destroy(&hv->lock);
	pthread_cond_destroy(&hv->changed);
	config_done(&hv->config);
	free(hv->state_dir);
	free(hv->log_dir);
	free(hv->lib_dir);
	cgroups_done(&hv->cgroups);
	free(hv);
	return NULL;
}

const char *hv_accelerator_name(const struct hv *hv)
{
	return hv->kvm ? "kvm" : "tcg";
}

const char *hv_accelerator_reason(const struct hv *hv)
{
	return hv->accelerator_reason;
}

const char *hv_transport_name(const struct hv *hv)
{
	return hv->transport->name;
}

const char *hv_version(const struct hv *hv)
{
	return hv->version;
}

int hv_check(struct hv *hv, struct err *err)
{
	if (virConnectIsAlive(hv->connection) != 1)
		return hv_fail(err,
			"The connection to libvirt at %s is gone; restart bulkheadd, pods go on",
			hv->config.libvirt_uri);
	if (virConnectNumOfDomains(hv->connection) < 0)
		return hv_fail(err, "Ask libvirt for its domains");
	return 0;
}
