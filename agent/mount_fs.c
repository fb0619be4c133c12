#include "agent/mount_fs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"

/* The kernel explains a failed mount in messages that are read from the context: "e <text>\n". */
static int context_error(int fs, const char *what, const char *type, struct err *err)
{
	int code = errno;
	char message[256];
	ssize_t n = read(fs, message, sizeof(message) - 1);
	errno = code;
	if (n <= 2)
		return err_errno(err, "%s %s", what, type);
	message[n] = '\0';
	message[strcspn(message, "\n")] = '\0';
	return err_errno(err, "%s %s: %s", what, type, message + 2);
}

int mount_fs(const char *type, const struct mount_option *options, unsigned attributes, int *ret_fd,
	struct err *err)
{
	_cleanup_close_ int fs = fsopen(type, FSOPEN_CLOEXEC);
	if (fs < 0)
		return err_errno(err, "open file system %s", type);
	for (const struct mount_option *o = options; o && o->key; o++) {
		unsigned command = o->value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;
		if (fsconfig(fs, command, o->key, o->value, 0) < 0)
			return context_error(fs, o->key, type, err);
	}
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return context_error(fs, "mount", type, err);
	int fd = fsmount(fs, FSMOUNT_CLOEXEC, attributes);
	if (fd < 0)
		return context_error(fs, "mount", type, err);
	*ret_fd = fd;
	return 0;
}

int mount_copy(int source, int *ret_fd, struct err *err)
{
	int fd = open_tree(
		source, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
	if (fd < 0)
		return err_errno(err, "copy a mount");
	*ret_fd = fd;
	return 0;
}

int mount_attach(int mount, int target, struct err *err)
{
	if (move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) <
		0)
		return err_errno(err, "attach a mount");
	return 0;
}

int mount_read_only(int mount, unsigned flags, struct err *err)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
	if (mount_setattr(mount, "", AT_EMPTY_PATH | flags, &attr, sizeof(attr)) < 0)
		return err_errno(err, "make a mount read-only");
	return 0;
}
