#include "cri-server/cli/timings.h"

#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "common/loop.h"

static void add(struct timings *t, const char *name, double ms)
{
	if (t->n == TIMINGS_MAX)
		return;
	snprintf(t->rows[t->n].name, sizeof(t->rows[t->n].name), "%s", name);
	t->rows[t->n++].ms = ms;
}

void timings_begin(struct timings *t)
{
	t->mark_ns = ev_now_ns();
}

void timings_end(struct timings *t, const char *name)
{
	add(t, name, (double)(ev_now_ns() - t->mark_ns) / 1e6);
}

/* The steps stand in the verbose information, in their order. Another runtime has none: no rows. */
static void add_steps(struct timings *t, const Runtime__V1__PodSandboxStatusResponse *status)
{
	for (size_t i = 0; i < status->n_info; i++) {
		if (strcmp(status->info[i]->key, "info") != 0)
			continue;
		json_t *info = json_loads(status->info[i]->value, 0, NULL), *value;
		const char *name;
		json_object_foreach(json_object_get(info, "bringUpMs"), name, value) {
			char indented[32];
			snprintf(indented, sizeof(indented), "  %s", name);
			add(t, indented, json_number_value(value));
		}
		json_decref(info);
	}
}

int timings_pod(struct timings *t, struct cli *cli, const char *pod_id, struct err *err)
{
	Runtime__V1__PodSandboxStatusRequest request =
		RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__PodSandboxStatusResponse *response = NULL;
	request.pod_sandbox_id = (char *)pod_id;
	request.verbose = true;
	int r = cli_call(
		cli, CLI_RUNTIME, "PodSandboxStatus", &request.base, CLI_SHORT_MS, &response, err);
	if (r < 0)
		return r;
	if (response->status && response->status->network)
		cli_note("address %s", response->status->network->ip);
	add_steps(t, response);
	return 0;
}

void timings_print(const struct timings *t)
{
	for (size_t i = 0; i < t->n; i++)
		cli_note("%-22s %8.0f ms", t->rows[i].name, t->rows[i].ms);
}
