#include "hypervisor/user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"

void user_find_qemu(struct user *ret)
{
	static const char *const names[] = {"libvirt-qemu", "qemu"};
	struct passwd passwd, *found = NULL;
	struct group group, *found_group = NULL;
	char buffer[4096];

	*ret = (struct user){0};
	for (size_t i = 0; i < ARRAY_SIZE(names) && !found; i++)
		if (getpwnam_r(names[i], &passwd, buffer, sizeof(buffer), &found) != 0)
			found = NULL;
	if (!found)
		return;
	snprintf(ret->name, sizeof(ret->name), "%s", found->pw_name);
	ret->uid = found->pw_uid;
	ret->gid = found->pw_gid;
	ret->n_groups = USER_GROUPS_MAX;
	if (getgrouplist(ret->name, ret->gid, ret->groups, &ret->n_groups) < 0)
		ret->n_groups = USER_GROUPS_MAX;
	if (getgrgid_r(ret->gid, &group, buffer, sizeof(buffer), &found_group) == 0 && found_group)
		snprintf(ret->group, sizeof(ret->group), "%s", found_group->gr_name);
}

int user_become(const struct user *user)
{
	if (!user->name[0] || geteuid() != 0)
		return 0;
	/* The plain system calls: glibc's wrappers talk to threads, which a forked child does not
	 * have. */
	if (syscall(SYS_setgroups, user->n_groups, user->groups) < 0 ||
		syscall(SYS_setresgid, user->gid, user->gid, user->gid) < 0 ||
		syscall(SYS_setresuid, user->uid, user->uid, user->uid) < 0)
		return -errno;
	return 0;
}

bool user_can(const struct user *user, const char *path, int mode)
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return false;
	if (pid == 0)
		_exit(user_become(user) < 0 || access(path, mode) < 0);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
