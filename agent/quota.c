#include "agent/quota.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* QCMD() shifts the command out of an int. */
#define PROJECT_QUOTA(command) QCMD((unsigned)(command), PRJQUOTA)

int quota_project_set(int directory, uint32_t project, struct err *err)
{
	struct fsxattr attributes;
	if (ioctl(directory, FS_IOC_FSGETXATTR, &attributes) < 0)
		return err_errno(err, "read the directory's project");
	attributes.fsx_projid = project;
	attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
	if (ioctl(directory, FS_IOC_FSSETXATTR, &attributes) < 0)
		return err_errno(err, "set the directory's project");
	return 0;
}

int quota_project_limit(int directory, uint32_t project, uint64_t bytes, struct err *err)
{
	struct if_dqblk block = {
		.dqb_bhardlimit = bytes / QIF_DQBLKSIZE,
		.dqb_valid = QIF_BLIMITS,
	};
	if (syscall(SYS_quotactl_fd, directory, PROJECT_QUOTA(Q_SETQUOTA), project, &block) < 0)
		return err_errno(err, "limit the writable layer");
	return 0;
}

int quota_project_usage(int directory, uint32_t project, uint64_t *ret_bytes, uint64_t *ret_inodes)
{
	struct if_dqblk block;
	if (syscall(SYS_quotactl_fd, directory, PROJECT_QUOTA(Q_GETQUOTA), project, &block) < 0)
		return -errno;
	*ret_bytes = block.dqb_curspace;
	*ret_inodes = block.dqb_curinodes;
	return 0;
}
