/*
 * The runtime service: pods and containers, composed of all other rooms.
 *
 * For outsiders (main.c): open, close, and the table of CRI methods. `struct runtime` itself is
 * internal.h's.
 */
#pragma once

#include "common/err.h"
#include "common/log.h"
#include "cri-server/config.h"
#include "cri-server/image/image.h"
#include "cri-server/rpc/server.h"
#include "cri-server/store/store.h"

struct runtime;

/*
 * Opens libvirt and the network, finds the pods and containers of an earlier process again, undoes
 * what was half-made, removes what nobody knows (docs/architecture.md, "Recovery"). Blocks for
 * seconds. All pointers are borrowed and outlive the runtime.
 */
int runtime_open(const struct config *config, const struct log *log, struct store *store,
	struct img *images, struct runtime **ret, struct err *err);

/*
 * Ends the streams of events, sends away the pods that wait for their turn to start, and refuses
 * new ones of both: the server, which stops next, waits for its calls.
 */
void runtime_stop_waiting(struct runtime *rt);
/* Lets go of everything; pods and containers go on. No RPC may be in progress. NULL is accepted. */
struct runtime *runtime_close(struct runtime *runtime);

/* The methods of runtime.v1.RuntimeService; rpc_call_userdata() must be the daemon's context. */
extern const struct rpc_service runtime_service;
