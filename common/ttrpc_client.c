/*
 * The client's end of ttrpc. Callers put their request into `out` and send as much as the socket
 * takes, the loop's thread sends the rest and reads. Everything below `lock` is protected by it;
 * the source and `in` belong to the loop's thread.
 *
 * Life: open → closed, by the peer, by a breach of the protocol, or by ttrpc_client_close();
 * whichever comes first wakes all callers. References: the creator's, the loop's (as long as the
 * source exists), one for each call, one for each posted job.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/fd.h"
#include "common/ttrpc.pb-c.h"
#include "common/ttrpc_internal.h"

/* A caller that waits; on its stack, in the client's list until it is answered or gives up. */
struct waiter {
	struct waiter *next;
	uint32_t stream_id;
	bool done;
	pthread_cond_t answered;
	Bulkhead__Ttrpc__Response *response; /* NULL: the connection is gone */
};

struct ttrpc_client {
	struct ev_loop *loop;
	int fd;
	ev_fn on_close;
	void *userdata;
	struct ev_source *source;
	struct buf in;
	pthread_mutex_t lock;
	pthread_cond_t room;  /* `out` got shorter, or closed */
	pthread_cond_t quiet; /* on_close has returned */
	unsigned refs;
	bool closed;
	bool abandoned; /* by ttrpc_client_close(): on_close must not run any more */
	bool in_on_close;
	bool flush_posted;
	struct buf out;
	struct waiter *waiters;
	size_t n_waiters;
	size_t n_unanswered; /* calls that nobody waits for any more */
	uint32_t last_stream_id;
};

static void unref(struct ttrpc_client *client)
{
	pthread_mutex_lock(&client->lock);
	unsigned left = --client->refs;
	pthread_mutex_unlock(&client->lock);
	if (left)
		return;
	assert(!client->source && !client->waiters);
	fd_close(client->fd);
	buf_done(&client->in);
	buf_done(&client->out);
	pthread_cond_destroy(&client->room);
	pthread_cond_destroy(&client->quiet);
	pthread_mutex_destroy(&client->lock);
	free(client);
}

/* Lock held. */
static void finish_waiter(
	struct ttrpc_client *client, struct waiter **link, Bulkhead__Ttrpc__Response *response)
{
	struct waiter *waiter = *link;
	*link = waiter->next;
	client->n_waiters--;
	waiter->response = response;
	waiter->done = true;
	pthread_cond_signal(&waiter->answered);
}

/* Lock held. */
static void mark_closed(struct ttrpc_client *client)
{
	client->closed = true;
	while (client->waiters)
		finish_waiter(client, &client->waiters, NULL);
	pthread_cond_broadcast(&client->room);
	/* The peer learns it at once, and the loop wakes where it is not the one who closes. */
	shutdown(client->fd, SHUT_RDWR);
}

/* On the loop's thread: takes the client off the loop. Nothing happens the second time. */
static void detach(struct ttrpc_client *client)
{
	if (!client->source)
		return;
	client->source = ev_source_free(client->source);
	unref(client);
}

static void detach_job(void *userdata)
{
	detach(userdata);
	unref(userdata);
}

/* On the loop's thread: the connection has ended from the other side. */
static void end(struct ttrpc_client *client)
{
	pthread_mutex_lock(&client->lock);
	mark_closed(client);
	bool tell = client->on_close && !client->abandoned;
	client->in_on_close = tell;
	client->refs++;
	pthread_mutex_unlock(&client->lock);

	detach(client);
	if (tell) {
		client->on_close(client->userdata);
		pthread_mutex_lock(&client->lock);
		client->in_on_close = false;
		pthread_cond_broadcast(&client->quiet);
		pthread_mutex_unlock(&client->lock);
	}
	unref(client);
}

/* Lock held, loop's thread. Negative when the connection is unusable. */
static int flush_out(struct ttrpc_client *client)
{
	int r = ttrpc_flush(client->fd, &client->out);
	if (r < 0)
		return r;
	ev_io_set(client->source, client->out.len ? EPOLLIN | EPOLLOUT : EPOLLIN);
	pthread_cond_broadcast(&client->room);
	return 0;
}

static void flush_job(void *userdata)
{
	struct ttrpc_client *client = userdata;
	pthread_mutex_lock(&client->lock);
	client->flush_posted = false;
	int r = client->source && !client->closed ? flush_out(client) : 0;
	pthread_mutex_unlock(&client->lock);
	if (r < 0)
		end(client);
	unref(client);
}

/*
 * An answer that nobody waits for any more is dropped. One that nobody asked for, or that was given
 * before, is a breach: so a peer sends no more frames than there are calls.
 */
static int take_frame(struct ttrpc_client *client, const struct ttrpc_frame *frame)
{
	if (frame->type != TTRPC_RESPONSE)
		return -EPROTO;
	Bulkhead__Ttrpc__Response *response = (Bulkhead__Ttrpc__Response *)ttrpc_unpack_envelope(
		&bulkhead__ttrpc__response__descriptor, frame);
	if (!response)
		return -EPROTO;

	pthread_mutex_lock(&client->lock);
	bool asked = frame->stream_id <= client->last_stream_id;
	bool late = false;
	struct waiter **link = &client->waiters;
	while (*link && (*link)->stream_id != frame->stream_id)
		link = &(*link)->next;
	if (*link) {
		finish_waiter(client, link, response);
		response = NULL;
	} else if (asked && client->n_unanswered) {
		client->n_unanswered--;
		late = true;
	}
	pthread_mutex_unlock(&client->lock);
	if (!response)
		return 0;
	bulkhead__ttrpc__response__free_unpacked(response, NULL);
	return late ? 0 : -EPROTO;
}

static int take_frames(struct ttrpc_client *client)
{
	size_t used = 0;
	for (;;) {
		struct ttrpc_frame frame;
		ssize_t n =
			ttrpc_decode(client->in.data + used, client->in.len - used, &frame, NULL);
		if (n < 0)
			return (int)n;
		if (n == 0)
			break;
		int r = take_frame(client, &frame);
		if (r < 0)
			return r;
		used += (size_t)n;
	}
	buf_consume(&client->in, used);
	ttrpc_shrink(&client->in);
	return 0;
}

static void io(void *userdata, uint32_t events)
{
	struct ttrpc_client *client = userdata;
	pthread_mutex_lock(&client->lock);
	int r = client->closed ? -EPIPE : 0;
	if (r == 0 && events & EPOLLOUT)
		r = flush_out(client);
	pthread_mutex_unlock(&client->lock);

	if (r == 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		ssize_t n = ttrpc_fill(client->fd, &client->in);
		if (n > 0)
			r = take_frames(client);
		else if (n != -EAGAIN)
			r = -EPIPE;
	}
	if (r < 0)
		end(client);
}

int ttrpc_client_new(struct ev_loop *loop, int fd, ev_fn on_close, void *userdata,
	struct ttrpc_client **ret, struct err *err)
{
	struct ttrpc_client *client = calloc(1, sizeof(*client));
	if (!client) {
		fd_close(fd);
		return err_nomem(err);
	}
	client->loop = loop;
	client->fd = fd;
	client->on_close = on_close;
	client->userdata = userdata;
	client->in = buf_init(TTRPC_HEADER_SIZE + TTRPC_PAYLOAD_MAX);
	client->out = buf_init(TTRPC_OUTPUT_MAX);
	client->refs = 1;
	pthread_mutex_init(&client->lock, NULL);
	ev_cond_init(&client->room);
	ev_cond_init(&client->quiet);
	int r = ev_io_new(loop, fd, EPOLLIN, io, client, &client->source, err);
	if (r < 0) {
		unref(client);
		return r;
	}
	client->refs++;
	*ret = client;
	return 0;
}

struct ttrpc_client *ttrpc_client_close(struct ttrpc_client *client)
{
	if (!client)
		return NULL;
	bool on_loop = ev_loop_is_current(client->loop) || !ev_loop_is_running(client->loop);
	pthread_mutex_lock(&client->lock);
	mark_closed(client);
	client->abandoned = true;
	while (client->in_on_close && !on_loop)
		pthread_cond_wait(&client->quiet, &client->lock);
	pthread_mutex_unlock(&client->lock);

	if (on_loop)
		detach(client);
	else if (ev_post(client->loop, detach_job, client) == 0)
		return NULL; /* the job has our reference */
	/* Without memory for the job, the shutdown above makes the loop call io(). */
	unref(client);
	return NULL;
}

/* Lock held. Puts the request on its way; the answer belongs to ret_stream_id. */
static int send_request(struct ttrpc_client *client, const ProtobufCMessage *envelope,
	uint64_t until_ms, uint32_t *ret_stream_id, struct err *err)
{
	size_t size = TTRPC_HEADER_SIZE + protobuf_c_message_get_packed_size(envelope);
	int r = 0;
	while (r == 0 && !client->closed && size > client->out.max - client->out.len)
		r = -ev_cond_wait(&client->room, &client->lock, until_ms);
	if (r < 0)
		return err_set(err, r, "the peer does not read");
	if (client->closed || client->last_stream_id > UINT32_MAX - 2)
		return err_set(err, -EPIPE, "the connection is gone");
	if (client->n_waiters == TTRPC_CALLS_MAX)
		return err_set(err, -EAGAIN, "%u calls are open already", TTRPC_CALLS_MAX);

	uint32_t stream_id = client->last_stream_id ? client->last_stream_id + 2 : 1;
	r = ttrpc_encode_message(&client->out, stream_id, TTRPC_REQUEST, envelope);
	if (r < 0)
		return err_set(err, r, "encode the request");
	client->last_stream_id = stream_id;
	*ret_stream_id = stream_id;
	/* A broken socket is the loop's to find: it hangs up there as well. */
	ttrpc_flush(client->fd, &client->out);
	if (client->out.len && !client->flush_posted) {
		if (ev_post(client->loop, flush_job, client) < 0) {
			mark_closed(client); /* half a frame may be out */
			return err_nomem(err);
		}
		client->flush_posted = true;
		client->refs++;
	}
	return 0;
}

/* Lock held. Waits for the answer; NULL in *ret_response never happens with 0. */
static int await(struct ttrpc_client *client, uint32_t stream_id, uint64_t until_ms,
	Bulkhead__Ttrpc__Response **ret_response, struct err *err)
{
	struct waiter waiter = {.next = client->waiters, .stream_id = stream_id};
	ev_cond_init(&waiter.answered);
	/* It leaves the list before we return. */
	/* cppcheck-suppress autoVariables */
	client->waiters = &waiter;
	client->n_waiters++;
	int r = 0;
	while (r == 0 && !waiter.done)
		r = -ev_cond_wait(&waiter.answered, &client->lock, until_ms);
	if (!waiter.done) {
		struct waiter **link = &client->waiters;
		while (*link != &waiter)
			link = &(*link)->next;
		finish_waiter(client, link, NULL);
		client->n_unanswered++;
		r = err_set(err, r, "no answer in time");
	} else if (!waiter.response) {
		r = err_set(err, -EPIPE, "the connection is gone");
	} else {
		r = 0;
	}
	pthread_cond_destroy(&waiter.answered);
	*ret_response = waiter.response;
	return r;
}

/* What the peer answered, which is not to be trusted. */
static int take_response(const Bulkhead__Ttrpc__Response *response,
	const ProtobufCMessageDescriptor *output, ProtobufCMessage **ret_response, struct err *err)
{
	const Bulkhead__Ttrpc__Status *status = response->status;
	if (status && status->code) {
		bool plausible = status->code > 0 && status->code < 4096;
		return err_set(err, plausible ? -status->code : -EPROTO, "%s", status->message);
	}
	ProtobufCMessage *message = ttrpc_unpack(
		output, response->payload.data, response->payload.len, TTRPC_UNPACKED_MAX);
	if (!message)
		return err_set(err, -EPROTO, "the answer does not parse");
	if (ret_response)
		*ret_response = message;
	else
		protobuf_c_message_free_unpacked(message, NULL);
	return 0;
}

static int exchange(struct ttrpc_client *client, const ProtobufCMessage *envelope,
	uint64_t timeout_ms, Bulkhead__Ttrpc__Response **ret_response, struct err *err)
{
	const uint64_t until_ms = ev_until_ms(timeout_ms);
	uint32_t stream_id = 0;
	pthread_mutex_lock(&client->lock);
	client->refs++;
	int r = send_request(client, envelope, until_ms, &stream_id, err);
	if (r == 0)
		r = await(client, stream_id, until_ms, ret_response, err);
	pthread_mutex_unlock(&client->lock);
	unref(client);
	return r;
}

int ttrpc_client_call(struct ttrpc_client *client, const ProtobufCServiceDescriptor *service,
	const char *method, const ProtobufCMessage *request, uint64_t timeout_ms,
	ProtobufCMessage **ret_response, struct err *err)
{
	struct err local = ERR_INIT;
	if (!err)
		err = &local;
	assert(!ev_loop_is_current(client->loop));
	const ProtobufCMethodDescriptor *described =
		protobuf_c_service_descriptor_get_method_by_name(service, method);
	assert(described);

	ProtobufCBinaryData payload;
	int r = ttrpc_pack(request, &payload, err);
	if (r == 0) {
		Bulkhead__Ttrpc__Request envelope = BULKHEAD__TTRPC__REQUEST__INIT;
		envelope.service = (char *)service->name;
		envelope.method = (char *)method;
		envelope.payload = payload;
		Bulkhead__Ttrpc__Response *response = NULL;
		r = exchange(client, &envelope.base, timeout_ms, &response, err);
		free(payload.data);
		if (r == 0)
			r = take_response(response, described->output, ret_response, err);
		if (response)
			bulkhead__ttrpc__response__free_unpacked(response, NULL);
	}
	return r < 0 ? err_wrap(err, "call %s", method) : 0;
}
