/*
 * The host's side of an agent: one control connection, events, and process streams.
 *
 * Requests are the messages of agent.proto themselves (one shape for one thing). Nothing that comes
 * back is trusted: sizes are bounded by ttrpc, strings are checked to be UTF-8 without control
 * characters, identifiers and counts are compared with what was asked.
 *
 * Threads: calls from any thread but the loop's, each blocks for its own answer. Callbacks run on
 * the client's own event thread and may block; they are never called again once agent_close()
 * returned (which must not be called from a callback). The loop runs in a thread
 * of its own from before agent_open() until agent_close() returned.
 */
#pragma once

#include <stdint.h>

#include "agent/proto/agent.pb-c.h"
#include "agent/proto/ports.h"
#include "common/err.h"
#include "common/loop.h"

struct agent;

#define AGENT_EVENT_STRAY 1

/* How to reach a port of the guest: hv_vm_connect() behind a closure. */
struct agent_transport {
	int (*connect)(
		void *userdata, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err);
	void *userdata;
	/* How long the guest may be silent when it is asked for events, and then while it is
	 * connected to anew; 0: 60 s and 10 s. */
	uint64_t silent_ms;
	uint64_t lost_ms;
	/* The machine's, which nobody else may know; an agent without keys (version 2) ignores it.
	 */
	uint8_t key[AGENT_KEY_BYTES];
};

struct agent_callbacks {
	/*
	 * One event, in order, each exactly once per sequence number above the `after` of
	 * agent_open(). The event is acknowledged to the agent when this returns 0; on an error it
	 * comes again later. AGENT_EVENT_STRAY: 0 for one that tells of nothing. A guest may invent
	 * such events without end, so the next one is a while in coming.
	 */
	int (*on_event)(void *userdata, const Bulkhead__Agent__Event *event);
	/* The control connection was lost, or the guest silent for so long, and the agent did not
	 * answer again within the transport's lost_ms of retries. */
	void (*on_lost)(void *userdata, const char *reason);
	void *userdata;
};

/*
 * Connects (retrying while the guest boots, at most timeout_ms), says hello, sets the guest's
 * clock, and starts the event thread, which asks for events after number `after`. The first one may
 * have a later number where the sandbox was configured before. A version that we do not speak is
 * -EPROTO.
 */
int agent_open(struct ev_loop *loop, const struct agent_transport *transport,
	const struct agent_callbacks *callbacks, uint64_t after, uint64_t timeout_ms,
	struct agent **ret, struct err *err);

/* Ends the connection; the guest goes on. NULL is accepted. */
struct agent *agent_close(struct agent *agent);

/* From the hello; valid as long as the agent. */
const Bulkhead__Agent__HelloResponse *agent_hello(const struct agent *agent);

/*
 * One call by the method's name in agent.proto. *ret_response (may be NULL) is freed by the caller
 * with protobuf_c_message_free_unpacked(). timeout_ms 0: no limit. Errors: the agent's errno and
 * message; -ETIMEDOUT; -EPIPE the machine is gone.
 */
int agent_call(struct agent *agent, const char *method, const ProtobufCMessage *request,
	uint64_t timeout_ms, ProtobufCMessage **ret_response, struct err *err);

/*
 * Opens a stream of a process, or a connection to a port inside the pod. The fd is a blocking
 * socket that carries what agent.proto says after the StreamOpened; *ret_offset is where its bytes
 * begin (may be NULL). timeout_ms is for all of it. -ENOENT: no such process or stream.
 */
int agent_stream_open(struct agent *agent, const Bulkhead__Agent__StreamOpen *open,
	uint64_t timeout_ms, int *ret_fd, uint64_t *ret_offset, struct err *err);

/*
 * Acknowledges all bytes before offset on a stdout or stderr stream. Never blocks: positive 1 when
 * the guest has not read earlier ones and the socket is full; a later acknowledgement says it too.
 */
int agent_stream_ack(int fd, uint64_t offset, struct err *err);
