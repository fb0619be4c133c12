/* Pods that are made anew: their machine, their manifest, their kubelet or their node is another.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/bench/process.h"
#include "tests/kubelet/scenarios.h"

#define AGAIN_MS 60000

static const char sleeper[] = "exec sleep 1000000";

/* ---- what a kubelet knows of a pod by the runtime alone ---- */

static int list_pods(struct node *node, const struct pod *pod,
	Runtime__V1__ListPodSandboxResponse **ret, struct err *err)
{
	Runtime__V1__ListPodSandboxRequest request = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__PodSandboxFilter filter = RUNTIME__V1__POD_SANDBOX_FILTER__INIT;
	Runtime__V1__PodSandboxFilter__LabelSelectorEntry
		uid = RUNTIME__V1__POD_SANDBOX_FILTER__LABEL_SELECTOR_ENTRY__INIT,
		*labels = &uid;
	uid.key = (char *)"io.kubernetes.pod.uid";
	uid.value = (char *)pod->uid;
	filter.label_selector = &labels;
	filter.n_label_selector = 1;
	request.filter = &filter;
	return node_call(node, "ListPodSandbox", &request.base, NODE_CALL_MS, ret, err);
}

/* Sets id and attempt of the pod, of which there must be one sandbox, in this state. */
static int adopt(struct node *node, struct pod *pod, int state, struct err *err)
{
	_cleanup_message_ Runtime__V1__ListPodSandboxResponse *list = NULL;
	int r = list_pods(node, pod, &list, err);
	if (r < 0)
		return r;
	if (list->n_items != 1)
		return err_set(err, -EBADMSG, "pod %s has %zu sandboxes", pod->name, list->n_items);
	const Runtime__V1__PodSandbox *item = list->items[0];
	if (strcmp(item->metadata->name, pod->name) != 0 || item->n_annotations != 1 ||
		strcmp(item->annotations[0]->value, pod->from_file ? "file" : "api") != 0)
		return err_set(err, -EBADMSG, "pod %s is not known again", pod->name);
	if ((int)item->state != state)
		return err_set(err, -EBADMSG, "pod %s is in state %d", pod->name, (int)item->state);
	snprintf(pod->id, sizeof(pod->id), "%s", item->id);
	pod->attempt = item->metadata->attempt;
	return 0;
}

/* Its only container, in this state. */
static int adopt_container(struct node *node, struct container *c, int state, struct err *err)
{
	_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
	int r = pod_containers(node, c->pod->id, &list, err);
	if (r == 0 && (list->n_containers != 1 || (int)list->containers[0]->state != state ||
			      strcmp(list->containers[0]->metadata->name, c->name) != 0))
		r = err_set(err, -EBADMSG, "pod %s does not have its container", c->pod->name);
	if (r < 0)
		return r;
	snprintf(c->id, sizeof(c->id), "%s", list->containers[0]->id);
	c->attempt = list->containers[0]->metadata->attempt;
	return 0;
}

/*
 * The next sandbox of a pod whose one is dead, then the container's next attempt, then the old
 * ones are removed: the container, then the sandbox, each twice, as two loops of a kubelet do.
 */
static int make_anew(struct kubelet *k, struct pod *pod, struct container *c, struct err *err)
{
	const struct pod dead = *pod;
	const struct container gone = *c;
	int r = pod_kill(k->node, dead.id, err);
	pod->attempt++;
	if (r == 0)
		r = pod_run(k->node, pod, err);
	c->attempt++;
	if (r == 0)
		r = container_run(k->node, c, err);
	if (r == 0)
		r = pleg_wait(k->pleg, c->id, CONTAINER_RUNNING, err);
	for (int i = 0; i < 2 && r == 0; i++)
		r = container_remove(k->node, gone.id, err);
	for (int i = 0; i < 2 && r == 0; i++)
		r = pod_stop(k->node, dead.id, err);
	for (int i = 0; i < 2 && r == 0; i++)
		r = pod_remove(k->node, dead.id, err);
	if (r == 0)
		r = pleg_wait(k->pleg, dead.id, PLEG_GONE, err);
	if (r == 0)
		r = adopt(k->node, pod, POD_READY, err);
	if (r == 0)
		r = adopt_container(k->node, c, CONTAINER_RUNNING, err);
	return r == 0 ? container_probe(k->node, c->id, "true", 20, NULL, err) : r;
}

/* ---- the machine is killed ---- */

static int kill_machine(const struct pod *pod, struct err *err)
{
	_cleanup_free_ char *guest = str_printf("guest=bh-%s,", pod->id);
	pid_t pids[PROCESSES_MAX];
	int n = guest ? process_find(guest, pids, err) : err_nomem(err);
	if (n == 0)
		return err_set(err, -ESRCH, "pod %s has no machine", pod->name);
	for (int i = 0; i < n; i++)
		kill(pids[i], SIGKILL);
	return n < 0 ? n : 0;
}

int scenario_sandbox_changed(struct kubelet *k, struct err *err)
{
	struct pod pod = pod_named("changed");
	struct container c = {.pod = &pod, .name = "main", .script = sleeper};
	int code = 0;
	int r = pod_run(k->node, &pod, err);
	if (r == 0)
		r = container_run(k->node, &c, err);
	if (r == 0)
		r = kill_machine(&pod, err);
	if (r == 0)
		r = pleg_wait(k->pleg, pod.id, POD_NOTREADY, err);
	if (r == 0)
		r = pleg_wait(k->pleg, c.id, CONTAINER_EXITED, err);
	if (r == 0)
		r = exit_code_of(k, c.id, &code, err);
	if (r == 0 && code == 0)
		r = err_set(err, -EBADMSG, "a container that was killed has exit code 0");
	if (r == 0)
		r = make_anew(k, &pod, &c, err);
	return r < 0 ? r : pod_delete(k->node, pod.id, err);
}

/* ---- the node goes down ---- */

#define REBOOTED 2

static void pods_of_reboot(struct pod pods[REBOOTED], struct container containers[REBOOTED])
{
	pods[0] = pod_named("rebooted");
	pods[1] = pod_named("rebooted-static");
	pods[1].from_file = true;
	for (int i = 0; i < REBOOTED; i++)
		containers[i] = (struct container){
			.pod = &pods[i], .name = "main", .script = "echo up; exec sleep 1000000"};
}

int scenario_before_reboot(struct kubelet *k, struct err *err)
{
	struct pod pods[REBOOTED];
	struct container c[REBOOTED];
	int r = 0;
	pods_of_reboot(pods, c);
	for (int i = 0; i < REBOOTED && r == 0; i++) {
		r = pod_run(k->node, &pods[i], err);
		if (r == 0)
			r = container_run(k->node, &c[i], err);
		if (r == 0)
			r = pleg_wait(k->pleg, c[i].id, CONTAINER_RUNNING, err);
	}
	return r;
}

static int after_reboot_one(
	struct kubelet *k, struct pod *pod, struct container *c, struct err *err)
{
	int code = 0;
	int r = adopt(k->node, pod, POD_NOTREADY, err);
	if (r == 0)
		r = adopt_container(k->node, c, CONTAINER_EXITED, err);
	if (r == 0)
		r = exit_code_of(k, c->id, &code, err);
	if (r == 0 && code == 0)
		r = err_set(err, -EBADMSG, "a container that the reboot ended has exit code 0");
	if (r == 0)
		r = make_anew(k, pod, c, err);
	return r < 0 ? r : pod_delete(k->node, pod->id, err);
}

int scenario_after_reboot(struct kubelet *k, struct err *err)
{
	struct pod pods[REBOOTED];
	struct container c[REBOOTED];
	int r = 0;
	pods_of_reboot(pods, c);
	for (int i = 0; i < REBOOTED && r == 0; i++)
		r = after_reboot_one(k, &pods[i], &c[i], err);
	return r;
}

/* ---- a static pod ---- */

/* The connections and memories of a kubelet that has just begun. */
static struct node node_after_restart(struct node *node)
{
	/* Others call meanwhile: of theirs nothing is kept. */
	pthread_mutex_lock(&node->lock);
	struct node fresh = *node;
	pthread_mutex_unlock(&node->lock);
	pthread_mutex_init(&fresh.lock, NULL);
	fresh.n_idle = 0;
	memset(fresh.times, 0, sizeof(fresh.times));
	return fresh;
}

int scenario_static(struct kubelet *k, struct err *err)
{
	struct pod pod = pod_named("static");
	struct container c = {.pod = &pod, .name = "main", .script = sleeper};
	pod.from_file = true;
	int r = pod_run(k->node, &pod, err);
	if (r == 0)
		r = container_run(k->node, &c, err);
	if (r < 0)
		return r;
	/* The kubelet restarts, and finds it. */
	_cleanup_(node_done) struct node fresh = node_after_restart(k->node);
	struct kubelet again = {.node = &fresh, .pleg = k->pleg};
	struct pod found = pod_named("static");
	struct container found_c = {.pod = &found, .name = "main", .script = sleeper};
	found.from_file = true;
	r = adopt(&fresh, &found, POD_READY, err);
	if (r == 0)
		r = adopt_container(&fresh, &found_c, CONTAINER_RUNNING, err);
	if (r == 0 && (strcmp(found.id, pod.id) != 0 || strcmp(found_c.id, c.id) != 0))
		r = err_set(err, -EBADMSG, "another pod is found");
	/* Another manifest is another uid; the new pod comes when the old one ended, and before it
	 * is removed. */
	struct pod next = found;
	struct container next_c = found_c;
	snprintf(next.uid, sizeof(next.uid), "static-uid-2");
	next_c.pod = &next;
	if (r == 0)
		r = pod_kill(&fresh, found.id, err);
	if (r == 0)
		r = pod_run(&fresh, &next, err);
	if (r == 0)
		r = container_run(&fresh, &next_c, err);
	if (r == 0)
		r = pod_delete(&fresh, found.id, err);
	if (r == 0)
		r = pleg_wait(again.pleg, found.id, PLEG_GONE, err);
	if (r == 0)
		r = adopt(&fresh, &next, POD_READY, err);
	return r < 0 ? r : pod_delete(&fresh, next.id, err);
}

/* ---- deadlines ---- */

/* The same call with a longer deadline each time, until it succeeds. */
struct attempt {
	struct node *node;
	const char *method;
	const ProtobufCMessage *request;
};

static int insist(const struct attempt *a, unsigned *failures, struct err *err)
{
	uint64_t end = now_ms() + AGAIN_MS;
	int r;
	for (uint64_t deadline = 5;; deadline *= 2) {
		r = node_call(a->node, a->method, a->request, deadline, NULL, err);
		if (r == 0 || now_ms() > end)
			return r;
		(*failures)++;
		sleep_ms(50);
	}
}

static int run_impatiently(struct kubelet *k, struct pod *pod, unsigned *failures, struct err *err)
{
	Runtime__V1__RunPodSandboxRequest request = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__PodSandboxConfig config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__PodSandboxMetadata metadata = RUNTIME__V1__POD_SANDBOX_METADATA__INIT;
	Runtime__V1__LinuxPodSandboxConfig linux = RUNTIME__V1__LINUX_POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__PodSandboxConfig__LabelsEntry
		label = RUNTIME__V1__POD_SANDBOX_CONFIG__LABELS_ENTRY__INIT,
		*labels = &label;
	Runtime__V1__PodSandboxConfig__AnnotationsEntry
		note = RUNTIME__V1__POD_SANDBOX_CONFIG__ANNOTATIONS_ENTRY__INIT,
		*notes = &note;
	struct attempt attempt = {k->node, "RunPodSandbox", &request.base};
	metadata.name = pod->name;
	metadata.uid = label.value = pod->uid;
	metadata.namespace_ = (char *)"default";
	label.key = (char *)"io.kubernetes.pod.uid";
	note.key = (char *)"kubernetes.io/config.source";
	note.value = (char *)"api";
	linux.cgroup_parent = (char *)k->node->cgroup_parent;
	config.metadata = &metadata;
	config.labels = &labels;
	config.annotations = &notes;
	config.n_labels = config.n_annotations = 1;
	config.linux = &linux;
	request.config = &config;
	return insist(&attempt, failures, err);
}

int scenario_deadlines(struct kubelet *k, struct err *err)
{
	struct pod pod = pod_named("deadlines");
	struct container c = {
		.pod = &pod, .name = "main", .script = "trap '' TERM; while :; do sleep 0.1; done"};
	Runtime__V1__StopContainerRequest stop = RUNTIME__V1__STOP_CONTAINER_REQUEST__INIT;
	Runtime__V1__RemoveContainerRequest remove = RUNTIME__V1__REMOVE_CONTAINER_REQUEST__INIT;
	Runtime__V1__StopPodSandboxRequest stop_pod = RUNTIME__V1__STOP_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__RemovePodSandboxRequest remove_pod =
		RUNTIME__V1__REMOVE_POD_SANDBOX_REQUEST__INIT;
	struct attempt calls[] = {
		{k->node, "StopContainer", &stop.base},
		{k->node, "RemoveContainer", &remove.base},
		{k->node, "StopPodSandbox", &stop_pod.base},
		{k->node, "RemovePodSandbox", &remove_pod.base},
	};
	unsigned failures = 0;
	int r = run_impatiently(k, &pod, &failures, err);
	/* Of all that were begun one is there. */
	if (r == 0)
		r = adopt(k->node, &pod, POD_READY, err);
	if (r == 0)
		r = container_run(k->node, &c, err);
	stop.container_id = remove.container_id = c.id;
	stop.timeout = 1;
	stop_pod.pod_sandbox_id = remove_pod.pod_sandbox_id = pod.id;
	for (size_t i = 0; i < ARRAY_SIZE(calls) && r == 0; i++)
		r = insist(&calls[i], &failures, err);
	if (r == 0 && failures == 0)
		r = err_set(err, -EBADMSG, "no deadline passed");
	return r < 0 ? r : pleg_wait(k->pleg, pod.id, PLEG_GONE, err);
}
