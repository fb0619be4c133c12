/*
 * Whether KVM runs a machine here, found out by running one: see accel_guest.c for what it does.
 *
 * The probe is a child process with QEMU's rights, because a CPU that hangs in KVM_RUN can only be
 * killed. It sets its machine up as QEMU does for `-cpu host`: interrupt controllers and timer in
 * the kernel, the CPUID that KVM supports, and the MSRs whose refusal makes QEMU abort. It writes
 * where it is to memory shared with us, which tells a hang's place.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/accel_guest.h"
#include "hypervisor/user.h"
#include "hypervisor/vm.h"

/* A machine that hangs in KVM_RUN is busy; one that a busy host has no processor for is not. */
#define CPU_S       1
#define DEADLINE_MS 10000
#define LOW_RAM     0xa0000
#define MSRS_MAX    512
#define CPUID_MAX   256
/* Where QEMU puts the pages that KVM on Intel needs for real mode. */
#define IDENTITY_MAP 0xfeffc000ULL
#define TSS          0xfeffd000ULL

/* Shared between child and parent. */
struct progress {
	char stage; /* the last that the machine said */
	bool runs;  /* KVM_RUN has begun */
	bool works;
	char reason[200]; /* set where the child itself found what is wrong */
};

struct probe {
	struct progress *progress;
	int kvm;
	int vm;
	int vcpu;
	struct kvm_run *run;
	uint8_t *memory; /* LOW_RAM, then the image */
};

static int fail(struct probe *probe, const char *what)
{
	snprintf(probe->progress->reason, sizeof(probe->progress->reason), "%s: %s", what,
		strerrordesc_np(errno));
	return -EIO;
}

static int add_memory(
	struct probe *probe, uint32_t slot, uint64_t guest, uint64_t offset, uint64_t size)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = slot > 0 ? KVM_MEM_READONLY : 0,
		.guest_phys_addr = guest,
		.memory_size = size,
		.userspace_addr = (uintptr_t)probe->memory + offset,
	};

	if (ioctl(probe->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return fail(probe, "KVM_SET_USER_MEMORY_REGION");
	return 0;
}

static int make_memory(struct probe *probe)
{
	int r;

	probe->memory = mmap(NULL, LOW_RAM + ACCEL_ROM_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (probe->memory == MAP_FAILED)
		return fail(probe, "mmap of the guest's memory");
	accel_rom_write(probe->memory + LOW_RAM);
	r = add_memory(probe, 0, 0, 0, LOW_RAM);
	if (r == 0)
		r = add_memory(probe, 1, ACCEL_ROM_LOW, LOW_RAM, ACCEL_ROM_SIZE);
	if (r == 0)
		r = add_memory(probe, 2, ACCEL_ROM_HIGH, LOW_RAM, ACCEL_ROM_SIZE);
	return r;
}

static int make_machine(struct probe *probe)
{
	const uint64_t identity_map = IDENTITY_MAP;
	const struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	int version;

	probe->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (probe->kvm < 0)
		return fail(probe, "open /dev/kvm with a machine's rights");
	version = ioctl(probe->kvm, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		errno = EPROTONOSUPPORT;
		return fail(probe, "KVM_GET_API_VERSION");
	}
	probe->vm = ioctl(probe->kvm, KVM_CREATE_VM, 0);
	if (probe->vm < 0)
		return fail(probe, "KVM_CREATE_VM");
	if (ioctl(probe->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0 ||
		ioctl(probe->vm, KVM_SET_TSS_ADDR, (unsigned long)TSS) < 0)
		return fail(probe, "KVM_SET_TSS_ADDR");
	if (ioctl(probe->vm, KVM_CREATE_IRQCHIP, 0) < 0)
		return fail(probe, "KVM_CREATE_IRQCHIP");
	if (ioctl(probe->vm, KVM_CREATE_PIT2, &pit) < 0)
		return fail(probe, "KVM_CREATE_PIT2");
	return make_memory(probe);
}

/* As `-cpu host`: all that KVM supports. */
static int set_cpuid(struct probe *probe)
{
	struct kvm_cpuid2 *cpuid =
		calloc(1, sizeof(*cpuid) + CPUID_MAX * sizeof(struct kvm_cpuid_entry2));
	int r = 0;

	if (!cpuid)
		return fail(probe, "allocate");
	cpuid->nent = CPUID_MAX;
	if (ioctl(probe->kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
		r = fail(probe, "KVM_GET_SUPPORTED_CPUID");
	else if (ioctl(probe->vcpu, KVM_SET_CPUID2, cpuid) < 0)
		r = fail(probe, "KVM_SET_CPUID2");
	free(cpuid);
	return r;
}

static int make_cpu(struct probe *probe)
{
	int size;

	probe->vcpu = ioctl(probe->vm, KVM_CREATE_VCPU, 0);
	if (probe->vcpu < 0)
		return fail(probe, "KVM_CREATE_VCPU");
	size = ioctl(probe->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(*probe->run))
		return fail(probe, "KVM_GET_VCPU_MMAP_SIZE");
	probe->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, probe->vcpu, 0);
	if (probe->run == MAP_FAILED)
		return fail(probe, "mmap of the CPU's state");
	return set_cpuid(probe);
}

static bool msr_listed(const struct kvm_msr_list *list, uint32_t index)
{
	for (uint32_t i = 0; i < list->nmsrs; i++)
		if (list->indices[i] == index)
			return true;
	return false;
}

struct one_msr {
	struct kvm_msrs header;
	struct kvm_msr_entry entry;
};

static int set_msr(struct probe *probe, uint32_t index, uint64_t value)
{
	struct one_msr msr = {.header.nmsrs = 1, .entry = {.index = index, .data = value}};

	if (ioctl(probe->vcpu, KVM_SET_MSRS, &msr) == 1)
		return 0;
	snprintf(probe->progress->reason, sizeof(probe->progress->reason),
		"KVM refuses to set MSR 0x%x to 0x%llx, which QEMU's -cpu host needs", index,
		(unsigned long long)value);
	return -EIO;
}

/*
 * What QEMU 7 and later put into a new CPU. QEMU sets an MSR when KVM lists it, and aborts
 * when KVM then refuses.
 */
static int set_msrs(struct probe *probe, const struct kvm_msr_list *list)
{
	/* Values that describe the host and are handed on: microcode, core and arch capabilities.
	 */
	static const uint32_t features[] = {0x8b, 0xcf, 0x10a};
	/* State after reset. */
	static const struct kvm_msr_entry state[] = {
		{.index = 0x174},                             /* SYSENTER_CS */
		{.index = 0x175},                             /* SYSENTER_ESP */
		{.index = 0x176},                             /* SYSENTER_EIP */
		{.index = 0x277, .data = 0x0007040600070406}, /* PAT */
		{.index = 0xc0000081},                        /* STAR */
		{.index = 0xc0000082},                        /* LSTAR */
		{.index = 0xc0000083},                        /* CSTAR */
		{.index = 0xc0000084},                        /* FMASK */
		{.index = 0xc0000102},                        /* KERNEL_GS_BASE */
		{.index = 0x10},                              /* TSC */
		{.index = 0x3b},                              /* TSC_ADJUST */
		{.index = 0x1a0, .data = 1},                  /* MISC_ENABLE: fast strings */
		{.index = 0x6e0},                             /* TSC_DEADLINE */
		{.index = 0x4b564d00},                        /* kvmclock */
		{.index = 0x4b564d01},
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(features) && r == 0; i++) {
		struct one_msr msr = {.header.nmsrs = 1, .entry.index = features[i]};

		if (msr_listed(list, features[i]) && ioctl(probe->kvm, KVM_GET_MSRS, &msr) == 1)
			r = set_msr(probe, features[i], msr.entry.data);
	}
	for (size_t i = 0; i < ARRAY_SIZE(state) && r == 0; i++)
		if (msr_listed(list, state[i].index))
			r = set_msr(probe, state[i].index, state[i].data);
	return r;
}

static int check_msrs(struct probe *probe)
{
	struct kvm_msr_list *list = calloc(1, sizeof(*list) + MSRS_MAX * sizeof(uint32_t));
	int r;

	if (!list)
		return fail(probe, "allocate");
	list->nmsrs = MSRS_MAX;
	if (ioctl(probe->kvm, KVM_GET_MSR_INDEX_LIST, list) < 0)
		r = fail(probe, "KVM_GET_MSR_INDEX_LIST");
	else
		r = set_msrs(probe, list);
	free(list);
	return r;
}

/* Positive 1: the machine is done. */
static int take_exit(struct probe *probe)
{
	const struct kvm_run *run = probe->run;
	struct progress *progress = probe->progress;

	if (run->exit_reason == KVM_EXIT_IO && run->io.port == ACCEL_PORT &&
		run->io.direction == KVM_EXIT_IO_OUT) {
		char stage = ((const char *)run)[run->io.data_offset];

		if (stage == ACCEL_DONE)
			return 1;
		if (stage != ACCEL_FAILED) {
			progress->stage = stage;
			return 0;
		}
		snprintf(progress->reason, sizeof(progress->reason),
			"a test machine computed wrong at: %s", accel_stage_text(progress->stage));
		return -EIO;
	}
	snprintf(progress->reason, sizeof(progress->reason),
		"a test machine stopped with KVM exit reason %u at: %s", run->exit_reason,
		accel_stage_text(progress->stage));
	return -EIO;
}

static int run_machine(struct probe *probe)
{
	int r = 0;

	probe->progress->runs = true;
	while (r == 0) {
		if (ioctl(probe->vcpu, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return fail(probe, "KVM_RUN");
		}
		r = take_exit(probe);
	}
	return r < 0 ? r : 0;
}

/* In the child; nothing is freed, for it exits. */
static void run_probe(struct progress *progress, const struct user *user, pid_t parent)
{
	struct probe probe = {.progress = progress};
	const struct rlimit busy = {.rlim_cur = CPU_S, .rlim_max = CPU_S};

	errno = -user_become_machine(user);
	if (errno) {
		fail(&probe, "take a machine's rights");
		return;
	}
	/* Of a process that becomes another user the kernel would have forgotten it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent) {
		fail(&probe, "end with bulkheadd");
		return;
	}
	if (setrlimit(RLIMIT_CPU, &busy) < 0) {
		fail(&probe, "limit the probe's processor time");
		return;
	}
	if (make_machine(&probe) < 0 || make_cpu(&probe) < 0 || check_msrs(&probe) < 0)
		return;
	progress->works = run_machine(&probe) == 0;
}

/* Positive 1: it did not end by itself. */
static int await_child(pid_t pid)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd pollfd = {.fd = pidfd, .events = POLLIN};
	int status = 0;

	if (pidfd < 0 || poll(&pollfd, 1, DEADLINE_MS) <= 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFSIGNALED(status);
}

static int judge(const struct progress *progress, int killed, char *reason, size_t size)
{
	if (progress->works && !killed)
		return 0;
	if (progress->reason[0])
		snprintf(reason, size, "%.*s", (int)sizeof(progress->reason), progress->reason);
	else if (progress->runs)
		snprintf(reason, size, "a test machine hung at: %s",
			accel_stage_text(progress->stage));
	else
		snprintf(reason, size, "setting up a test machine did not end");
	return 1;
}

int hv_probe_kvm(char *reason, size_t size)
{
	struct progress *progress;
	struct user user;
	pid_t pid, parent = getpid();
	int r;

	if (access("/dev/kvm", F_OK) < 0) {
		snprintf(reason, size, "there is no /dev/kvm");
		return 1;
	}
	progress = mmap(
		NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (progress == MAP_FAILED) {
		snprintf(reason, size, "no memory for the probe");
		return 1;
	}
	user_find_qemu(&user);
	pid = fork();
	if (pid == 0) {
		run_probe(progress, &user, parent);
		_exit(0);
	}
	if (pid < 0) {
		snprintf(reason, size, "no process for the probe");
		r = 1;
	} else {
		r = judge(progress, await_child(pid), reason, size);
	}
	munmap(progress, sizeof(*progress));
	return r;
}
