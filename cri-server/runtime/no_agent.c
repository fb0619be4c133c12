/*
 * In the place of the agent's client, for unit tests: there is no guest, and what it is told is
 * taken for done. A test that needs one of these otherwise has its own.
 */
#include <errno.h>
#include <stddef.h>

#include "agent/client/client.h"

__attribute__((weak)) int agent_open(struct ev_loop *loop, const struct agent_transport *transport,
	const struct agent_callbacks *callbacks, uint64_t after, uint64_t timeout_ms,
	struct agent **ret, struct err *err)
{
	(void)loop;
	(void)transport;
	(void)callbacks;
	(void)after;
	(void)timeout_ms;
	(void)ret;
	return err_set(err, -ENOSYS, "there is no agent here");
}

__attribute__((weak)) struct agent *agent_close(struct agent *agent)
{
	(void)agent;
	return NULL;
}

__attribute__((weak)) int agent_call(struct agent *agent, const char *method,
	const ProtobufCMessage *request, uint64_t timeout_ms, ProtobufCMessage **ret_response,
	struct err *err)
{
	(void)agent;
	(void)method;
	(void)request;
	(void)timeout_ms;
	(void)ret_response;
	(void)err;
	return 0;
}

__attribute__((weak)) int agent_stream_open(struct agent *agent,
	const Bulkhead__Agent__StreamOpen *open, uint64_t timeout_ms, int *ret_fd,
	uint64_t *ret_offset, struct err *err)
{
	(void)agent;
	(void)open;
	(void)timeout_ms;
	(void)ret_fd;
	(void)ret_offset;
	return err_set(err, -ENOSYS, "there is no agent here");
}

__attribute__((weak)) int agent_stream_ack(int fd, uint64_t offset, struct err *err)
{
	(void)fd;
	(void)offset;
	(void)err;
	return 0;
}
