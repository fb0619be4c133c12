#include "hypervisor/vsock/mux.h"

#include <endian.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/fd.h"
#include "hypervisor/vsock/connection.h"
#include "hypervisor/vsock/iov.h"

/* Ports of our own start where no service has its well-known one. */
#define HOST_PORT_FIRST (1u << 30)
#define HOST_PORT_LAST  ((1u << 31) - 1)
/* The largest packet that Linux takes in one piece. */
#define PAYLOAD_MAX (64u << 10)

void vs_mux_init(
	struct vs_mux *mux, struct ev_loop *loop, uint64_t guest_cid, const char *dial_prefix)
{
	*mux = (struct vs_mux){
		.loop = loop,
		.guest_cid = guest_cid,
		.dial_prefix = dial_prefix,
		.last_host_port = HOST_PORT_LAST,
	};
	LIST_INIT(&mux->conns);
	for (size_t i = 0; i < ARRAY_SIZE(mux->buckets); i++)
		LIST_INIT(&mux->buckets[i]);
	TAILQ_INIT(&mux->ready);
}

void vs_mux_set_up(struct vs_mux *mux, bool up)
{
	mux->up = up;
	if (up)
		return;
	struct vs_conn *conn;
	while ((conn = LIST_FIRST(&mux->conns)))
		vs_conn_free(conn);
	mux->n_replies = 0;
}

int vs_mux_accept(struct vs_mux *mux, int fd, struct err *err)
{
	if (mux->n_conns == VS_CONNECTIONS_MAX) {
		fd_close(fd);
		return err_set(err, -EMFILE, "more than %d connections", VS_CONNECTIONS_MAX);
	}
	return vs_conn_new_client(mux, fd, err);
}

/* The table of connections. */

static size_t bucket_of(const struct vs_mux *mux, uint32_t host_port, uint32_t guest_port)
{
	uint32_t hash = (host_port * 31 + guest_port) * 2654435769u;
	return (hash >> 16) % ARRAY_SIZE(mux->buckets);
}

static struct vs_conn *find(struct vs_mux *mux, uint32_t host_port, uint32_t guest_port)
{
	struct vs_conn *conn;
	LIST_FOREACH(conn, &mux->buckets[bucket_of(mux, host_port, guest_port)], bucket) {
		if (conn->host_port == host_port && conn->guest_port == guest_port)
			return conn;
	}
	return NULL;
}

void vs_mux_enter(struct vs_mux *mux, struct vs_conn *conn)
{
	size_t bucket = bucket_of(mux, conn->host_port, conn->guest_port);
	LIST_INSERT_HEAD(&mux->buckets[bucket], conn, bucket);
	conn->has_ports = true;
}

static bool host_port_is_used(const struct vs_mux *mux, uint32_t host_port)
{
	const struct vs_conn *conn;
	LIST_FOREACH(conn, &mux->conns, all) {
		if (conn->has_ports && conn->host_port == host_port)
			return true;
	}
	return false;
}

uint32_t vs_mux_new_host_port(struct vs_mux *mux)
{
	/* There are far more ports than connections, so this ends. */
	do {
		mux->last_host_port = mux->last_host_port == HOST_PORT_LAST
					      ? HOST_PORT_FIRST
					      : mux->last_host_port + 1;
	} while (host_port_is_used(mux, mux->last_host_port));
	return mux->last_host_port;
}

void vs_mux_queue(struct vs_mux *mux, struct vs_conn *conn)
{
	if (conn->queued)
		return;
	TAILQ_INSERT_TAIL(&mux->ready, conn, turn);
	conn->queued = true;
}

/* From the guest. */

static struct vs_header decode(const struct virtio_vsock_hdr *raw)
{
	return (struct vs_header){
		.host_port = le32toh(raw->dst_port),
		.guest_port = le32toh(raw->src_port),
		.len = le32toh(raw->len),
		.type = le16toh(raw->type),
		.op = le16toh(raw->op),
		.flags = le32toh(raw->flags),
		.buf_alloc = le32toh(raw->buf_alloc),
		.fwd_cnt = le32toh(raw->fwd_cnt),
	};
}

bool vs_mux_can_receive(const struct vs_mux *mux)
{
	return mux->n_replies < VS_REPLIES_MAX;
}

void vs_mux_reply_rst(struct vs_mux *mux, const struct vs_header *header)
{
	if (header->op == VIRTIO_VSOCK_OP_RST || mux->n_replies == VS_REPLIES_MAX)
		return;
	unsigned last = (mux->first_reply + mux->n_replies++) % VS_REPLIES_MAX;
	mux->replies[last] = (struct vs_reply){
		.host_port = header->host_port,
		.guest_port = header->guest_port,
		.type = header->type,
	};
}

/* The socket that serves a port of the host, or -errno: nobody does. */
static int dial(const struct vs_mux *mux, uint32_t port)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int len = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", mux->dial_prefix, port);
	if (len < 0 || (size_t)len >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* Ends at once: Unix sockets connect, or refuse, or are full (EAGAIN). */
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static void take_request(struct vs_mux *mux, const struct vs_header *header)
{
	struct err err;
	int fd = mux->n_conns < VS_CONNECTIONS_MAX ? dial(mux, header->host_port) : -EMFILE;
	if (fd < 0 || vs_conn_new_guest(mux, fd, header, &err) < 0)
		vs_mux_reply_rst(mux, header);
}

int vs_mux_receive(struct vs_mux *mux, const struct vs_chain *chain, struct err *err)
{
	/* Copied once: the guest may change its own copy while we judge ours. */
	struct virtio_vsock_hdr raw;
	if (vs_iov_read(chain->iov, chain->n_out, &raw, sizeof(raw)) < sizeof(raw))
		return err_set(err, -EPROTO, "packet of %zu bytes", chain->out_len);
	struct vs_header header = decode(&raw);
	if (chain->out_len - sizeof(raw) < header.len)
		return err_set(
			err, -EPROTO, "packet has less than the %u bytes it says", header.len);
	/* The guest speaks for its own address only, and there is nobody but the host to speak to.
	 */
	if (le64toh(raw.src_cid) != mux->guest_cid || le64toh(raw.dst_cid) != VMADDR_CID_HOST)
		return 0;
	if (header.type != VIRTIO_VSOCK_TYPE_STREAM) {
		vs_mux_reply_rst(mux, &header);
		return 0;
	}

	struct vs_conn *conn = find(mux, header.host_port, header.guest_port);
	if (conn && header.op == VIRTIO_VSOCK_OP_REQUEST && vs_conn_release_ports(conn))
		conn = NULL;
	if (conn) {
		size_t n = chain->n_out;
		memcpy(mux->payload, chain->iov, n * sizeof(*chain->iov));
		vs_iov_window(mux->payload, &n, sizeof(raw), header.len);
		vs_conn_receive(conn, &header, mux->payload, n);
	} else if (header.op == VIRTIO_VSOCK_OP_REQUEST) {
		take_request(mux, &header);
	} else {
		vs_mux_reply_rst(mux, &header);
	}
	return 0;
}

/* To the guest. */

bool vs_mux_has_work(const struct vs_mux *mux)
{
	return mux->n_replies || !TAILQ_EMPTY(&mux->ready);
}

static bool next_reply(struct vs_mux *mux, struct vs_header *ret_header)
{
	if (!mux->n_replies)
		return false;
	const struct vs_reply *reply = &mux->replies[mux->first_reply];
	*ret_header = (struct vs_header){
		.host_port = reply->host_port,
		.guest_port = reply->guest_port,
		.type = reply->type,
		.op = VIRTIO_VSOCK_OP_RST,
	};
	mux->first_reply = (mux->first_reply + 1) % VS_REPLIES_MAX;
	mux->n_replies--;
	return true;
}

static bool next_packet(
	struct vs_mux *mux, const struct vs_chain *chain, struct vs_header *ret_header)
{
	if (next_reply(mux, ret_header))
		return true;
	struct vs_conn *conn;
	while ((conn = TAILQ_FIRST(&mux->ready))) {
		TAILQ_REMOVE(&mux->ready, conn, turn);
		conn->queued = false;
		size_t n = chain->n_in;
		memcpy(mux->payload, &chain->iov[chain->n_out], n * sizeof(*chain->iov));
		vs_iov_window(mux->payload, &n, sizeof(struct virtio_vsock_hdr), PAYLOAD_MAX);
		/* A connection that has more to say queues itself again, behind the others. */
		if (vs_conn_transmit(conn, ret_header, mux->payload, n))
			return true;
	}
	return false;
}

int vs_mux_transmit(struct vs_mux *mux, const struct vs_chain *chain, struct err *err)
{
	struct virtio_vsock_hdr raw;
	if (chain->in_len <= sizeof(raw))
		return err_set(err, -EPROTO, "buffer of %zu bytes for a packet", chain->in_len);
	struct vs_header header;
	if (!next_packet(mux, chain, &header))
		return 0;
	raw = (struct virtio_vsock_hdr){
		.src_cid = htole64(VMADDR_CID_HOST),
		.dst_cid = htole64(mux->guest_cid),
		.src_port = htole32(header.host_port),
		.dst_port = htole32(header.guest_port),
		.len = htole32(header.len),
		.type = htole16(header.type),
		.op = htole16(header.op),
		.flags = htole32(header.flags),
		.buf_alloc = htole32(header.buf_alloc),
		.fwd_cnt = htole32(header.fwd_cnt),
	};
	vs_iov_write(&chain->iov[chain->n_out], chain->n_in, &raw, sizeof(raw));
	return (int)(sizeof(raw) + header.len);
}
