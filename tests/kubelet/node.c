#include "tests/kubelet/node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/loop.h"

void message_freep(void *message)
{
	ProtobufCMessage *m = *(ProtobufCMessage **)message;
	if (m)
		protobuf_c_message_free_unpacked(m, NULL);
}

static double now_exactly_ms(void)
{
	return (double)ev_now_ns() / 1e6;
}

uint64_t now_ms(void)
{
	return (uint64_t)now_exactly_ms();
}

void sleep_ms(uint64_t ms)
{
	struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

static int take_client(struct node *node, struct rpc_client **ret, struct err *err)
{
	struct rpc_client *client = NULL;
	pthread_mutex_lock(&node->lock);
	if (node->n_idle)
		client = node->idle[--node->n_idle];
	pthread_mutex_unlock(&node->lock);
	if (!client)
		return rpc_client_new(node->socket, ret, err);
	*ret = client;
	return 0;
}

static void give_back(struct node *node, struct rpc_client *client)
{
	pthread_mutex_lock(&node->lock);
	if (node->n_idle < NODE_CLIENTS_MAX) {
		node->idle[node->n_idle++] = client;
		client = NULL;
	}
	pthread_mutex_unlock(&node->lock);
	rpc_client_free(client);
}

static struct method_times *times_of(struct node *node, const char *method)
{
	struct method_times *times = node->times;
	while (times->method && strcmp(times->method, method) != 0)
		if (++times == node->times + NODE_METHODS_MAX)
			return NULL;
	times->method = method;
	return times;
}

static int note(struct node *node, const char *method, double ms, struct err *err)
{
	int r = 0;
	pthread_mutex_lock(&node->lock);
	struct method_times *times = times_of(node, method);
	if (times && times->n == times->size) {
		size_t size = times->size ? 2 * times->size : 64;
		float *more = reallocarray(times->ms, size, sizeof(*more));
		if (more) {
			times->ms = more;
			times->size = size;
		}
	}
	if (times && times->n < times->size)
		times->ms[times->n++] = (float)ms;
	else
		r = -ENOBUFS;
	pthread_mutex_unlock(&node->lock);
	return r < 0 ? err_set(err, r, "note the time of %s", method) : 0;
}

static const ProtobufCServiceDescriptor *service_of(const char *method)
{
	const ProtobufCServiceDescriptor *runtime = &runtime__v1__runtime_service__descriptor;
	return protobuf_c_service_descriptor_get_method_by_name(runtime, method)
		       ? runtime
		       : &runtime__v1__image_service__descriptor;
}

int node_call(struct node *node, const char *method, const ProtobufCMessage *request,
	uint64_t deadline_ms, void *ret_response, struct err *err)
{
	struct rpc_client *client;
	_cleanup_message_ ProtobufCMessage *response = NULL;
	int r = take_client(node, &client, err);
	if (r < 0)
		return r;
	double begin = now_exactly_ms();
	r = rpc_client_call(
		client, service_of(method), method, request, deadline_ms, &response, err);
	double took = now_exactly_ms() - begin;
	give_back(node, client);
	if (r == 0)
		r = note(node, method, took, err);
	if (r < 0)
		return err_wrap(err, "%s", method);
	if (ret_response)
		*(ProtobufCMessage **)ret_response = TAKE_PTR(response);
	return 0;
}

static int by_value(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

float node_percentile(const float *ms, size_t n, unsigned percent)
{
	_cleanup_free_ float *sorted = calloc(n + 1, sizeof(*sorted));
	if (!sorted || n == 0)
		return 0;
	memcpy(sorted, ms, n * sizeof(*ms));
	qsort(sorted, n, sizeof(*sorted), by_value);
	return sorted[(n - 1) * percent / 100];
}

void node_done(struct node *node)
{
	while (node->n_idle)
		rpc_client_free(node->idle[--node->n_idle]);
	for (size_t i = 0; i < NODE_METHODS_MAX; i++)
		free(node->times[i].ms);
	pthread_mutex_destroy(&node->lock);
}
