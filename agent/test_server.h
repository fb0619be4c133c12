/*
 * For tests: the real server in a process of its own, on Unix sockets instead of vsock, with a
 * clock, a configuration and a power switch that touch nothing. Linked into tests only.
 *
 * "ConfigureSandbox" fails for the host name "refuse" and crashes its job for "crash";
 * "UpdateInterfaces" fails for two interfaces and says how many there were before. PowerOff
 * ends the process.
 */
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include "agent/client/client.h"

struct test_server {
	char dir[64];
	pid_t pid;
	struct agent_transport transport;
};

void test_server_start(struct test_server *server);
/* Kills it, so that its connections break; the sockets' files stay. */
void test_server_kill(struct test_server *server);
/* Starts it again at the same place. */
void test_server_restart(struct test_server *server);
void test_server_stop(struct test_server *server);

/* The server and a client of it, which hears of no event and no loss, with its loop's thread. */
struct test_client {
	struct test_server server;
	struct ev_loop *loop;
	pthread_t thread;
	struct agent *agent;
};

/* cmocka's set-up and tear-down: *state is a struct test_client. */
int test_client_setup(void **state);
int test_client_teardown(void **state);
