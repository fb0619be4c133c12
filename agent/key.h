/*
 * Whom the agent serves. Whatever runs on the node may be able to connect to a guest: AF_VSOCK has
 * neither owners nor modes, and CIDs are used again. So the first Hello brings a key, which is the
 * machine's from then on; every other connection says it, or is refused. Threads: none of its own.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/proto/ports.h"
#include "common/err.h"

struct key {
	uint8_t bytes[AGENT_KEY_BYTES];
	bool set;
};

/* What a Hello brought: 0 when it is the key, as the first is; -EINVAL, or -EACCES for another. */
int key_offer(struct key *key, const ProtobufCBinaryData *offered, struct err *err);
/* 0, or -EACCES: another, or none is set. */
int key_check(const struct key *key, const ProtobufCBinaryData *said, struct err *err);
