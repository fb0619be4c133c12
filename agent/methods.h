/*
 * Handlers of the calls about containers and processes; server.c has the table that names them.
 * userdata of each is the `struct server_state`, with which the server's own state begins.
 */
#pragma once

#include <sys/queue.h>

#include "agent/ids.h"
#include "agent/registry.h"
#include "common/ttrpc.h"

struct server_state {
	struct ev_loop *loop;
	struct reaper *reaper;
	struct registry registry;
	struct container_host *host; /* made by the first CreateContainer or Exec */
	bool configured;
	struct ids ids;
	TAILQ_HEAD(, volume_call) volume_calls; /* not answered yet, oldest first */
	struct ttrpc_call *limiting;            /* sets limits */
};

/* One of its own; NULL: no memory. */
ProtobufCMessage *message_copy(const ProtobufCMessage *message);

void method_create_container(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_start_container(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_signal_process(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_remove_container(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_exec(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_remove_process(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_resize_terminal(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_list_containers(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_stats(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_update_resources(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
/* grow.c */
void method_grow_machine(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
/* volume_methods.c */
void method_make_volume(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_write_volume(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
void method_remove_volumes(void *userdata, struct ttrpc_call *call, const ProtobufCMessage *msg);
