/*
 * The CRI calls that `make bench` times, each as short as it can be said. One client, one thread;
 * each blocks until it is answered, with a deadline. Returned strings are the caller's.
 */
#pragma once

#include <stdbool.h>

#include <jansson.h>

#include "common/err.h"
#include "cri-server/rpc/client.h"

int cri_pull(struct rpc_client *client, const char *image, char **ret_ref, struct err *err);
/* With all its names where it is named by id; none is success. */
int cri_remove_image(struct rpc_client *client, const char *image, struct err *err);

/* What may be listed. */
enum cri_list {
	CRI_LIST_IMAGES,
	CRI_LIST_CONTAINERS,
	CRI_LIST_SANDBOXES,
	CRI_LIST_CONTAINER_STATS,
};
/* Until the answer is here: what a client makes of it is its own affair. -EBADMSG: there are not so
 * many. */
int cri_list(struct rpc_client *client, enum cri_list list, size_t expected, struct err *err);

/* `name` is the pod's name, uid and host name. Its container logs to log_directory. */
int cri_run_pod(struct rpc_client *client, const char *name, const char *log_directory,
	char **ret_id, struct err *err);
/* Stops and removes it. */
int cri_remove_pod(struct rpc_client *client, const char *id, struct err *err);

/* The verbose information of the runtime, or of a pod where pod_id is given: a JSON object. */
int cri_info(struct rpc_client *client, const char *pod_id, json_t **ret, struct err *err);

/* The pod's first address. */
int cri_pod_address(struct rpc_client *client, const char *id, char **ret, struct err *err);

struct cri_container {
	const char *image;
	const char *const *command; /* ends with NULL, as those of cri_exec() */
	const char *volume;         /* a directory of the host, on /volume; NULL: none */
	bool privileged;            /* else as a kubelet with seccompDefault has it */
};

int cri_create_container(struct rpc_client *client, const char *pod_id,
	const struct cri_container *container, char **ret_id, struct err *err);
/* Also one that runs. */
int cri_remove_container(struct rpc_client *client, const char *id, struct err *err);
int cri_start_container(struct rpc_client *client, const char *id, struct err *err);

/* Runs a command to its end, whose code must be 0. ret_output may be NULL. */
int cri_exec(struct rpc_client *client, const char *id, const char *const *command,
	char **ret_output, struct err *err);
