/*
 * Numbers that both ends of the agent's protocol must agree on and that agent.proto cannot hold.
 */
#pragma once

#define AGENT_PROTOCOL_VERSION 1
#define AGENT_CONTROL_PORT     1024
#define AGENT_STREAM_PORT      1025

/* Bytes of one output stream that the agent keeps until they are acknowledged. */
#define AGENT_RING_BYTES (256u << 10)
/* The largest StreamOpen or StreamOpened. */
#define AGENT_STREAM_HEADER_MAX 4096
