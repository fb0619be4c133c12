/*
 * stats: what pods use inside their machines, and what each machine costs the host. The first is
 * CRI's statistics, the second two of the runtime's metrics; another runtime has none of those.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/message_json.h"
#include "cri-server/cli/output.h"
#include "cri-server/cli/refs.h"

#define METRIC_CPU    "bulkhead_machine_cpu_seconds_total"
#define METRIC_MEMORY "bulkhead_machine_memory_pss_bytes"
#define CELL_SIZE     16
#define INTERVAL_S    2
#define CLEAR         "\x1b[H\x1b[J"

typedef Runtime__V1__UInt64Value uint64_value;

struct stats {
	struct cli *cli;
	bool containers;
	enum document_format format;
	char **pods; /* ids; none: all */
	Runtime__V1__ListPodSandboxStatsResponse *usage;
	Runtime__V1__ListPodSandboxMetricsResponse *metrics;
};

/* The figures of one row; what is not known is NULL. */
struct figures {
	const char *pod, *container;
	const Runtime__V1__CpuUsage *cpu;
	const Runtime__V1__MemoryUsage *memory;
	const uint64_value *processes, *received, *sent, *host_cpu, *host_memory;
};

static void free_answers(struct stats *s)
{
	cli_message_freep(&s->usage);
	cli_message_freep(&s->metrics);
	s->usage = NULL;
	s->metrics = NULL;
}

static int ask(struct stats *s, struct err *err)
{
	Runtime__V1__ListPodSandboxStatsRequest usage =
		RUNTIME__V1__LIST_POD_SANDBOX_STATS_REQUEST__INIT;
	Runtime__V1__ListPodSandboxMetricsRequest metrics =
		RUNTIME__V1__LIST_POD_SANDBOX_METRICS_REQUEST__INIT;
	struct err ignored = ERR_INIT;
	int r = cli_call(s->cli, CLI_RUNTIME, "ListPodSandboxStats", &usage.base, CLI_SHORT_MS,
		&s->usage, err);
	if (r == 0)
		cli_call(s->cli, CLI_RUNTIME, "ListPodSandboxMetrics", &metrics.base, CLI_SHORT_MS,
			&s->metrics, &ignored);
	return r;
}

static const uint64_value *find_metric(const struct stats *s, const char *pod, const char *name)
{
	for (size_t i = 0; s->metrics && i < s->metrics->n_pod_metrics; i++) {
		const Runtime__V1__PodSandboxMetrics *m = s->metrics->pod_metrics[i];
		for (size_t k = 0; k < m->n_metrics && strcmp(m->pod_sandbox_id, pod) == 0; k++)
			if (strcmp(m->metrics[k]->name, name) == 0)
				return m->metrics[k]->value;
	}
	return NULL;
}

static bool is_wanted(const struct stats *s, const char *pod)
{
	bool any = false;
	for (char **id = s->pods; *id; id++) {
		any = true;
		if (strcmp(*id, pod) == 0)
			return true;
	}
	return !any;
}

static const char *size_cell(char cell[CELL_SIZE], const uint64_value *value)
{
	if (!value)
		return "-";
	output_size(cell, CELL_SIZE, value->value);
	return cell;
}

static const char *number_cell(char cell[CELL_SIZE], const uint64_value *value, const char *unit)
{
	if (!value)
		return "-";
	snprintf(cell, CELL_SIZE, "%llu%s", (unsigned long long)value->value, unit);
	return cell;
}

/* Of one processor. */
static const char *percent_cell(char cell[CELL_SIZE], const uint64_value *nano_cores)
{
	if (!nano_cores)
		return "-";
	snprintf(cell, CELL_SIZE, "%.1f%%", (double)nano_cores->value / 1e7);
	return cell;
}

static int add_row(struct table *table, const struct figures *f, bool containers)
{
	char c[7][CELL_SIZE];
	const char *cells[9];
	size_t n = 0;
	cells[n++] = f->pod;
	if (containers)
		cells[n++] = f->container;
	cells[n++] = percent_cell(c[0], f->cpu ? f->cpu->usage_nano_cores : NULL);
	cells[n++] = size_cell(c[1], f->memory ? f->memory->working_set_bytes : NULL);
	cells[n++] = number_cell(c[2], f->processes, "");
	cells[n++] = size_cell(c[3], f->received);
	cells[n++] = size_cell(c[4], f->sent);
	cells[n++] = number_cell(c[5], f->host_cpu, "s");
	cells[n++] = size_cell(c[6], f->host_memory);
	return table_add(table, cells);
}

static int add_pod(const struct stats *s, const Runtime__V1__PodSandboxStats *pod,
	struct table *table, size_t *rows_left)
{
	const Runtime__V1__PodSandboxAttributes *a = pod->attributes;
	const Runtime__V1__LinuxPodSandboxStats *in = pod->linux;
	const Runtime__V1__NetworkInterfaceUsage *network =
		in && in->network ? in->network->default_interface : NULL;
	const struct figures f = {
		.pod = a->metadata ? a->metadata->name : a->id,
		.container = "",
		.cpu = in ? in->cpu : NULL,
		.memory = in ? in->memory : NULL,
		.processes = in && in->process ? in->process->process_count : NULL,
		.received = network ? network->rx_bytes : NULL,
		.sent = network ? network->tx_bytes : NULL,
		.host_cpu = find_metric(s, a->id, METRIC_CPU),
		.host_memory = find_metric(s, a->id, METRIC_MEMORY),
	};
	int r = 0;
	if (*rows_left) {
		--*rows_left;
		r = add_row(table, &f, s->containers);
	}
	for (size_t i = 0; r == 0 && s->containers && in && i < in->n_containers && *rows_left;
		i++, --*rows_left) {
		const Runtime__V1__ContainerStats *c = in->containers[i];
		const struct figures part = {
			.pod = "",
			.container = c->attributes && c->attributes->metadata
					     ? c->attributes->metadata->name
					     : "",
			.cpu = c->cpu,
			.memory = c->memory,
		};
		r = add_row(table, &part, true);
	}
	return r;
}

static int print_table(const struct stats *s, size_t rows_left)
{
	static const char *const pods[] = {"POD", "CPU", "MEMORY", "PROCESSES", "RECEIVED", "SENT",
		"HOST CPU", "HOST MEMORY", NULL};
	static const char *const both[] = {"POD", "CONTAINER", "CPU", "MEMORY", "PROCESSES",
		"RECEIVED", "SENT", "HOST CPU", "HOST MEMORY", NULL};
	_cleanup_(table_freep) struct table *table = table_new(s->containers ? both : pods);
	int r = table ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < s->usage->n_stats; i++) {
		const Runtime__V1__PodSandboxStats *pod = s->usage->stats[i];
		if (pod->attributes && is_wanted(s, pod->attributes->id))
			r = add_pod(s, pod, table, &rows_left);
	}
	if (r == 0)
		table_print(table, stdout);
	return r;
}

/* CRI's statistics of a pod, and beside them what it costs the host. */
static json_t *pod_document(const struct stats *s, const Runtime__V1__PodSandboxStats *pod)
{
	json_t *document = message_json(&pod->base), *host = json_object();
	const uint64_value *cpu = find_metric(s, pod->attributes->id, METRIC_CPU);
	const uint64_value *memory = find_metric(s, pod->attributes->id, METRIC_MEMORY);
	if (cpu)
		json_object_set_new(host, "cpuSeconds", json_integer((json_int_t)cpu->value));
	if (memory)
		json_object_set_new(
			host, "memoryPssBytes", json_integer((json_int_t)memory->value));
	if (document && json_object_set_new(document, "host", host) == 0)
		return document;
	json_decref(document);
	return NULL;
}

static int print_document(const struct stats *s)
{
	json_t *document = json_object(), *list = json_array();
	int r = json_object_set(document, "stats", list);
	for (size_t i = 0; r == 0 && i < s->usage->n_stats; i++) {
		const Runtime__V1__PodSandboxStats *pod = s->usage->stats[i];
		if (pod->attributes && is_wanted(s, pod->attributes->id))
			r = json_array_append_new(list, pod_document(s, pod));
	}
	if (r == 0)
		r = document_print(stdout, document, s->format);
	json_decref(list);
	json_decref(document);
	return r;
}

/* One table after the other at the same place, as much as fits, until it is interrupted. */
static int watch(struct stats *s, uint64_t interval_s, struct err *err)
{
	for (;;) {
		struct winsize size = {0};
		int r = ask(s, err);
		if (r < 0)
			return r;
		if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_row < 3)
			size.ws_row = 24;
		fputs(CLEAR, stdout);
		r = print_table(s, size.ws_row - 2);
		free_answers(s);
		if (r < 0 || fflush(stdout) != 0)
			return r < 0 ? err_nomem(err) : err_errno(err, "write");
		sleep((unsigned)interval_s);
	}
}

static int find_pods(struct stats *s, char **names, struct err *err)
{
	size_t n = 0;
	while (names[n])
		n++;
	s->pods = calloc(n + 1, sizeof(*s->pods));
	if (!s->pods)
		return err_nomem(err);
	int r = 0;
	for (size_t i = 0; r == 0 && i < n; i++)
		r = cli_find_pod(s->cli, names[i], &s->pods[i], err);
	return r;
}

static int show(struct stats *s, bool live, uint64_t interval_s, struct err *err)
{
	if (live)
		return watch(s, interval_s, err);
	int r = ask(s, err);
	if (r == 0)
		r = s->format == DOCUMENT_TABLE ? print_table(s, SIZE_MAX) : print_document(s);
	free_answers(s);
	return r < 0 && !err->code ? err_nomem(err) : r;
}

int command_stats(struct cli *cli, char **args)
{
	struct stats s = {.cli = cli};
	const char *output = NULL;
	uint64_t interval_s = INTERVAL_S;
	bool once = false;
	const struct option_row rows[] = {
		{"containers", 'c', OPTION_FLAG, &s.containers, NULL, "their containers, too"},
		{"interval", 'i', OPTION_NUMBER, &interval_s, "SECONDS",
			"between two tables on a terminal (default 2)"},
		{"once", '1', OPTION_FLAG, &once, NULL,
			"one table and no more, as where stdout is no terminal"},
		OUTPUT_ROW(&output),
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 0, SIZE_MAX, &exit_code))
		return exit_code;
	struct err err = ERR_INIT;
	s.format = document_format(output);
	bool live = !once && s.format == DOCUMENT_TABLE && isatty(STDOUT_FILENO);
	int r = interval_s >= 1 && interval_s <= 3600
			? find_pods(&s, args, &err)
			: err_set(&err, -EINVAL, "--interval: 1 to 3600 seconds");
	if (r == 0)
		r = show(&s, live, interval_s, &err);
	for (char **id = s.pods; id && *id; id++)
		free(*id);
	free(s.pods);
	return r < 0 ? cli_fail(&err) : EXIT_SUCCESS;
}
