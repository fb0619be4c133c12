#include "agent/clone.h"

#include <assert.h>
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"

int clone_join(int pidfd, int namespaces, struct err *err)
{
	if (setns(pidfd, namespaces) == 0)
		return 0;
	return errno == ESRCH ? err_set(err, -EBADFD, "the container has ended")
			      : err_errno(err, "join the container's namespaces");
}

pid_t clone_child(const struct clone_spec *spec, int *ret_pidfd, struct err *err)
{
	int pidfd = -EBADF;
	struct clone_args args;
	memset(&args, 0, sizeof(args));
	args.flags = spec->flags | CLONE_PIDFD;
	args.pidfd = (uintptr_t)&pidfd;
	args.exit_signal = SIGCHLD;
	if (spec->cgroup >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)spec->cgroup;
	}
	if (spec->pidns_of >= 0 && clone_join(spec->pidns_of, CLONE_NEWPID, err) < 0)
		return err->code;
	int dumpable = prctl(PR_GET_DUMPABLE);
	prctl(PR_SET_DUMPABLE, 0);
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	int saved = errno;
	if (pid == 0)
		return 0;
	prctl(PR_SET_DUMPABLE, dumpable == 1);
	if (spec->pidns_of >= 0) {
		/* The own namespace is always an ancestor; else every later child would be astray.
		 */
		int r = setns(spec->pidns_own, CLONE_NEWPID);
		assert(r == 0);
		(void)r;
	}
	errno = saved;
	if (pid < 0)
		return err_errno(err, "clone");
	*ret_pidfd = pidfd;
	return pid;
}
