#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/cgroup.h"
#include "common/fd.h"

#define ANY UINT32_MAX

/* Character devices that a container may open. */
static const struct {
	uint32_t major;
	uint32_t minor;
} allowed[] = {
	{1, 3},     /* null */
	{1, 5},     /* zero */
	{1, 7},     /* full */
	{1, 8},     /* random */
	{1, 9},     /* urandom */
	{5, 0},     /* tty */
	{5, 1},     /* console */
	{5, 2},     /* ptmx */
	{136, ANY}, /* pts */
};

/* Registers of the program; r1 is the context on entry, r0 the verdict. */
enum {
	CONTEXT = BPF_REG_1,
	TYPE = BPF_REG_2,
	ACCESS = BPF_REG_3,
	MAJOR = BPF_REG_4,
	MINOR = BPF_REG_5
};

static struct bpf_insn load(int reg, size_t offset)
{
	return (struct bpf_insn){.code = BPF_LDX | BPF_MEM | BPF_W,
		.dst_reg = (uint8_t)reg & 15,
		.src_reg = CONTEXT,
		.off = (int16_t)offset};
}

static struct bpf_insn alu(int op, int reg, int32_t value)
{
	return (struct bpf_insn){.code = (uint8_t)(BPF_ALU | op | BPF_K),
		.dst_reg = (uint8_t)reg & 15,
		.imm = value};
}

/* Skips n instructions unless reg is value. */
static struct bpf_insn unless(int reg, uint32_t value, int n)
{
	return (struct bpf_insn){.code = BPF_JMP32 | BPF_JNE | BPF_K,
		.dst_reg = (uint8_t)reg & 15,
		.off = (int16_t)n,
		.imm = (int32_t)value};
}

static size_t verdict(struct bpf_insn *at, int value)
{
	at[0] = (struct bpf_insn){
		.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = value};
	at[1] = (struct bpf_insn){.code = BPF_JMP | BPF_EXIT};
	return 2;
}

/* Skips n instructions when reg has one of the bits. */
static struct bpf_insn when_any(int reg, uint32_t bits, int n)
{
	struct bpf_insn insn = unless(reg, bits, n);
	insn.code = BPF_JMP32 | BPF_JSET | BPF_K;
	return insn;
}

/* The verdict is yes for one device and what may be done with it. */
static size_t allow(struct bpf_insn *at, const struct device_rules *more, uint32_t i)
{
	size_t n = 0;
	at[n++] = unless(TYPE, more->rules[i].type, 5);
	at[n++] = unless(MAJOR, more->rules[i].major, 4);
	at[n++] = unless(MINOR, more->rules[i].minor, 3);
	at[n++] = when_any(ACCESS, ~more->rules[i].access & 0xffff, 2);
	return n + verdict(at + n, 1);
}

int cgroup_devices_load(const struct device_rules *more, int *ret_program, struct err *err)
{
	struct bpf_insn p[16 + 4 * ARRAY_SIZE(allowed) + 6 * AGENT_DEVICES_MAX];
	size_t n = 0;
	/* access_type holds the access in its upper half and the type in its lower. */
	p[n++] = load(TYPE, offsetof(struct bpf_cgroup_dev_ctx, access_type));
	p[n++] = load(ACCESS, offsetof(struct bpf_cgroup_dev_ctx, access_type));
	p[n++] = load(MAJOR, offsetof(struct bpf_cgroup_dev_ctx, major));
	p[n++] = load(MINOR, offsetof(struct bpf_cgroup_dev_ctx, minor));
	p[n++] = alu(BPF_AND, TYPE, 0xffff);
	p[n++] = alu(BPF_RSH, ACCESS, 16);
	p[n++] = unless(ACCESS, BPF_DEVCG_ACC_MKNOD, 2);
	n += verdict(p + n, 1);
	for (uint32_t i = 0; more && i < more->n && i < AGENT_DEVICES_MAX; i++)
		n += allow(p + n, more, i);
	/* Past the next test, a jump over the refusal. */

	p[n++] = unless(TYPE, BPF_DEVCG_DEV_CHAR, 1);
	p[n++] = (struct bpf_insn){.code = BPF_JMP | BPF_JA, .off = 2};
	n += verdict(p + n, 0);
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
		bool any = allowed[i].minor == ANY;
		p[n++] = unless(MAJOR, allowed[i].major, any ? 2 : 3);
		if (!any)
			p[n++] = unless(MINOR, allowed[i].minor, 2);
		n += verdict(p + n, 1);
	}
	n += verdict(p + n, 0);

	static const char license[] = "GPL";
	union bpf_attr attr;
	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insns = (uintptr_t)p;
	attr.insn_cnt = (uint32_t)n;
	attr.license = (uintptr_t)license;
	long fd = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
	if (fd < 0)
		return err_errno(err, "load the device rules");
	*ret_program = (int)fd;
	return 0;
}

int cgroup_devices_attach(int program, int cgroup, struct err *err)
{
	/* bpf(2) does not take O_PATH descriptors. */
	_cleanup_close_ int directory = openat(cgroup, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		return err_errno(err, "open a cgroup");
	union bpf_attr attr;
	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (uint32_t)directory;
	attr.attach_bpf_fd = (uint32_t)program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = BPF_F_ALLOW_MULTI;
	if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof(attr)) < 0)
		return err_errno(err, "attach the device rules");
	return 0;
}
