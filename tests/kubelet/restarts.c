/* Containers that end and are started again, and many of them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/kubelet/scenarios.h"

#define LOG_MAX (1u << 20)

int exit_code_of(struct kubelet *k, const char *id, int *ret_code, struct err *err)
{
	_cleanup_message_ Runtime__V1__ContainerStatusResponse *answer = NULL;
	int r = container_status(k->node, id, &answer, err);
	if (r < 0)
		return r;
	const Runtime__V1__ContainerStatus *status = answer->status;
	if (status->state != CONTAINER_EXITED || status->finished_at <= 0 || !status->reason[0])
		return err_set(err, -EBADMSG,
			"%s has not ended as it should: state %d, reason '%s'", id,
			(int)status->state, status->reason);
	*ret_code = status->exit_code;
	return 0;
}

int run_to_end(struct kubelet *k, struct container *c, int *ret_code, struct err *err)
{
	int r = container_run(k->node, c, err);
	if (r == 0)
		r = pleg_wait(k->pleg, c->id, CONTAINER_EXITED, err);
	return r < 0 ? r : exit_code_of(k, c->id, ret_code, err);
}

static int older_first(const void *a, const void *b)
{
	const Runtime__V1__Container *x = *(Runtime__V1__Container *const *)a;
	const Runtime__V1__Container *y = *(Runtime__V1__Container *const *)b;
	return (x->created_at > y->created_at) - (x->created_at < y->created_at);
}

static bool has_newer(const Runtime__V1__ListContainersResponse *list, size_t i)
{
	for (size_t j = i + 1; j < list->n_containers; j++)
		if (strcmp(list->containers[j]->metadata->name,
			    list->containers[i]->metadata->name) == 0 &&
			list->containers[j]->state == CONTAINER_EXITED)
			return true;
	return false;
}

int prune(struct kubelet *k, const struct pod *pod, struct err *err)
{
	_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
	int r = pod_containers(k->node, pod->id, &list, err);
	if (r < 0)
		return r;
	qsort(list->containers, list->n_containers, sizeof(list->containers[0]), older_first);
	for (size_t i = 0; i < list->n_containers && r == 0; i++)
		if (list->containers[i]->state == CONTAINER_EXITED && has_newer(list, i))
			r = container_remove(k->node, list->containers[i]->id, err);
	return r;
}

/* ---- a crash loop ---- */

static int check_log(
	struct kubelet *k, const struct container *c, const char *text, struct err *err)
{
	_cleanup_free_ char *path = container_log(k->node, c), *log = NULL;
	if (!path)
		return err_nomem(err);
	int r = fd_read_file(path, LOG_MAX, &log, NULL, err);
	if (r == 0 && !strstr(log, text))
		r = err_set(err, -EBADMSG, "%s has no '%s'", path, text);
	return r;
}

static int crash_once(struct kubelet *k, const struct pod *pod, unsigned attempt, struct err *err)
{
	_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
	char script[64], text[32];
	snprintf(text, sizeof(text), "attempt %u\n", attempt);
	snprintf(script, sizeof(script), "echo attempt %u; exit %u", attempt, 1 + attempt % 100);
	struct container c = {.pod = pod, .name = "crash", .script = script, .attempt = attempt};
	int code = 0;
	int r = run_to_end(k, &c, &code, err);
	if (r == 0 && code != 1 + (int)(attempt % 100))
		r = err_set(err, -EBADMSG, "attempt %u: exit code %d", attempt, code);
	if (r == 0)
		r = check_log(k, &c, text, err);
	if (r == 0)
		r = prune(k, pod, err);
	if (r == 0)
		r = pod_containers(k->node, pod->id, &list, err);
	if (r == 0 &&
		(list->n_containers != 1 || list->containers[0]->metadata->attempt != attempt))
		r = err_set(err, -EBADMSG, "attempt %u: not it alone is left, but %zu containers",
			attempt, list->n_containers);
	return r;
}

int scenario_crash_loop(struct kubelet *k, struct err *err)
{
	struct pod pod = pod_named("crash-loop");
	int r = pod_run(k->node, &pod, err);
	for (unsigned i = 0; i < k->node->count && r == 0; i++)
		r = crash_once(k, &pod, i, err);
	return r < 0 ? r : pod_delete(k->node, pod.id, err);
}

/* ---- init containers ---- */

/* It began when the one before had ended. */
static int check_order(struct kubelet *k, const struct container *first,
	const struct container *then, struct err *err)
{
	_cleanup_message_ Runtime__V1__ContainerStatusResponse *a = NULL, *b = NULL;
	int r = container_status(k->node, first->id, &a, err);
	if (r == 0)
		r = container_status(k->node, then->id, &b, err);
	if (r == 0 && a->status->finished_at > b->status->started_at)
		r = err_set(err, -EBADMSG, "%s began before %s had ended", then->name, first->name);
	return r;
}

/* It fails, and succeeds as its second attempt. */
static int run_init(struct kubelet *k, struct container *c, struct err *err)
{
	int code = 0;
	int r = run_to_end(k, c, &code, err);
	if (r == 0 && code != 1)
		r = err_set(err, -EBADMSG, "%s: exit code %d instead of 1", c->name, code);
	c->attempt++;
	if (r == 0)
		r = run_to_end(k, c, &code, err);
	if (r == 0 && code != 0)
		r = err_set(err, -EBADMSG, "%s: exit code %d instead of 0", c->name, code);
	return r < 0 ? r : prune(k, c->pod, err);
}

static int check_app(struct kubelet *k, const struct container *app, struct err *err)
{
	_cleanup_free_ char *seen = NULL;
	int r = container_probe(k->node, app->id,
		"cat /volume/order; until test -e /volume/sidecar; do sleep 0.1; done", 20, &seen,
		err);
	if (r == 0 && strcmp(seen, "first\nfirst\nsecond\nsecond\n") != 0)
		r = err_set(err, -EBADMSG, "the init containers did: %s", seen);
	return r > 0 ? err_set(err, -EBADMSG, "the probe's exit code is %d", r) : r;
}

int scenario_init(struct kubelet *k, struct err *err)
{
	_cleanup_free_ char *volume = str_printf("%s/shared", k->node->dir);
	struct pod pod = pod_named("init");
	struct container first = {.pod = &pod,
		.name = "first",
		.volume = volume,
		.script = "echo first >>/volume/order; test $(wc -l </volume/order) -eq 2"};
	struct container second = {.pod = &pod,
		.name = "second",
		.volume = volume,
		.script = "echo second >>/volume/order; test $(wc -l </volume/order) -eq 4"};
	struct container sidecar = {.pod = &pod,
		.name = "sidecar",
		.volume = volume,
		.script = "trap 'exit 0' TERM; touch /volume/sidecar; while :; do sleep 0.1; done"};
	struct container app = {
		.pod = &pod, .name = "app", .volume = volume, .script = "sleep 1000000"};
	int code = -1;
	int r = volume ? fd_mkdir_all(volume, 0755, err) : err_nomem(err);
	if (r == 0)
		r = pod_run(k->node, &pod, err);
	if (r == 0)
		r = run_init(k, &first, err);
	if (r == 0)
		r = run_init(k, &second, err);
	if (r == 0)
		r = container_run(k->node, &sidecar, err);
	if (r == 0)
		r = pleg_wait(k->pleg, sidecar.id, CONTAINER_RUNNING, err);
	if (r == 0)
		r = container_run(k->node, &app, err);
	if (r == 0)
		r = check_order(k, &first, &second, err);
	if (r == 0)
		r = check_order(k, &second, &app, err);
	if (r == 0)
		r = check_app(k, &app, err);
	/* The sidecar is stopped when the others are. */
	if (r == 0)
		r = container_stop(k->node, app.id, 0, err);
	if (r == 0)
		r = container_stop(k->node, sidecar.id, 20, err);
	if (r == 0)
		r = exit_code_of(k, sidecar.id, &code, err);
	if (r == 0 && code != 0)
		r = err_set(err, -EBADMSG, "the sidecar's exit code is %d", code);
	if (r == 0)
		r = pod_delete(k->node, pod.id, err);
	return r < 0 ? r : fd_remove_tree(volume, err);
}
