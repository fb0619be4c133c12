/* fsck: whether records and host agree. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/output.h"
#include "cri-server/fsck/fsck.h"

#define SETTLE_S      3
#define SETTLE_MAX_S  3600
#define BETWEEN_MS    300
#define ANSWER_MS     15000 /* as long as bulkheadd gives a guest at its start */
#define EXIT_FINDINGS 1
#define EXIT_NO_LOOK  3

/* Looks until nothing is found, or for as long as is given: what every look found is true. */
static int look(const struct config *config, struct fsck_guests *guests, uint64_t settle_s,
	struct fsck_report **ret, struct err *err)
{
	const struct timespec pause = {.tv_nsec = BETWEEN_MS * 1000000};
	uint64_t deadline = ev_now_ms() + settle_s * 1000;
	int r = fsck_look(config, guests, ret, err);
	while (r == 0 && (*ret)->n_findings > 0 && ev_now_ms() < deadline) {
		struct fsck_report *again;
		nanosleep(&pause, NULL);
		r = fsck_look(config, guests, &again, err);
		if (r == 0) {
			fsck_keep_common(again, *ret);
			fsck_report_free(*ret);
			*ret = again;
		}
	}
	return r;
}

static int print_json(const struct fsck_report *report)
{
	json_t *findings = json_array();
	json_auto_t *root = json_pack("{s:b, s:I, s:I, s:I, s:I, s:o}", "serving", report->serving,
		"pods", (json_int_t)report->n[FSCK_N_PODS], "containers",
		(json_int_t)report->n[FSCK_N_CONTAINERS], "images",
		(json_int_t)report->n[FSCK_N_IMAGES], "layers",
		(json_int_t)report->n[FSCK_N_LAYERS], "findings", findings);
	for (size_t i = 0; root && i < report->n_findings; i++) {
		const struct fsck_finding *f = &report->findings[i];
		if (json_array_append_new(findings, json_pack("{s:s, s:s, s:s}", "kind", f->kind,
							    "id", f->id, "problem", f->problem)))
			return -ENOMEM;
	}
	return root && json_dumpf(root, stdout, JSON_INDENT(2)) == 0 && putchar('\n') == '\n'
		       ? 0
		       : -ENOMEM;
}

static int print_text(const struct fsck_report *report)
{
	static const char *const headings[] = {"KIND", "ID", "PROBLEM", NULL};
	struct table *table = table_new(headings);
	int r = table ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < report->n_findings; i++) {
		const struct fsck_finding *f = &report->findings[i];
		r = table_add(table, (const char *[]){f->kind, f->id, f->problem});
	}
	if (r == 0 && report->n_findings)
		table_print(table, stdout);
	table_free(table);
	if (r == 0)
		printf("%zu pods, %zu containers, %zu images, %zu layers recorded%s: %zu %s\n",
			report->n[FSCK_N_PODS], report->n[FSCK_N_CONTAINERS],
			report->n[FSCK_N_IMAGES], report->n[FSCK_N_LAYERS],
			report->serving ? "" : ", bulkheadd does not run", report->n_findings,
			report->n_findings == 1 ? "problem" : "problems");
	return r;
}

static int fail(const struct err *err)
{
	cli_fail(err);
	return EXIT_NO_LOOK;
}

int command_fsck(struct cli *cli, char **args)
{
	const char *path = NULL, *output = "text";
	uint64_t settle_s = SETTLE_S;
	const struct option_row rows[] = {
		{"config", 'c', OPTION_STRING, &path, "FILE",
			"bulkheadd's configuration (default " CONFIG_PATH ")"},
		{"output", 'o', OPTION_CHOICE, &output, "text|json",
			"form of the report (default text)"},
		{"settle", 0, OPTION_NUMBER, &settle_s, "SECONDS",
			"how long what is found must last to count (default 3)"},
	};
	int exit_code;
	struct err err = ERR_INIT;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 0, 0, &exit_code))
		return exit_code;
	bool json = strcmp(output, "json") == 0;
	if (settle_s > SETTLE_MAX_S) {
		err_set(&err, -EINVAL, "fsck: --settle is at most an hour");
		cli_fail(&err);
		return EXIT_USAGE;
	}
	struct config *config = NULL;
	if (config_load(path, &config, &err) < 0)
		return fail(&err);
	struct fsck_report *report = NULL;
	struct fsck_guests *guests = NULL;
	int r = fsck_guests_new(ANSWER_MS, &guests, &err);
	if (r == 0)
		r = look(config, guests, settle_s, &report, &err);
	fsck_guests_free(guests);
	if (r == 0 && (json ? print_json(report) : print_text(report)) < 0)
		r = err_nomem(&err);
	exit_code = r != 0 ? fail(&err) : report->n_findings ? EXIT_FINDINGS : EXIT_SUCCESS;
	fsck_report_free(report);
	config_free(config);
	return exit_code;
}
