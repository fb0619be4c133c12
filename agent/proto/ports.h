/*
 * Numbers that both ends of the agent's protocol must agree on and that agent.proto cannot hold.
 */
#pragma once

/*
 * The newest version, and the oldest of an agent that this build's host speaks. The agent of a pod
 * is of the build that started it; a host that comes later speaks the agent's version. 2:
 * AdjustClock. 3: keys; an agent that has them serves no host that has none.
 */
#define AGENT_PROTOCOL_VERSION 3
#define AGENT_PROTOCOL_OLDEST  1
#define AGENT_PROTOCOL_CLOCK   2
#define AGENT_PROTOCOL_KEY     3
#define AGENT_CONTROL_PORT     1024
#define AGENT_STREAM_PORT      1025

/*
 * In Exec, and then wherever its process is named: instead of a container, the guest itself, as the
 * agent sees it. No container's id begins with a dot.
 */
#define AGENT_GUEST ".guest"
/* Where the guest has the volumes that MakeVolume made in memory. */
#define AGENT_VOLUMES "/run/volumes"

/*
 * Of one container. The host refuses more before it makes anything. Until all are mounted, each has
 * one of the 1024 descriptors of whoever mounts them.
 */
#define AGENT_MOUNTS_MAX  1000
#define AGENT_DEVICES_MAX 64

/* Bytes of one output stream that the agent keeps until they are acknowledged. */
#define AGENT_RING_BYTES (256u << 10)
/* Of one answer to NextEvents; far below ttrpc's limit with the longest ids. */
#define AGENT_EVENTS_MAX 256
/* What the host says at each connection, and nobody else knows (key.h). */
#define AGENT_KEY_BYTES 32
/* The largest StreamOpen or StreamOpened. */
#define AGENT_STREAM_HEADER_MAX 4096
