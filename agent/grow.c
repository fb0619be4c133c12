/*
 * The machine becomes larger while it runs. The kernel takes memory by itself (virtio-mem, onlined
 * at once); a CPU that was added, or that the kernel did not begin with, waits to be brought
 * online, and what the kernel has made of its memory when it booted is ours to raise.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/methods.h"
#include "agent/sysctl.h"
#include "agent/usage.h"
#include "common/fd.h"

#define CPUS_MAX 64
/* Of which the kernel, when it boots, lets there be as many as take an eighth of its memory. */
#define THREAD_STACK_BYTES 16384

static uint32_t count_online(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	return cpus > 0 ? (uint32_t)cpus : 0;
}

/* One that cannot be brought online is not counted: the host sees that it is missing. */
static void online_cpus(uint32_t wanted)
{
	for (unsigned cpu = 1; cpu < CPUS_MAX && count_online() < wanted; cpu++) {
		char path[64], state = '1';
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online", cpu);
		_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && pread(fd, &state, 1, 0) == 1 && state == '0' &&
			pwrite(fd, "1", 1, 0) != 1)
			return;
	}
}

/* As if it had booted with that memory. */
static void raise_threads_max(uint64_t memory_bytes)
{
	static const char path[] = "/proc/sys/kernel/threads-max";
	const unsigned long long wanted = memory_bytes / (8ull * THREAD_STACK_BYTES);
	_cleanup_free_ char *is = NULL;
	char text[24];
	if (fd_read_file(path, 64, &is, NULL, NULL) < 0 || strtoull(is, NULL, 10) >= wanted)
		return;
	snprintf(text, sizeof(text), "%llu", wanted);
	sysctl_write(path, text, NULL);
}

void method_grow_machine(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg)
{
	Bulkhead__Agent__GrowMachineResponse response =
		BULKHEAD__AGENT__GROW_MACHINE_RESPONSE__INIT;
	uint64_t swap;
	(void)userdata;
	online_cpus(((const Bulkhead__Agent__GrowMachineRequest *)(const void *)msg)->vcpus);
	response.vcpus = count_online();
	usage_read_machine(&response.memory_bytes, &swap);
	raise_threads_max(response.memory_bytes);
	ttrpc_reply(call, &response.base);
}
