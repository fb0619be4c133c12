/*
 * bulkhead-unpack BLOB IMAGE BYTES FILES: makes of the layer BLOB the EROFS image IMAGE, a new
 * file, and prints its diff id, with " opaque" where the layer hides all below it.
 *
 * A process of its own because what it reads is hostile. When both files are open it becomes
 * nobody, without capabilities, and keeps the system calls that reading one, writing the other and
 * memory take: it can open, execute and connect to nothing. Its memory is limited. Whatever glibc
 * and OpenSSL load lazily is loaded before.
 * Exit codes: 0; 1 malformed; 2 a limit; 3 no space; 4 anything else. The reason is on stderr.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <locale.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <seccomp.h>

#include "common/fd.h"
#include "cri-server/image/unpack.h"

#define NOBODY 65534
/* Two million names take about half of it. */
#define MEMORY_MAX (1536ul << 20)

static int load_libraries(struct err *err)
{
	/* Names in pax headers are UTF-8; without such a locale libarchive gives up on them. */
	if (!setlocale(LC_ALL, "C.UTF-8") || mbstowcs(NULL, "\xc3\xa9", 0) != 1)
		return err_set(err, -EIO, "this host has no locale C.UTF-8");
	if (!OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL))
		return err_set(err, -EIO, "OpenSSL does not start");
	return 0;
}

static int become_nobody(struct err *err)
{
	pid_t parent = getppid();
	if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
				      setresuid(NOBODY, NOBODY, NOBODY) < 0))
		return err_errno(err, "become nobody");
	cap_t none = cap_init();
	if (!none)
		return err_nomem(err);
	bool ok = cap_set_proc(none) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
	int r = ok ? 0 : err_errno(err, "drop capabilities");
	cap_free(none);
	/* Another user's process: the kernel forgot that this one ends with its parent. */
	if (r == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		r = err_errno(err, "set the death signal");
	if (r == 0 && getppid() != parent)
		r = err_set(err, -ECANCELED, "its parent has ended");
	return r;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* Their runtimes call what they like, and take terabytes of addresses; leaks are looked for in
 * /proc, which nobody may read. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return 1;
}

static int limit_memory(struct err *err)
{
	(void)err;
	return 0;
}

static int limit_calls(struct err *err)
{
	(void)err;
	return 0;
}
#else
static int limit_memory(struct err *err)
{
	const struct rlimit limit = {MEMORY_MAX, MEMORY_MAX};
	return setrlimit(RLIMIT_AS, &limit) < 0 ? err_errno(err, "limit memory") : 0;
}

static const int calls[] = {SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(pwrite64), SCMP_SYS(lseek),
	SCMP_SYS(ftruncate), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(close),
	SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(brk), SCMP_SYS(madvise), SCMP_SYS(futex),
	SCMP_SYS(getrandom), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(exit), SCMP_SYS(exit_group)};

static int limit_calls(struct err *err)
{
	const struct scmp_arg_cmp no_exec = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	if (!filter)
		return err_nomem(err);
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(calls) && r == 0; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, no_exec);
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, no_exec);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r < 0 ? err_set(err, r, "limit the system calls: libseccomp says %d", r) : 0;
}
#endif

static int confine(struct err *err)
{
	int r = become_nobody(err);
	if (r == 0)
		r = limit_memory(err);
	return r < 0 ? r : limit_calls(err);
}

static int exit_code(int code)
{
	switch (code) {
	case 0:
		return 0;
	case -EBADMSG:
		return 1;
	case -EFBIG:
		return 2;
	case -ENOSPC:
	case -EDQUOT:
		return 3;
	default:
		return 4;
	}
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	struct unpack_result result = {0};
	if (argc != 5) {
		fputs("usage: bulkhead-unpack BLOB IMAGE BYTES FILES\n", stderr);
		return 4;
	}
	const struct unpack_limits limits = {
		.bytes = strtoull(argv[3], NULL, 10),
		.files = strtoull(argv[4], NULL, 10),
	};
	_cleanup_close_ int blob = open(argv[1], O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int image = open(argv[2], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int r = 0;
	if (blob < 0 || image < 0)
		r = err_errno(&err, "open %s", argv[blob < 0 ? 1 : 2]);
	if (r == 0)
		r = load_libraries(&err);
	if (r == 0)
		r = confine(&err);
	if (r == 0)
		r = unpack_layer(blob, image, &limits, &result, &err);
	if (r < 0)
		fprintf(stderr, "%s\n", err.msg);
	else
		printf("%s%s\n", result.diff_id, result.opaque ? " opaque" : "");
	return exit_code(r);
}
