/*
 * Pods and containers as a kubelet makes them: names, labels, annotations and log paths by which
 * it knows them again after its own restart, and its order of calls.
 *
 * Plain values of their scenario, which says what is wanted; ids are set when the thing is made.
 * One thread for each value. All functions block until they are answered.
 */
#pragma once

#include "tests/kubelet/node.h"

#define POD_ID_MAX 65

#define POD_READY         RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY
#define POD_NOTREADY      RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_NOTREADY
#define CONTAINER_RUNNING RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING
#define CONTAINER_EXITED  RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED

struct pod {
	char name[48], uid[64];
	unsigned attempt;
	bool from_file; /* a static pod's */
	uint64_t memory_bytes;
	char id[POD_ID_MAX];
};

struct container {
	const struct pod *pod;
	const char *name, *script;
	const char *image;  /* NULL: the node's */
	const char *volume; /* a directory of the host, on /volume; NULL: none */
	uint64_t memory_bytes;
	unsigned attempt; /* also its restart count */
	char id[POD_ID_MAX];
};

/* A pod that no other scenario has. */
struct pod pod_named(const char *name);

/* Below it each container logs; the string is the caller's, NULL when memory is out. */
char *pod_log_directory(const struct node *node, const struct pod *pod);

/* Status, RunPodSandbox and PodSandboxStatus, which must say READY and have an address. */
int pod_run(struct node *node, struct pod *pod, struct err *err);
int pod_is_ready(struct node *node, const char *id, bool *ret, struct err *err);
int pod_stop(struct node *node, const char *id, struct err *err);
int pod_remove(struct node *node, const char *id, struct err *err);
/* The limit of all containers together, which the pod has from now on. */
int pod_resize(struct node *node, struct pod *pod, uint64_t memory_bytes, struct err *err);
/* StopContainer for all that run, at the same time, then StopPodSandbox. */
int pod_kill(struct node *node, const char *id, struct err *err);
/* Kills it, then removes its containers and it. */
int pod_delete(struct node *node, const char *id, struct err *err);

/* ListContainers of a pod; the answer is the caller's. */
int pod_containers(struct node *node, const char *id, Runtime__V1__ListContainersResponse **ret,
	struct err *err);

/* ImageStatus, PullImage where it is not there, CreateContainer. */
int container_create(struct node *node, struct container *c, struct err *err);
int container_start(struct node *node, const char *id, struct err *err);
/* Both. */
int container_run(struct node *node, struct container *c, struct err *err);
int container_status(struct node *node, const char *id, Runtime__V1__ContainerStatusResponse **ret,
	struct err *err);
int container_stop(struct node *node, const char *id, unsigned grace_s, struct err *err);
int container_remove(struct node *node, const char *id, struct err *err);
int container_resize(
	struct node *node, struct container *c, uint64_t memory_bytes, struct err *err);
int container_reopen_log(struct node *node, const char *id, struct err *err);
/* Where the container logs; the string is the caller's, NULL when memory is out. */
char *container_log(const struct node *node, const struct container *c);

/*
 * A probe: runs a shell's script. Its exit code, positive too, or an error; -ETIMEDOUT when it took
 * longer than timeout_s. ret_output may be NULL; the string is the caller's.
 */
int container_probe(struct node *node, const char *id, const char *script, unsigned timeout_s,
	char **ret_output, struct err *err);
