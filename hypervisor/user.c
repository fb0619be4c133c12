#include "hypervisor/user.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"

#define GROUPS_MAX 32

/* That of /dev/kvm, where QEMU's user has it, also if it is not its first: machines have one. */
static gid_t pick_group(const char *name, gid_t first)
{
	gid_t groups[GROUPS_MAX];
	int n = GROUPS_MAX;
	struct stat st;

	if (stat("/dev/kvm", &st) < 0 || getgrouplist(name, first, groups, &n) < 0)
		return first;
	for (int i = 0; i < n; i++)
		if (groups[i] == st.st_gid)
			return st.st_gid;
	return first;
}

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
	ret->gid = pick_group(ret->name, found->pw_gid);
	if (getgrgid_r(ret->gid, &group, buffer, sizeof(buffer), &found_group) == 0 && found_group)
		snprintf(ret->group, sizeof(ret->group), "%s", found_group->gr_name);
}

uid_t user_pick(void)
{
	return USER_MACHINE_MIN + arc4random_uniform(USER_MACHINE_MAX - USER_MACHINE_MIN + 1);
}

int user_become_machine(const struct user *qemu)
{
	if (!qemu->name[0] || geteuid() != 0)
		return 0;
	/* The plain system calls: glibc's wrappers talk to threads, which a forked child does not
	 * have. */
	if (syscall(SYS_setgroups, 0, NULL) < 0 ||
		syscall(SYS_setresgid, qemu->gid, qemu->gid, qemu->gid) < 0 ||
		syscall(SYS_setresuid, USER_OF_NONE, USER_OF_NONE, USER_OF_NONE) < 0)
		return -errno;
	return 0;
}

bool user_machine_can(const struct user *qemu, const char *path, int mode)
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return false;
	if (pid == 0)
		_exit(user_become_machine(qemu) < 0 || access(path, mode) < 0);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
