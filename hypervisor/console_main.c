/*
 * bulkhead-console: keeps the end of one machine's serial console in a file of bounded size.
 *
 *	bulkhead-console --listen SOCKET --file FILE [--user UID:GID]
 *
 * Why a process of its own: QEMU's file and log backends have no bound; a bound on QEMU's files
 * would hold for its disks too; a pipe that only bulkheadd reads stalls the guest's kernel, which
 * waits for its serial port, as long as bulkheadd is down, and loses what a dying guest said. This
 * one lives as long as the machine: QEMU connects to the socket once, and the end of that
 * connection is the end of the program.
 *
 * The file never exceeds FILE_MAX. When a write would make it, the newest half moves to the front,
 * under flock(2), so that a reader with a shared lock always sees the text in order. The text is
 * the guest's: it is copied, never looked at, after all rights but those that copying takes have
 * been given up.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/confine.h"

#define FILE_MAX (512 * 1024)
#define KEEP     (FILE_MAX / 2)
/* Standard ones, the file, the listener, the connection. */
#define FILES_MAX 8

struct options {
	const char *listen;
	const char *file;
	const char *user;
};

static int parse_options(int argc, char **argv, struct options *ret)
{
	static const struct option table[] = {
		{"listen", required_argument, NULL, 'l'},
		{"file", required_argument, NULL, 'f'},
		{"user", required_argument, NULL, 'u'},
		{0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) >= 0) {
		if (c == 'l')
			ret->listen = optarg;
		else if (c == 'f')
			ret->file = optarg;
		else if (c == 'u')
			ret->user = optarg;
		else
			return -EINVAL;
	}
	return ret->listen && ret->file && optind == argc ? 0 : -EINVAL;
}

/* Secrets that a guest prints are in the file alone. */
static int keep_what_copying_takes(struct err *err)
{
	static const int calls[] = {
		SCMP_SYS(read),
		SCMP_SYS(pread64),
		SCMP_SYS(write),
		SCMP_SYS(pwrite64),
		SCMP_SYS(lseek),
		SCMP_SYS(ftruncate),
		SCMP_SYS(flock),
		SCMP_SYS(poll),
		SCMP_SYS(accept4),
		SCMP_SYS(close),
	};
	const struct confine_rights rights = {
		.calls = calls, .n_calls = ARRAY_SIZE(calls), .files = FILES_MAX};
	return confine_keep(&rights, err);
}

static int move_newest_to_front(int fd, off_t size, struct err *err)
{
	static char newest[KEEP];
	ssize_t n;

	n = pread(fd, newest, sizeof(newest), size - (off_t)sizeof(newest));
	if (n < 0 || pwrite(fd, newest, (size_t)n, 0) != n || ftruncate(fd, n) < 0)
		return err_errno(err, "Move the newest half to the front");
	return 0;
}

static int append(int fd, const char *data, size_t len, struct err *err)
{
	off_t size;
	int r = 0;

	if (flock(fd, LOCK_EX) < 0)
		return err_errno(err, "Lock the file");
	size = lseek(fd, 0, SEEK_END);
	if (size + (off_t)len > FILE_MAX) {
		r = move_newest_to_front(fd, size, err);
		size = KEEP;
	}
	if (r == 0 && pwrite(fd, data, len, size) < 0)
		r = err_errno(err, "Write");
	flock(fd, LOCK_UN);
	return r;
}

static int copy(int from, int to, struct err *err)
{
	char data[4096];
	ssize_t n;
	int r;

	while ((n = read(from, data, sizeof(data))) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "Read the console");
		r = append(to, data, (size_t)n, err);
		/* A full disk must not stop the guest: what cannot be kept is dropped. */
		if (r < 0 && r != -ENOSPC && r != -EDQUOT)
			return r;
	}
	return 0;
}

static int run(const struct options *options, struct err *err)
{
	_cleanup_close_ int listener = -EBADF, file = -EBADF, connection = -EBADF;
	struct pollfd pollfd = {.events = POLLIN};
	struct confine_user user;
	int r;

	file = open(options->file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (file < 0)
		return err_errno(err, "Open %s", options->file);
	r = fd_unix_listen(options->listen, 0600, &listener, err);
	if (r < 0)
		return r;
	r = confine_user(options->user, &user, err);
	if (r == 0)
		r = confine_beside(options->file, NULL, err);
	if (r == 0)
		r = confine_become(&user, err);
	if (r == 0)
		r = keep_what_copying_takes(err);
	if (r == 0)
		r = fd_write_all(STDOUT_FILENO, "ready\n", 6, err);
	if (r < 0)
		return r;
	close(STDOUT_FILENO);

	pollfd.fd = listener;
	if (poll(&pollfd, 1, -1) < 0)
		return err_errno(err, "Wait for QEMU");
	connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (connection < 0)
		return err_errno(err, "Accept QEMU's connection");
	listener = fd_close(listener);
	return copy(connection, file, err);
}

int main(int argc, char **argv)
{
	struct options options = {0};
	struct err err = ERR_INIT;

	if (parse_options(argc, argv, &options) < 0) {
		fprintf(stderr,
			"Usage: bulkhead-console --listen SOCKET --file FILE [--user UID:GID]\n");
		return 2;
	}
	if (run(&options, &err) < 0) {
		fprintf(stderr, "bulkhead-console: %s\n", err.msg);
		return 1;
	}
	return 0;
}
