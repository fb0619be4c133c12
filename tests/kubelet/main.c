/*
 * kubelet [OPTION…] SCENARIO: plays a scenario against a runtime as a kubelet does, with its order
 * of calls, their repetition and deadlines, while lists and statistics are asked for at the same
 * time. Exit codes: 0; 1 what was wrong is said on stderr; 2 bad arguments.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cri-server/cli/options.h"
#include "tests/kubelet/scenarios.h"

#define STATS_MS 1000

static const struct {
	const char *name;
	int (*play)(struct kubelet *k, struct err *err);
} scenarios[] = {
	{"many", scenario_many},
	{"crash-loop", scenario_crash_loop},
	{"init", scenario_init},
	{"probes", scenario_probes},
	{"resize", scenario_resize},
	{"rotation", scenario_rotation},
	{"sandbox-changed", scenario_sandbox_changed},
	{"static", scenario_static},
	{"deadlines", scenario_deadlines},
	{"collect", scenario_collect},
	{"events", scenario_events},
	{"soak", scenario_soak},
	{"before-reboot", scenario_before_reboot},
	{"after-reboot", scenario_after_reboot},
};

static int ask_statistics(void *userdata, struct err *err)
{
	struct node *node = userdata;
	Runtime__V1__ListContainerStatsRequest containers =
		RUNTIME__V1__LIST_CONTAINER_STATS_REQUEST__INIT;
	Runtime__V1__ListPodSandboxStatsRequest pods =
		RUNTIME__V1__LIST_POD_SANDBOX_STATS_REQUEST__INIT;
	Runtime__V1__ImageFsInfoRequest images = RUNTIME__V1__IMAGE_FS_INFO_REQUEST__INIT;
	int r = node_call(node, "ListContainerStats", &containers.base, NODE_CALL_MS, NULL, err);
	if (r == 0)
		r = node_call(node, "ListPodSandboxStats", &pods.base, NODE_CALL_MS, NULL, err);
	if (r == 0)
		r = node_call(node, "ImageFsInfo", &images.base, NODE_CALL_MS, NULL, err);
	return r;
}

/* What a kubelet is behind its scenarios. */
static int play(size_t which, struct node *node, struct err *err)
{
	struct kubelet k = {.node = node};
	struct worker stats = {.what = "statistics",
		.period_ms = STATS_MS,
		.turn = ask_statistics,
		.userdata = node};
	struct err own = ERR_INIT;
	int r = pleg_start(node, &k.pleg, err);
	if (r < 0)
		return r;
	r = worker_start(&stats, err);
	if (r < 0)
		return r;
	r = scenarios[which].play(&k, err);
	/* What goes on beside it is why it failed, where both did. */
	if (worker_stop(&stats, &own) < 0)
		r = err_set(err, own.code, "%s", own.msg);
	if (pleg_stop(k.pleg, &own) < 0)
		r = err_set(err, own.code, "%s", own.msg);
	return r;
}

static int usage(const struct option_row *rows, size_t n_rows, FILE *out)
{
	fputs("Usage: kubelet [OPTION…] SCENARIO\n\nScenarios:", out);
	for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++)
		fprintf(out, " %s", scenarios[i].name);
	fputs("\n\n", out);
	options_help(out, rows, n_rows);
	return out == stdout ? EXIT_SUCCESS : 2;
}

int main(int argc, char **argv)
{
	struct node node = {
		.lock = PTHREAD_MUTEX_INITIALIZER, .relist_ms = 1000, .count = 10, .pods = 4};
	const struct option_row rows[] = {
		{"socket", 's', OPTION_STRING, &node.socket, "PATH", "the runtime's"},
		{"image", 'i', OPTION_STRING, &node.image, "REF", "of busybox"},
		{"dead-image", 0, OPTION_STRING, &node.dead_image, "REF", "another, for collect"},
		{"unused-image", 0, OPTION_STRING, &node.unused_image, "REF", "and one more"},
		{"dir", 'd', OPTION_STRING, &node.dir, "DIR", "for logs and volumes"},
		{"cgroup-parent", 0, OPTION_STRING, &node.cgroup_parent, "PATH", "of pods"},
		{"memory", 'm', OPTION_NUMBER, &node.memory_mib, "MIB",
			"limit of a pod; the runtime handler's"},
		{"relist-ms", 0, OPTION_NUMBER, &node.relist_ms, "MS", "between two lists; 1000"},
		{"count", 'n', OPTION_NUMBER, &node.count, "N",
			"of containers, restarts or seconds; 10"},
		{"pods", 0, OPTION_NUMBER, &node.pods, "N", "of many; 4"},
		{"server-pid", 0, OPTION_NUMBER, &node.server_pid, "PID",
			"the runtime's, for soak"},
		{"output", 'o', OPTION_STRING, &node.output, "FILE", "for the rows of soak"},
	};
	char **rest;
	struct err err = ERR_INIT;
	size_t which = 0;
	(void)argc;
	int r = options_parse(rows, ARRAY_SIZE(rows), argv + 1, &rest, &err);
	if (r > 0)
		return usage(rows, ARRAY_SIZE(rows), stdout);
	if (r < 0)
		fprintf(stderr, "kubelet: %s\n", err.msg);
	if (r < 0 || !rest[0] || rest[1] || !node.socket || !node.image || !node.dir)
		return usage(rows, ARRAY_SIZE(rows), stderr);
	while (which < ARRAY_SIZE(scenarios) && strcmp(scenarios[which].name, rest[0]) != 0)
		which++;
	if (which == ARRAY_SIZE(scenarios))
		return usage(rows, ARRAY_SIZE(rows), stderr);
	uint64_t begin = now_ms();
	r = play(which, &node, &err);
	if (r == 0)
		printf("%s in %lu ms\n", rest[0], (unsigned long)(now_ms() - begin));
	else
		fprintf(stderr, "kubelet: %s: %s\n", rest[0], err.msg);
	node_done(&node);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
