/*
 * How long QEMU may take to answer libvirt, which waits without end: with a QEMU that hangs, or
 * that its guest has taken over, the pod's lock would be held for ever, and nobody could end it.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/internal.h"

/* What blocks QEMU for long is a stalled disk, of a host that is not well. */
#define MONITOR_MS 60000

struct patience {
	const struct log *log;
	char id[HV_ID_MAX + 1];
	int qemu; /* a pidfd */
};

static void patience_free(void *opaque)
{
	struct patience *patience = opaque;

	fd_close(patience->qemu);
	free(patience);
}

/* The call fails when the monitor's connection ends, and libvirt tells of the machine's death. */
static void on_late(int timer, void *opaque)
{
	struct patience *patience = opaque;

	virEventUpdateTimeout(timer, -1);
	log_event(patience->log, LOG_LEVEL_WARNING, "QEMU does not answer; it is killed", "machine",
		patience->id, NULL);
	syscall(SYS_pidfd_send_signal, patience->qemu, SIGKILL, NULL, 0);
}

int hv_monitor_begin(const struct hv_vm *vm)
{
	unsigned ms = vm->hv->config.monitor_ms;
	struct patience *patience = calloc(1, sizeof(*patience));
	int pid, timer;

	if (!patience)
		return -1;
	patience->log = vm->hv->log;
	memcpy(patience->id, vm->id, sizeof(patience->id));
	patience->qemu = hv_open_qemu(vm->hv, vm->id, &pid);
	timer = patience->qemu < 0 ? -1
				   : virEventAddTimeout(ms ? (int)ms : MONITOR_MS, on_late,
					     patience, patience_free);
	if (timer < 0)
		patience_free(patience);
	return timer;
}

void hv_monitor_end(const int *timer)
{
	if (*timer >= 0)
		virEventRemoveTimeout(*timer);
}
