/* From a profile to the kernel's program, by libseccomp. */
#include "cri-server/seccomp/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/seccomp/cache.h"

#define PROGRAM_MAX (BPF_MAXINSNS * sizeof(struct sock_filter))
/* A bit in the number of x32's calls. */
#define X32_BIT 0x40000000u

static bool is_error(uint32_t action)
{
	return (action & 0xffff0000u) == SCMP_ACT_ERRNO(0);
}

/* ---- calls that the profile is too old for ---- */

/* The largest number among the profile's names; negative when there is none. */
static int newest_call(const struct profile *profile, uint32_t arch)
{
	int newest = -1;
	for (size_t i = 0; i < profile->n_rules; i++) {
		const struct profile_rule *rule = &profile->rules[i];
		for (size_t k = 0; k < rule->n_names; k++) {
			int nr = seccomp_syscall_resolve_name_arch(arch, rule->names[k]);
			if (nr > newest)
				newest = nr;
		}
	}
	return newest;
}

/*
 * "Newer than what is named: ENOSYS", per architecture, before libseccomp's program. A jump's
 * target counts from the next instruction, so the program behind stays as it is.
 */
static size_t write_prologue(const struct profile *profile, struct sock_filter *out)
{
	static const struct {
		unsigned flag;
		uint32_t arch;
		uint32_t audit;
	} arches[] = {
		{PROFILE_X86_64, SCMP_ARCH_X86_64, AUDIT_ARCH_X86_64},
		{PROFILE_X86, SCMP_ARCH_X86, AUDIT_ARCH_I386},
	};
	const struct sock_filter enosys = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS);
	size_t n = 0;
	for (size_t i = 0; i < ARRAY_SIZE(arches); i++) {
		int newest = newest_call(profile, arches[i].arch);
		if (!(profile->arches & arches[i].flag) || newest < 0)
			continue;
		out[n++] = (struct sock_filter)BPF_STMT(
			BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
		out[n++] = (struct sock_filter)BPF_JUMP(
			BPF_JMP | BPF_JEQ | BPF_K, arches[i].audit, 0, 4);
		out[n++] = (struct sock_filter)BPF_STMT(
			BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
		/* x32 and the -1 of a call that a tracer took away are none of "newer". */
		out[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 2, 0);
		out[n++] = (struct sock_filter)BPF_JUMP(
			BPF_JMP | BPF_JGT | BPF_K, (uint32_t)newest, 0, 1);
		out[n++] = enosys;
	}
	return n;
}

/* ---- libseccomp ---- */

static bool two_on_one_argument(const struct profile_rule *rule)
{
	unsigned seen = 0;
	for (size_t i = 0; i < rule->n_args; i++) {
		unsigned bit = 1u << rule->args[i].arg;
		if (seen & bit)
			return true;
		seen |= bit;
	}
	return false;
}

static int add_call(
	scmp_filter_ctx ctx, const struct profile_rule *rule, const char *name, struct err *err)
{
	int nr = seccomp_syscall_resolve_name(name);
	int r = 0;
	if (nr == __NR_SCMP_ERROR)
		return 0;
	if (!two_on_one_argument(rule))
		r = seccomp_rule_add_array(
			ctx, rule->action, nr, (unsigned)rule->n_args, rule->args);
	else
		for (size_t i = 0; i < rule->n_args && r == 0; i++)
			r = seccomp_rule_add_array(ctx, rule->action, nr, 1, &rule->args[i]);
	/* Some calls are none of a second architecture's. */
	return r < 0 && r != -EDOM ? err_set(err, -EINVAL, "rule for %.64s: %s", name, strerror(-r))
				   : 0;
}

static int fill(scmp_filter_ctx ctx, const struct profile *profile, struct err *err)
{
	if ((profile->arches & PROFILE_X86 && seccomp_arch_add(ctx, SCMP_ARCH_X86) < 0) ||
		(profile->arches & PROFILE_X32 && seccomp_arch_add(ctx, SCMP_ARCH_X32) < 0))
		return err_set(err, -EINVAL, "add an architecture");
	/* A search tree instead of a chain: hundreds of comparisons less for each call. */
	if (seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2) < 0)
		return err_set(err, -EINVAL, "set the optimisation");
	for (size_t i = 0; i < profile->n_rules; i++) {
		const struct profile_rule *rule = &profile->rules[i];
		if (rule->action == profile->default_action)
			continue;
		for (size_t k = 0; k < rule->n_names; k++) {
			if (add_call(ctx, rule, rule->names[k], err) < 0)
				return err->code;
		}
	}
	return 0;
}

/* The program, behind the n instructions of the prologue. */
static int export_program(scmp_filter_ctx ctx, const struct sock_filter *prologue, size_t n,
	struct filter *ret, struct err *err)
{
	_cleanup_close_ int fd = memfd_create("seccomp", MFD_CLOEXEC);
	struct stat st;
	int r = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);
	if (r < 0 || fstat(fd, &st) < 0)
		return err_set(err, r < 0 ? r : -errno, "export the program");
	size_t len = (size_t)st.st_size, before = n * sizeof(*prologue);
	if (before + len > PROGRAM_MAX)
		return err_set(err, -E2BIG,
			"it compiles to %zu instructions, and a kernel takes %d",
			(before + len) / sizeof(struct sock_filter), BPF_MAXINSNS);
	_cleanup_free_ uint8_t *program = malloc(before + len);
	if (!program)
		return err_nomem(err);
	memcpy(program, prologue, before);
	if (pread(fd, program + before, len, 0) != (ssize_t)len)
		return err_set(err, -EIO, "read the program");
	ret->program = TAKE_PTR(program);
	ret->len = before + len;
	return 0;
}

int profile_compile(const struct profile *profile, struct filter *ret, struct err *err)
{
	struct sock_filter prologue[16];
	size_t n = is_error(profile->default_action) ? write_prologue(profile, prologue) : 0;
	scmp_filter_ctx ctx = seccomp_init(profile->default_action);
	if (!ctx)
		return err_nomem(err);
	struct filter filter = {.flags = profile->flags};
	int r = fill(ctx, profile, err);
	if (r == 0)
		r = export_program(ctx, prologue, n, &filter, err);
	seccomp_release(ctx);
	if (r < 0)
		return r;
	*ret = filter;
	return 0;
}

void filter_done(struct filter *filter)
{
	free(filter->program);
	*filter = (struct filter){0};
}

/* ---- a file ---- */

static int read_file(const char *path, char **ret, size_t *ret_len, struct err *err)
{
	struct stat st;
	/* Non-blocking: a FIFO in its place would hold us. */
	_cleanup_close_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(err, -EINVAL, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "not a regular file");
	if (st.st_size > PROFILE_FILE_MAX)
		return err_set(err, -EINVAL, "larger than %u bytes", PROFILE_FILE_MAX);
	size_t size = (size_t)st.st_size;
	_cleanup_free_ char *text = malloc(size + 1);
	if (!text)
		return err_nomem(err);
	ssize_t n = read(fd, text, size);
	if (n < 0)
		return err_set(err, -EINVAL, "%s", strerror(errno));
	*ret = TAKE_PTR(text);
	*ret_len = (size_t)n;
	return 0;
}

static int compile_text(const char *text, size_t len, struct filter *ret, struct err *err)
{
	struct profile profile = {0};
	int r = profile_parse(text, len, &profile, err);
	if (r == 0)
		r = profile_compile(&profile, ret, err);
	profile_done(&profile);
	return r;
}

int filter_from_file(
	struct filter_cache *cache, const char *path, struct filter *ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = path[0] == '/' ? read_file(path, &text, &len, err)
			       : err_set(err, -EINVAL, "not an absolute path");
	if (r == 0)
		r = filter_cache_find(cache, FILTER_FILE, text, len, ret, err);
	if (r > 0) {
		r = compile_text(text, len, ret, err);
		if (r == 0)
			filter_cache_keep(cache, FILTER_FILE, text, len, ret);
	}
	if (r < 0) {
		if (r == -E2BIG)
			err->code = -EINVAL;
		return err_wrap(err, "seccomp profile '%.256s'", path);
	}
	return 0;
}
