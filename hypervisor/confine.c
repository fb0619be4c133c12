#include "hypervisor/confine.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>

/*
 * Leaks are looked for by a second process on our memory, through /proc, which is not there any
 * more. It would complain and end, and the one that is about to end could wait for it for ever.
 */
int __lsan_is_turned_off(void)
{
	return 1;
}

/* AddressSanitizer opens its report's file with the first word, when it is not there any more. */
static void open_report(void)
{
	__sanitizer_get_report_path();
}
#else
static void open_report(void)
{
}
#endif

static void cap_freep(cap_t *caps)
{
	if (*caps)
		cap_free(*caps);
}

/* Also not -1, which is no id. */
static bool read_id(const char **text, char end, uint32_t *ret)
{
	char *rest;
	errno = 0;
	unsigned long id = strtoul(*text, &rest, 10);
	if (errno || !isdigit((unsigned char)**text) || *rest != end || id >= UINT32_MAX)
		return false;
	*text = rest + (end ? 1 : 0);
	*ret = (uint32_t)id;
	return true;
}

int confine_user(const char *text, struct confine_user *ret, struct err *err)
{
	const char *rest = text;
	*ret = (struct confine_user){geteuid(), getegid()};
	if (text && (!read_id(&rest, ':', &ret->uid) || !read_id(&rest, '\0', &ret->gid)))
		return err_set(err, -EINVAL, "--user %s: not UID:GID", text);
	return 0;
}

int confine_beside(const char *path, const char **ret_path, struct err *err)
{
	char dir[PATH_MAX] = ".";
	const char *slash = strrchr(path, '/');
	if (ret_path)
		*ret_path = path;
	if (geteuid() != 0)
		return 0;
	if (slash &&
		snprintf(dir, sizeof(dir), "%.*s/", (int)(slash - path), path) >= (int)sizeof(dir))
		return err_set(err, -ENAMETOOLONG, "the directory of %s", path);
	open_report();
	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		return err_errno(err, "make namespaces");
	/* What the host mounts from here on does not come in. */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_errno(err, "make the mounts private");
	if (chdir(dir) < 0 || chroot(".") < 0)
		return err_errno(err, "make %s the root", dir);
	if (ret_path && slash)
		*ret_path = slash + 1;
	return 0;
}

static int drop_capabilities(struct err *err)
{
	/* Only who has CAP_SETPCAP can, and needs to, empty the bounding set. */
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++) {
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1 &&
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EPERM)
			return err_errno(err, "drop capability %d", cap);
	}
	return 0;
}

int confine_become(const struct confine_user *user, struct err *err)
{
	int r = drop_capabilities(err);
	if (r < 0)
		return r;
	if (geteuid() == 0 && setgroups(0, NULL) < 0)
		return err_errno(err, "give up groups");
	if (setresgid(user->gid, user->gid, user->gid) < 0 ||
		setresuid(user->uid, user->uid, user->uid) < 0)
		return err_errno(err, "become user %u:%u", user->uid, user->gid);
	return 0;
}

#ifndef __SANITIZE_ADDRESS__
static int allow(scmp_filter_ctx filter, const int *calls, size_t n)
{
	int r = 0;
	for (size_t i = 0; i < n && r == 0; i++)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
	return r;
}

static int add_rules(scmp_filter_ctx filter, const struct confine_rights *rights)
{
	static const int always[] = {
		/* memory */
		SCMP_SYS(brk),
		SCMP_SYS(munmap),
		SCMP_SYS(mremap),
		SCMP_SYS(madvise),
		/* signals, locks, the log's time */
		SCMP_SYS(clock_gettime),
		SCMP_SYS(futex),
		SCMP_SYS(restart_syscall),
		SCMP_SYS(rt_sigreturn),
		/* the end, by abort() too */
		SCMP_SYS(exit_group),
		SCMP_SYS(exit),
		SCMP_SYS(getpid),
		SCMP_SYS(gettid),
		SCMP_SYS(tgkill),
		SCMP_SYS(rt_sigprocmask),
		SCMP_SYS(rt_sigaction),
	};
	int r = allow(filter, always, ARRAY_SIZE(always));
	if (r == 0)
		r = allow(filter, rights->calls, rights->n_calls);
	if (r == 0 && rights->unix_sockets)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
			SCMP_A0(SCMP_CMP_EQ, AF_UNIX, 0));
	/* Nothing becomes code. */
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
			SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
			SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	return r;
}

static int load_filter(const struct confine_rights *rights, struct err *err)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!filter)
		return err_nomem(err);
	int r = add_rules(filter, rights);
	if (r == 0)
		r = seccomp_load(filter);
	seccomp_release(filter);
	return r < 0 ? err_set(err, r, "load the system call filter: error %d", -r) : 0;
}
#else
/* The sanitizer's own calls at exit are not ours to list. */
static int load_filter(const struct confine_rights *rights, struct err *err)
{
	(void)rights;
	(void)err;
	return 0;
}
#endif

/* Without capabilities a limit is only lowered: what the host allows may be less. */
static int limit_files(rlim_t files, struct err *err)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return err_errno(err, "ask for limits");
	if (limit.rlim_max > files)
		limit.rlim_max = files;
	limit.rlim_cur = limit.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? err_errno(err, "set limits") : 0;
}

int confine_keep(const struct confine_rights *rights, struct err *err)
{
	/* The log's gmtime_r() would open the time zone's file at its first event. */
	tzset();
	_cleanup_(cap_freep) cap_t none = cap_init();
	if (!none || cap_set_proc(none) < 0)
		return err_errno(err, "give up capabilities");
	const struct rlimit no_core = {0};
	int r = limit_files(rights->files, err);
	if (r < 0)
		return r;
	if (setrlimit(RLIMIT_CORE, &no_core) < 0)
		return err_errno(err, "forbid core dumps");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_errno(err, "give up privileges");
	return load_filter(rights, err);
}
