/*
 * The part of stdio.h that runs in the forked child, inside the container's namespaces.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "agent/stdio.h"
#include "common/fd.h"

static int send_descriptor(int socket, int fd, struct err *err)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
			     .cmsg_level = SOL_SOCKET,
			     .cmsg_type = SCM_RIGHTS}};
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	char byte = 0;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	if (sendmsg(socket, &message, MSG_NOSIGNAL) < 0)
		return err_errno(err, "hand the terminal over");
	return 0;
}

/*
 * The slave is asked for from the master: a path could lead elsewhere. Its owner is the user, so
 * that programs may open it by its name.
 */
static int open_terminal(
	const struct stdio_child *child, uid_t uid, int *ret_slave, struct err *err)
{
	_cleanup_close_ int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (master < 0)
		return err_errno(err, "open a terminal: /dev/ptmx");
	int locked = 0;
	if (ioctl(master, TIOCSPTLCK, &locked) < 0)
		return err_errno(err, "unlock the terminal");
	_cleanup_close_ int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		return err_errno(err, "open the terminal's slave");
	if (fchown(slave, uid, (gid_t)-1) < 0)
		return err_errno(err, "give the terminal to user %u", uid);
	const struct winsize size = {.ws_col = child->columns, .ws_row = child->rows};
	if (size.ws_col && ioctl(slave, TIOCSWINSZ, &size) < 0)
		return err_errno(err, "size the terminal");
	if (ioctl(slave, TIOCSCTTY, 0) < 0)
		return err_errno(err, "make the terminal the controlling one");
	int r = send_descriptor(child->terminal, master, err);
	if (r < 0)
		return r;
	*ret_slave = TAKE_FD(slave);
	return 0;
}

static int become(int fd, int number, struct err *err)
{
	return dup2(fd, number) < 0 ? err_errno(err, "make descriptor %d", number) : 0;
}

/* A user other than root may open /dev/stdout only when the pipe is his. */
static int own_pipe(int fd, uid_t uid, struct err *err)
{
	struct stat st;
	if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode) && fchown(fd, uid, (gid_t)-1) < 0)
		return err_errno(err, "give a pipe to user %u", uid);
	return 0;
}

int stdio_child_install(const struct stdio_child *child, uid_t uid, struct err *err)
{
	if (setsid() < 0 && errno != EPERM)
		return err_errno(err, "setsid");
	_cleanup_close_ int slave = -EBADF;
	int fds[] = {child->in, child->out, child->err};
	if (child->terminal >= 0) {
		int r = open_terminal(child, uid, &slave, err);
		if (r < 0)
			return r;
		fds[0] = fds[1] = fds[2] = slave;
	}
	for (int i = 0; i < 3; i++) {
		int r = child->terminal >= 0 ? 0 : own_pipe(fds[i], uid, err);
		if (r == 0)
			r = become(fds[i], i, err);
		if (r < 0)
			return r;
	}
	fd_close(child->in);
	fd_close(child->out);
	fd_close(child->err);
	fd_close(child->terminal);
	return 0;
}
