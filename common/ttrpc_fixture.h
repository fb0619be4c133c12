#pragma once
/*
 * What the tests of ttrpc share: a service of KeyValue → KeyValue methods, and a world with a
 * server of it, a client, or both, at the ends of a socket pair. The functions fail the test by
 * themselves.
 *
 *   Echo     answers with the request          Hold     answers when Release comes
 *   Fail     key is the errno, value the text  Leave    the server frees its connection
 *   Big      key is the size of the answer     Missing  described, but not built
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/loop.h"
#include "common/ttrpc.h"
#include "common/ttrpc.pb-c.h"
#include "common/ttrpc_internal.h"

typedef Bulkhead__Ttrpc__KeyValue KeyValue;

extern const ProtobufCServiceDescriptor world_service;

/* A method of such a service, as protoc-c would describe it. */
#define WORLD_METHOD(n)                                                                            \
	{                                                                                          \
		.name = (n), .input = &bulkhead__ttrpc__key_value__descriptor,                     \
		.output = &bulkhead__ttrpc__key_value__descriptor                                  \
	}

/*
 * A loop in a thread of its own, a socket pair, and on each end of it ours or the bare socket.
 * `held` belongs to the loop's thread, and to the test once that has ended.
 */
struct world {
	struct ev_loop *loop;
	pthread_t thread;
	bool running;
	int raw;
	struct ttrpc_service service;
	struct ttrpc_conn *conn;
	struct ttrpc_client *client;
	struct ttrpc_call *held[2 * TTRPC_CALLS_MAX];
	atomic_size_t n_held;
	atomic_int server_closes;
	atomic_int client_closes;
	size_t descriptors;
};

/* cmocka's: *state is the world. teardown also checks that no descriptor is left. */
int world_setup_both(void **state);
int world_setup_server(void **state);
int world_setup_client(void **state);
int world_teardown(void **state);

/* Ends the loop's thread; again is no error. */
void world_stop_loop(struct world *world);

/* One call by world->client. ret may be NULL; else the caller frees *ret, NULL after an error. */
int world_call(struct world *world, const char *method, const char *key, const char *value,
	uint64_t timeout_ms, KeyValue **ret, struct err *err);
void world_check_echo(struct world *world);

/* Until the count has the value, until n calls are held: 5 s at most. */
void world_wait(const atomic_int *count, int value);
void world_wait_held(struct world *world, size_t n);

/* A thread that calls `rounds` times, and what came out of it once it is joined. */
struct caller {
	pthread_t thread;
	struct world *world;
	const char *method;
	uint64_t timeout_ms;
	int rounds;
	int result;
};

void caller_start(struct caller *caller);
