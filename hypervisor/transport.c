#include "hypervisor/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vhost.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "common/fd.h"
#include "common/loop.h"
#include "hypervisor/helper.h"

/* Each machine has a device of its own, so all guests may have the same address. */
#define USER_CID 3
/* "OK <port>\n" with room for what other implementations add. */
#define REPLY_MAX 32

static struct timeval to_timeval(uint64_t ms)
{
	return (struct timeval){
		.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000) * 1000};
}

static int kernel_prepare(const struct transport_machine *machine, char **ret, struct err *err)
{
	(void)machine;
	(void)err;
	*ret = NULL;
	return 0;
}

static int kernel_connect(const struct transport_machine *machine, uint32_t port,
	uint64_t timeout_ms, int *ret_fd, struct err *err)
{
	const struct sockaddr_vm address = {
		.svm_family = AF_VSOCK,
		.svm_cid = machine->cid,
		.svm_port = port,
	};
	const struct timeval timeout = to_timeval(timeout_ms);
	_cleanup_close_ int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_errno(err, "Make an AF_VSOCK socket");
	if (setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &timeout, sizeof(timeout)) < 0)
		return err_errno(err, "Set the AF_VSOCK connect timeout");
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		/* ENODEV: the guest's driver is not there yet; ECONNRESET: nothing listens. */
		if (errno == ENODEV || errno == ECONNRESET || errno == ETIMEDOUT ||
			errno == ECONNREFUSED || errno == EHOSTUNREACH || errno == EINTR)
			return 1;
		return err_errno(err, "Connect to vsock port %u", port);
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int user_prepare(const struct transport_machine *machine, char **ret, struct err *err)
{
	_cleanup_free_ char *vhost = str_printf("%s/vhost.sock", machine->dir);
	_cleanup_free_ char *hybrid = str_printf("%s/vsock.sock", machine->dir);
	char cid[16];
	const char *argv[] = {machine->program, "--vhost-socket", vhost, "--listen", hybrid,
		"--cid", cid, machine->user ? "--user" : NULL, machine->user, NULL};
	int r;

	if (!vhost || !hybrid)
		return err_nomem(err);
	snprintf(cid, sizeof(cid), "%d", USER_CID);
	r = helper_start(&(struct helper){.dir = machine->dir,
				 .name = "vsock",
				 .argv = argv,
				 .place = machine->place},
		err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(vhost);
	return 0;
}

static void wait_readable(int fd, uint64_t deadline_ms)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	uint64_t left = ev_left_ms(deadline_ms);

	(void)poll(&pollfd, 1, left < INT_MAX ? (int)left : INT_MAX);
}

/*
 * Byte by byte: what follows the line is the stream's. Positive 1: the helper closed, said no, or
 * said too little by the deadline.
 */
static int read_reply(int fd, uint64_t deadline_ms, struct err *err)
{
	char reply[REPLY_MAX];
	size_t len = 0;

	while (len < sizeof(reply)) {
		ssize_t n = recv(fd, reply + len, 1, MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			if (ev_now_ms() >= deadline_ms)
				return 1;
			wait_readable(fd, deadline_ms);
			continue;
		}
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return 1;
		if (n < 0)
			return err_errno(err, "Read from bulkhead-vsock");
		if (reply[len++] == '\n')
			return len > 3 && memcmp(reply, "OK ", 3) == 0 ? 0 : 1;
	}
	return err_set(err, -EPROTO, "bulkhead-vsock answered with a line of more than %d bytes",
		REPLY_MAX);
}

/* A helper that its guest has taken over may neither accept nor answer: no call here blocks. */
static int user_connect(const struct transport_machine *machine, uint32_t port, uint64_t timeout_ms,
	int *ret_fd, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/vsock.sock", machine->dir);
	uint64_t deadline_ms = ev_now_ms() + timeout_ms;
	_cleanup_close_ int fd = -EBADF;
	char line[32];
	int r, len;

	if (!path)
		return err_nomem(err);
	r = fd_unix_try_connect(path, &fd, err);
	if (r < 0)
		/* The helper ends with QEMU: whether the machine is gone is the caller's to find
		 * out. */
		return r == -ECONNREFUSED || r == -ENOENT || r == -EAGAIN ? 1 : r;
	len = snprintf(line, sizeof(line), "CONNECT %u\n", port);
	if (send(fd, line, (size_t)len, MSG_NOSIGNAL) != len)
		return 1;
	r = read_reply(fd, deadline_ms, err);
	if (r != 0)
		return r;
	if (fcntl(fd, F_SETFL, 0) < 0)
		return err_errno(err, "Make the connection to bulkhead-vsock blocking");
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static const struct transport kernel_transport = {
	.name = "vhost-vsock",
	.prepare = kernel_prepare,
	.connect = kernel_connect,
};

static const struct transport user_transport = {
	.name = "vhost-user",
	.prepare = user_prepare,
	.connect = user_connect,
};

bool vhost_works(const char *path)
{
	_cleanup_close_ int device = open(path, O_RDWR | O_CLOEXEC);
	uint64_t features;

	return device >= 0 && ioctl(device, VHOST_SET_OWNER) == 0 &&
	       ioctl(device, VHOST_GET_FEATURES, &features) == 0;
}

/* The device node may exist without its module, and the module without AF_VSOCK on the host. */
static int try_kernel(void)
{
	_cleanup_close_ int probe = -EBADF;

	if (!vhost_works("/dev/vhost-vsock"))
		return -ENODEV;
	probe = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return probe < 0 ? -ENODEV : 0;
}

const struct transport *transport_select(void)
{
	return try_kernel() == 0 ? &kernel_transport : &user_transport;
}

/* Of 31 bits, as whoever has a sign knows them too. */
uint32_t transport_pick_cid(void)
{
	uint32_t cid;

	do
		cid = arc4random() & INT32_MAX;
	while (cid <= VMADDR_CID_HOST);
	return cid;
}

const struct transport *transport_of(uint32_t cid)
{
	return cid ? &kernel_transport : &user_transport;
}

int transport_end(const char *dir, struct err *err)
{
	return helper_end(dir, "vsock", err);
}
