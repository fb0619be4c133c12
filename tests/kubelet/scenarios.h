/*
 * What a kubelet goes through, by name: one function each. While one runs, pods and containers are
 * listed and statistics asked for. A scenario removes what it made where it succeeds.
 */
#pragma once

#include "tests/kubelet/node.h"
#include "tests/kubelet/pleg.h"
#include "tests/kubelet/pod.h"

struct kubelet {
	struct node *node;
	struct pleg *pleg;
};

/* Many containers in node->pods; all lists show all of them. node->count */
int scenario_many(struct kubelet *k, struct err *err);
/* A container that fails, node->count times; the last dead one is kept. */
int scenario_crash_loop(struct kubelet *k, struct err *err);
/* Init containers one after the other, one that fails first, a sidecar, then the container. */
int scenario_init(struct kubelet *k, struct err *err);
/* Probes each second that succeed, fail until the container is restarted, and hang. */
int scenario_probes(struct kubelet *k, struct err *err);
/* Limits of a pod and its containers, up and down. */
int scenario_resize(struct kubelet *k, struct err *err);
/* Logs that grow and are rotated, also of containers that end meanwhile. */
int scenario_rotation(struct kubelet *k, struct err *err);
/* A pod whose machine is killed is made anew, with its containers. */
int scenario_sandbox_changed(struct kubelet *k, struct err *err);
/* A static pod, found by a kubelet that restarted; its manifest changes. */
int scenario_static(struct kubelet *k, struct err *err);
/* Calls whose deadline passes are repeated until they succeed. */
int scenario_deadlines(struct kubelet *k, struct err *err);
/* Dead containers and sandboxes by age; images while the disk is too full. */
int scenario_collect(struct kubelet *k, struct err *err);
/* States known by events alone, over a stream that breaks. */
int scenario_events(struct kubelet *k, struct err *err);
/* node->count pods one after the other, and what that leaves of the server. */
int scenario_soak(struct kubelet *k, struct err *err);
/* Leaves pods to a reboot; then finds them dead and makes them anew. */
int scenario_before_reboot(struct kubelet *k, struct err *err);
int scenario_after_reboot(struct kubelet *k, struct err *err);

/* ---- what several of them do ---- */

/* Starts it and waits for its end in the lists; sets the exit code. */
int run_to_end(struct kubelet *k, struct container *c, int *ret_code, struct err *err);
/* Positive: it is there, in that state. */
int exit_code_of(struct kubelet *k, const char *id, int *ret_code, struct err *err);
/* The newest dead container of each name stays, older ones are removed, the oldest first. */
int prune(struct kubelet *k, const struct pod *pod, struct err *err);
