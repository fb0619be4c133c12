/*
 * GetContainerEvents: who listens, and what they are told of pods and containers.
 *
 * An event carries the pod's and all its containers' status as they are when it is told, so it is
 * told under runtime->lock by whoever has just recorded what it tells of. Telling never waits: a
 * client that does not read is dropped (rpc_call_send()). With nobody listening nothing is
 * composed.
 *
 * Lock: the subscribers' own, inside runtime->lock.
 */
#pragma once

#include "cri-server/runtime/internal.h"

/* More clients than a node has any use for. */
#define EVENTS_SUBSCRIBERS_MAX 64

struct events;

int events_open(struct events **ret, struct err *err);
/* Ends all streams, and those that come. Before the server stops: it waits for its calls. */
void events_stop(struct events *events);
struct events *events_close(struct events *events);

/* Of a container, or of a sandbox, whose events are its own. runtime->lock is held. */
void events_tell_container(struct container *container, Runtime__V1__ContainerEventType type);
void events_tell_sandbox(struct sandbox *sandbox, Runtime__V1__ContainerEventType type);

/* The method. */
int events_service_get(struct rpc_call *call, const ProtobufCMessage *request, struct err *err);
