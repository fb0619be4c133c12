/*
 * bulkhead-vsock: a virtual machine's vsock device, as a process of its own.
 *
 *	bulkhead-vsock --vhost-socket PATH --listen PATH --cid N [--user UID:GID]
 *
 * QEMU, as --user, connects to --vhost-socket (vhost-user), clients on the host, as the user who
 * started us, to --listen ("hybrid vsock").
 * It says "ready" on stdout when both are there, serves one QEMU, and ends when that is gone: 0, or
 * 1 when something was wrong, which stderr says. It has no children and no threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/vm_sockets.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/listener.h"
#include "common/log.h"
#include "common/loop.h"
#include "hypervisor/confine.h"
#include "hypervisor/vsock/device.h"
#include "hypervisor/vsock/mux.h"
#include "hypervisor/vsock/vhost_user.h"

/* Beside the connections: rings, sockets, what a message brings. */
#define OTHER_FDS 64

struct options {
	const char *vhost_path;
	const char *listen_path;
	const char *user;
	uint32_t cid;
};

struct server {
	struct log log;
	struct ev_loop *loop;
	int vhost_fd; /* listens until QEMU has come */
	int listen_fd;
	struct ev_listener *vhost_listener;
	struct ev_listener *listener;
	struct vs_device *device;
	struct vs_vhost *vhost;
	bool failed;
};

static int parse_cid(const char *text, uint32_t *ret_cid)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (errno || end == text || *end || text[0] == '-' || value <= VMADDR_CID_HOST ||
		value >= VMADDR_CID_ANY)
		return -EINVAL;
	*ret_cid = (uint32_t)value;
	return 0;
}

static int parse_options(int argc, char **argv, struct options *options, struct err *err)
{
	static const struct option table[] = {
		{"vhost-socket", required_argument, NULL, 'v'},
		{"listen", required_argument, NULL, 'l'},
		{"cid", required_argument, NULL, 'c'},
		{"user", required_argument, NULL, 'u'},
		{0},
	};
	for (int c; (c = getopt_long(argc, argv, "", table, NULL)) != -1;) {
		switch (c) {
		case 'v':
			options->vhost_path = optarg;
			break;
		case 'l':
			options->listen_path = optarg;
			break;
		case 'u':
			options->user = optarg;
			break;
		case 'c':
			if (parse_cid(optarg, &options->cid) < 0)
				return err_set(err, -EINVAL, "--cid %s: a number above 2", optarg);
			break;
		default:
			return err_set(err, -EINVAL, "unknown option");
		}
	}
	if (optind < argc || !options->vhost_path || !options->listen_path || !options->cid)
		return err_set(err, -EINVAL,
			"usage: bulkhead-vsock --vhost-socket PATH --listen PATH --cid N "
			"[--user UID:GID]");
	return 0;
}

/*
 * QEMU's user gets the device alone. Who connects to the other socket has the guest: that one stays
 * with whoever started us.
 */
static int listen_on(const struct options *options, const struct confine_user *user,
	struct server *server, struct err *err)
{
	const char *vhost = options->vhost_path;
	int r = fd_unix_listen(vhost, 0600, &server->vhost_fd, err);
	if (r == 0 && lchown(vhost, user->uid, (gid_t)-1) < 0)
		r = err_errno(err, "give %s to user %u", vhost, user->uid);
	return r < 0 ? r : fd_unix_listen(options->listen_path, 0600, &server->listen_fd, err);
}

static void fail(struct server *server, const struct err *err)
{
	log_event(&server->log, LOG_LEVEL_ERROR, "vsock device ends", "err", err->msg, NULL);
	server->failed = true;
	ev_loop_stop(server->loop);
}

static void on_vhost_end(void *userdata, const struct err *err)
{
	struct server *server = userdata;
	if (err)
		fail(server, err);
	else
		ev_loop_stop(server->loop);
}

static void on_vhost(void *userdata, int fd)
{
	struct server *server = userdata;
	/* There is one QEMU. */
	server->vhost_listener = ev_listener_free(server->vhost_listener);
	server->vhost_fd = fd_close(server->vhost_fd);
	struct err err = ERR_INIT;
	if (vs_vhost_new(server->loop, fd, server->device, on_vhost_end, server, &server->vhost,
		    &err) < 0)
		fail(server, &err);
}

static void on_client(void *userdata, int fd)
{
	struct server *server = userdata;
	struct err err = ERR_INIT;
	if (vs_mux_accept(&server->device->mux, fd, &err) < 0)
		log_event(&server->log, LOG_LEVEL_WARNING, "vsock client refused", "err", err.msg,
			NULL);
}

/* After this a guest is heard. */
static int keep_what_the_loop_takes(struct err *err)
{
	static const int calls[] = {
		/* data */
		SCMP_SYS(read),
		SCMP_SYS(readv),
		SCMP_SYS(write),
		SCMP_SYS(sendmsg),
		SCMP_SYS(sendto),
		SCMP_SYS(recvmsg),
		SCMP_SYS(recvfrom),
		SCMP_SYS(shutdown),
		/* connections and descriptors */
		SCMP_SYS(accept4),
		SCMP_SYS(connect),
		SCMP_SYS(close),
		SCMP_SYS(fcntl),
		SCMP_SYS(fstat),
		SCMP_SYS(newfstatat),
		/* the loop */
		SCMP_SYS(epoll_ctl),
		SCMP_SYS(epoll_wait),
		SCMP_SYS(epoll_pwait),
	};
	const struct confine_rights rights = {
		.calls = calls,
		.n_calls = ARRAY_SIZE(calls),
		.unix_sockets = true,
		.files = VS_CONNECTIONS_MAX + OTHER_FDS,
	};
	return confine_keep(&rights, err);
}

static int say_ready(int null, struct err *err)
{
	/* Closed for the one who waits, but never free to become a socket. */
	int r = fd_write_all(STDOUT_FILENO, "ready\n", strlen("ready\n"), err);
	if (r == 0 && (dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0))
		r = err_errno(err, "close stdout");
	return r;
}

static int start(struct server *server, const struct options *options, struct err *err)
{
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const char *prefix;
	struct confine_user user;
	if (null < 0)
		return err_errno(err, "open /dev/null");
	int r = confine_user(options->user, &user, err);
	if (r < 0)
		return r;
	r = listen_on(options, &user, server, err);
	if (r == 0)
		r = ev_loop_new(&server->loop, err);
	if (r == 0)
		r = confine_beside(options->listen_path, &prefix, err);
	if (r == 0)
		r = vs_device_new(
			server->loop, &server->log, options->cid, prefix, &server->device, err);
	if (r == 0)
		r = ev_listener_new(server->loop, server->vhost_fd, on_vhost, server,
			&server->vhost_listener, err);
	if (r == 0)
		r = ev_listener_new(
			server->loop, server->listen_fd, on_client, server, &server->listener, err);
	if (r == 0)
		r = confine_become(&user, err);
	if (r == 0)
		r = say_ready(null, err);
	return r < 0 ? r : keep_what_the_loop_takes(err);
}

static void server_done(struct server *server)
{
	vs_vhost_free(server->vhost);
	vs_device_free(server->device);
	ev_listener_free(server->vhost_listener);
	ev_listener_free(server->listener);
	ev_loop_free(server->loop);
	fd_close(server->vhost_fd);
	fd_close(server->listen_fd);
}

int main(int argc, char **argv)
{
	struct options options = {0};
	struct err err = ERR_INIT;
	struct server server = {
		.log = {.fd = STDERR_FILENO, .level = LOG_LEVEL_INFO},
		.vhost_fd = -EBADF,
		.listen_fd = -EBADF,
	};
	/* QEMU may give us a pipe for an eventfd. */
	signal(SIGPIPE, SIG_IGN);
	int r = parse_options(argc, argv, &options, &err);
	if (r == 0)
		r = start(&server, &options, &err);
	if (r == 0)
		r = ev_loop_run(server.loop, &err);
	if (r < 0)
		log_event(&server.log, LOG_LEVEL_ERROR, "vsock device fails", "err", err.msg, NULL);
	server_done(&server);
	return r < 0 || server.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
