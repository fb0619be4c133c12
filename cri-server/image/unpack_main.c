/*
 * bulkhead-unpack BLOB DIRECTORY BYTES FILES: unpacks the layer BLOB into DIRECTORY and prints its
 * diff id.
 *
 * A process of its own because what it reads is hostile and what it does needs root (owners,
 * devices, trusted attributes). In a mount namespace of its own DIRECTORY becomes its root, on a
 * mount where devices cannot be opened and nothing can be executed or mapped to be; it keeps the
 * capabilities and system calls that writing a tree takes. Whatever glibc and OpenSSL load lazily
 * is loaded before that: afterwards they would find the layer's files in the place of the host's.
 * Exit codes: 0; 1 malformed; 2 a limit; 3 no space; 4 anything else. The reason is on stderr.
 */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <seccomp.h>

#include "common/fd.h"
#include "cri-server/image/unpack.h"

static int load_libraries(struct err *err)
{
	/* Names in pax headers are UTF-8; without such a locale libarchive gives up on them. */
	if (!setlocale(LC_ALL, "C.UTF-8") || mbstowcs(NULL, "\xc3\xa9", 0) != 1)
		return err_set(err, -EIO, "this host has no locale C.UTF-8");
	if (!OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL))
		return err_set(err, -EIO, "OpenSSL does not start");
	return 0;
}

static int enter(const char *directory, struct err *err)
{
	const unsigned long flags = MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOEXEC | MS_NOSUID;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_errno(err, "make a mount namespace");
	if (mount(directory, directory, NULL, MS_BIND, NULL) < 0 ||
		mount(NULL, directory, NULL, flags, NULL) < 0)
		return err_errno(err, "mount %s", directory);
	if (chdir(directory) < 0 || chroot(".") < 0)
		return err_errno(err, "enter %s", directory);
	/* What a layer that does not mention its root gets. */
	umask(0);
	return chmod(".", 0755) < 0 ? err_errno(err, "change the mode of %s", directory) : 0;
}

static int drop_capabilities(struct err *err)
{
	static const cap_value_t kept[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID,
		CAP_MKNOD, CAP_SETFCAP, CAP_SYS_ADMIN /* trusted.* attributes */};
	cap_t caps = cap_init();
	if (!caps)
		return err_nomem(err);
	bool ok = cap_set_flag(caps, CAP_PERMITTED, ARRAY_SIZE(kept), kept, CAP_SET) == 0 &&
		  cap_set_flag(caps, CAP_EFFECTIVE, ARRAY_SIZE(kept), kept, CAP_SET) == 0 &&
		  cap_set_proc(caps) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
	int r = ok ? 0 : err_errno(err, "drop capabilities");
	cap_free(caps);
	return r;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* Their runtimes call what they like; and leaks are looked for in /proc, which is not there. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return 1;
}

static int limit_calls(struct err *err)
{
	(void)err;
	return 0;
}
#else
static const int calls[] = {SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
	SCMP_SYS(lseek), SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(close),
	SCMP_SYS(fcntl), SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(fstat), SCMP_SYS(newfstatat),
	SCMP_SYS(statfs), SCMP_SYS(fstatfs), SCMP_SYS(getdents64), SCMP_SYS(getcwd),
	SCMP_SYS(chdir), SCMP_SYS(fchdir), SCMP_SYS(mkdir), SCMP_SYS(mkdirat), SCMP_SYS(mknod),
	SCMP_SYS(mknodat), SCMP_SYS(link), SCMP_SYS(linkat), SCMP_SYS(symlink), SCMP_SYS(symlinkat),
	SCMP_SYS(readlink), SCMP_SYS(unlink), SCMP_SYS(unlinkat), SCMP_SYS(rmdir),
	SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(chmod), SCMP_SYS(fchmod),
	SCMP_SYS(fchmodat), SCMP_SYS(chown), SCMP_SYS(fchown), SCMP_SYS(lchown), SCMP_SYS(fchownat),
	SCMP_SYS(utimensat), SCMP_SYS(umask), SCMP_SYS(truncate), SCMP_SYS(ftruncate),
	SCMP_SYS(setxattr), SCMP_SYS(lsetxattr), SCMP_SYS(fsetxattr), SCMP_SYS(getxattr),
	SCMP_SYS(lgetxattr), SCMP_SYS(fgetxattr), SCMP_SYS(removexattr), SCMP_SYS(fremovexattr),
	SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(brk), SCMP_SYS(madvise), SCMP_SYS(futex),
	SCMP_SYS(getrandom), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(getpid),
	SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid),
	SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(exit),
	SCMP_SYS(exit_group)};

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
		return 3;
	default:
		return 4;
	}
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	char diff_id[72];
	if (argc != 5) {
		fputs("usage: bulkhead-unpack BLOB DIRECTORY BYTES FILES\n", stderr);
		return 4;
	}
	const struct unpack_limits limits = {
		.bytes = strtoull(argv[3], NULL, 10),
		.files = strtoull(argv[4], NULL, 10),
	};
	_cleanup_close_ int blob = open(argv[1], O_RDONLY | O_CLOEXEC);
	int r = blob < 0 ? err_errno(&err, "open %s", argv[1]) : load_libraries(&err);
	if (r == 0)
		r = enter(argv[2], &err);
	if (r == 0)
		r = drop_capabilities(&err);
	if (r == 0)
		r = limit_calls(&err);
	if (r == 0)
		r = unpack_layer(blob, &limits, diff_id, &err);
	if (r < 0)
		fprintf(stderr, "%s\n", err.msg);
	else
		puts(diff_id);
	return exit_code(r);
}
