/*
 * Runs CNI plugins: a pod's attachment through its list of plugins, and the network itself.
 *
 * The list runs in order for ADD, each plugin reading the result of the one before, and in reverse
 * for DEL, each reading the final result. Plugins run in our own namespaces with our environment,
 * as every runtime runs them, within bounds of time and output. Source: containernetworking SPEC
 * 1.1.0, sections 2 and 3. Blocks. Threads: any.
 */
#pragma once

#include <stdint.h>

#include "common/err.h"
#include "network/attachment.h"
#include "network/cni_config.h"

struct cni_runtime {
	const char *bin_dirs;
	uint64_t timeout_ms; /* for each plugin */
};

/*
 * ADD. On success attachment->result is set. On failure DEL is due: plugins may have run.
 * ret_spent_ns: how long they ran, which is set in any case.
 */
int cni_add(const struct cni_runtime *runtime, struct attachment *attachment,
	uint64_t *ret_spent_ns, struct err *err);

/*
 * DEL. `netns` is the namespace's path or "" when it is gone. All plugins run even when one fails;
 * the first error is returned.
 */
int cni_del(const struct cni_runtime *runtime, const struct attachment *attachment,
	const char *netns, struct err *err);

/*
 * CHECK: whether the pod still has what ADD gave it. 0 where the version is older than 0.4.0 or the
 * configuration says disableCheck. The attachment has a result.
 */
int cni_check(
	const struct cni_runtime *runtime, const struct attachment *attachment, struct err *err);

/*
 * VERSION: whether the plugin speaks this version of the specification. -EINVAL: by its own answer
 * it does not. One that gives no answer that can be read is taken at its ADD.
 */
int cni_version(
	const struct cni_runtime *runtime, const char *type, const char *version, struct err *err);

/* STATUS: whether the plugins could serve an ADD now. 0 where the version is older than 1.1.0. */
int cni_status(const struct cni_runtime *runtime, const struct cni_config *config, struct err *err);

/*
 * GC: the plugins forget whatever they hold for others than these attachments, an array of
 * {"containerID", "ifname"}. All run even when one fails; the first error is returned. 0 where the
 * version is older than 1.1.0 or the configuration says disableGC.
 */
int cni_gc(const struct cni_runtime *runtime, const struct cni_config *config, json_t *attachments,
	struct err *err);
