#include "agent/security.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"

/* As systemd gives to a service, and so as containerd's containers have it. */
#define FILES_SOFT 1024
#define FILES_HARD 524288

int security_capabilities(char *const *names, size_t n, uint64_t *ret_mask, struct err *err)
{
	uint64_t mask = 0;
	for (size_t i = 0; i < n; i++) {
		cap_value_t value = 0;
		if (strncmp(names[i], "CAP_", 4) != 0 || cap_from_name(names[i], &value) < 0 ||
			value < 0 || value > 63)
			return err_set(err, -EINVAL, "unknown capability %s", names[i]);
		mask |= UINT64_C(1) << value;
	}
	*ret_mask = mask;
	return 0;
}

uint64_t security_all_capabilities(void)
{
	uint64_t mask = 0;
	for (int cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
		mask |= UINT64_C(1) << cap;
	return mask;
}

int security_oom_score_adj(int adj, struct err *err)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", adj);
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, (size_t)len) != len)
		return err_errno(err, "set oom_score_adj to %d", adj);
	return 0;
}

static int reset_limits(struct err *err)
{
	static const struct {
		int resource;
		rlim_t soft;
		rlim_t hard;
	} limits[] = {
		{RLIMIT_NOFILE, FILES_SOFT, FILES_HARD},
		{RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY}, /* the cgroup's pids limit counts */
		{RLIMIT_CORE, 0, RLIM_INFINITY},
	};
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		struct rlimit limit = {.rlim_cur = limits[i].soft, .rlim_max = limits[i].hard};
		struct rlimit now;
		__rlimit_resource_t resource = (__rlimit_resource_t)limits[i].resource;
		/* Without CAP_SYS_RESOURCE, as on the host of a test, a limit cannot be raised. */
		if (setrlimit(resource, &limit) < 0 && errno == EPERM &&
			getrlimit(resource, &now) == 0) {
			limit.rlim_max = now.rlim_max;
			if (limit.rlim_cur > limit.rlim_max)
				limit.rlim_cur = limit.rlim_max;
		}
		if (setrlimit(resource, &limit) < 0)
			return err_errno(err, "set resource limit %d", limits[i].resource);
	}
	return 0;
}

static int drop_bounding(uint64_t keep, struct err *err)
{
	for (int cap = 0; cap < 64 && prctl(PR_CAPBSET_READ, cap) >= 0; cap++) {
		if (!(keep & UINT64_C(1) << cap) && prctl(PR_CAPBSET_DROP, cap) < 0)
			return err_errno(err, "drop capability %d", cap);
	}
	return 0;
}

static int name_capability(cap_t caps, cap_flag_t set, uint64_t mask, int cap)
{
	cap_value_t value = cap;
	return mask & UINT64_C(1) << cap ? cap_set_flag(caps, set, 1, &value, CAP_SET) : 0;
}

static int set_capabilities(uint64_t mask, uint64_t inheritable, struct err *err)
{
	cap_t caps = cap_init();
	if (!caps)
		return err_nomem(err);
	int r = 0;
	for (int cap = 0; r == 0 && cap < 64 && prctl(PR_CAPBSET_READ, cap) >= 0; cap++) {
		if (name_capability(caps, CAP_PERMITTED, mask, cap) < 0 ||
			name_capability(caps, CAP_EFFECTIVE, mask, cap) < 0 ||
			name_capability(caps, CAP_INHERITABLE, inheritable, cap) < 0)
			r = err_errno(err, "name capability %d", cap);
	}
	if (r == 0 && cap_set_proc(caps) < 0)
		r = err_errno(err, "set capabilities");
	cap_free(caps);
	return r;
}

static int raise_ambient(uint64_t mask, struct err *err)
{
	for (int cap = 0; cap < 64; cap++) {
		if (mask & UINT64_C(1) << cap &&
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return err_errno(err, "make capability %d ambient", cap);
	}
	return 0;
}

/* What the last steps need beyond what the program gets; the exec takes it away. */
static uint64_t until_exec(const struct security *security)
{
	bool privileged_load = security->filtered && !security->no_new_privs;
	return privileged_load ? UINT64_C(1) << CAP_SYS_ADMIN : 0;
}

static int enter_userns(const struct security *security, struct err *err)
{
	if (security->userns <= 0)
		return 0;
	if (setns(security->userns, CLONE_NEWUSER) < 0)
		return err_errno(err, "enter the pod's user namespace");
	return unshare(security->unshare) < 0 ? err_errno(err, "unshare namespaces") : 0;
}

int security_apply(const struct user *user, const struct security *security, struct err *err)
{
	uint64_t ambient = security->ambient & security->capabilities;
	uint64_t own = user->uid == 0 ? security->capabilities : ambient;
	umask(0022);
	/* Else the container would share the keys of whoever made the agent's session. */
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		return err_errno(err, "join a session keyring");
	if (reset_limits(err) < 0 || enter_userns(security, err) < 0)
		return err->code;
	if (prctl(PR_SET_SECUREBITS, SECUREBITS_DEFAULT) < 0)
		return err_errno(err, "set securebits");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return err_errno(err, "clear ambient capabilities");
	if (drop_bounding(security->capabilities, err) < 0)
		return err->code;
	if (setgroups(user->n_groups, user->groups) < 0)
		return err_errno(err, "set %zu groups", user->n_groups);
	if (setresgid(user->gid, user->gid, user->gid) < 0)
		return err_errno(err, "set group %u", user->gid);
	/* Until the exec. */
	if (prctl(PR_SET_KEEPCAPS, 1) < 0)
		return err_errno(err, "keep capabilities");
	if (setresuid(user->uid, user->uid, user->uid) < 0)
		return err_errno(err, "set user %u", user->uid);
	if (set_capabilities(own | until_exec(security), ambient, err) < 0 ||
		raise_ambient(ambient, err) < 0)
		return err->code;
	if (security->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(err, "set no_new_privs");
	return 0;
}

int security_filter_load(const struct security_filter *filter, struct err *err)
{
	size_t n = filter->len / sizeof(struct sock_filter);
	if (n == 0)
		return 0;
	if (n > BPF_MAXINSNS || filter->len % sizeof(struct sock_filter))
		return err_set(err, -EINVAL, "a seccomp filter of %zu bytes", filter->len);
	struct sock_fprog program = {(unsigned short)n, (struct sock_filter *)filter->program};
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, filter->flags, &program) < 0)
		return err_errno(err, "load the seccomp filter");
	return 0;
}
