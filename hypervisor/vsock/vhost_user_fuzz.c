/*
 * A hostile QEMU: the input is a list of messages with descriptors, right ones and wrong ones.
 *
 * Each message is a byte that says which descriptors come with it (the low four bits how many, the
 * high ones of which kind the first is; those behind it are of the kinds that follow), two bytes
 * with the size of what is sent, and these bytes: header and payload, or a part of them. After each
 * one the guest sends a packet and kicks, for what it is worth.
 */
#include "hypervisor/vsock/vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/vsock/testing.h"

#define MESSAGES 64
#define FDS_MAX  15

enum fd_kind {
	FD_REGION_0,
	FD_REGION_1,
	FD_KICK_0,
	FD_KICK_1,
	FD_CALL_0,
	FD_CALL_1,
	FD_PIPE_READ,
	FD_PIPE_WRITE,
	FD_SOCKET,
	FD_NULL,
	FD_KINDS,
};

struct target {
	struct vst_world world;
	struct vs_vhost *vhost;
	int qemu;
	bool ended;
	int fds[FD_KINDS];
};

static void on_end(void *userdata, const struct err *err)
{
	struct target *target = userdata;
	if (target->ended || (err && (err->code >= 0 || !err->msg[0])))
		abort();
	target->ended = true;
}

static void open_fds(struct target *target)
{
	int fds[2];
	for (unsigned i = 0; i < VS_QUEUES; i++) {
		target->fds[FD_REGION_0 + i] = target->world.guest.fds[i];
		target->fds[FD_KICK_0 + i] = target->world.kick_fds[i];
		target->fds[FD_CALL_0 + i] = target->world.call_fds[i];
	}
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		abort();
	target->fds[FD_PIPE_READ] = fds[0];
	target->fds[FD_PIPE_WRITE] = fds[1];
	target->fds[FD_SOCKET] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	target->fds[FD_NULL] = open("/dev/null", O_RDWR | O_CLOEXEC);
}

static void send_message(
	struct target *target, const uint8_t *data, size_t len, unsigned n_fds, unsigned kind)
{
	int fds[FDS_MAX];
	for (unsigned i = 0; i < n_fds; i++)
		fds[i] = target->fds[(kind + i) % FD_KINDS];
	(void)!vst_send_fds(target->qemu, data, len, fds, n_fds);
}

static void let_guest_act(struct target *target)
{
	struct vst_guest *guest = &target->world.guest;
	uint8_t answers[4096];
	vst_round(target->world.loop);
	(void)!recv(target->qemu, answers, sizeof(answers), MSG_DONTWAIT);
	vst_send(guest, (struct virtio_vsock_hdr){.op = VIRTIO_VSOCK_OP_RW, .src_port = 1}, NULL);
	vst_world_run(&target->world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* As the program does: a descriptor for calls may be a pipe. */
	signal(SIGPIPE, SIG_IGN);
	struct target target = {0};
	int pair[2];
	vst_world_init(&target.world);
	open_fds(&target);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0 ||
		vs_vhost_new(target.world.loop, pair[0], target.world.device, on_end, &target,
			&target.vhost, NULL) < 0)
		abort();
	target.qemu = pair[1];
	for (unsigned i = 0; i < MESSAGES && size >= 3 && !target.ended; i++) {
		size_t len = data[1] | (size_t)data[2] << 8;
		len = len < size - 3 ? len : size - 3;
		send_message(&target, data + 3, len, data[0] & 15, data[0] >> 4);
		let_guest_act(&target);
		data += 3 + len;
		size -= 3 + len;
	}
	target.qemu = fd_close(target.qemu);
	vst_world_run(&target.world);
	if (!target.ended)
		abort(); /* QEMU is gone: it must have noticed */
	vs_vhost_free(target.vhost);
	vst_world_done(&target.world);
	for (unsigned i = FD_PIPE_READ; i < FD_KINDS; i++)
		fd_close(target.fds[i]);
	return 0;
}
