/* check: what this host offers and lacks. */
#include "cri-server/cli/check.h"

#include <langinfo.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/output.h"

void check_report(struct check *check, enum finding finding, const char *subject,
	const char *remedy, const char *fmt, ...)
{
	static const char *const marks[] = {"✓", "!", "✗"};
	static const char *const words[] = {"ok     ", "warn   ", "missing"};
	char text[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	_cleanup_free_ char *escaped = output_escape(text);
	printf("%s %-12s %s\n", check->utf8 ? marks[finding] : words[finding], subject,
		escaped ? escaped : "");
	if (remedy && finding != FINDING_OK)
		printf("%*s %s %s\n", check->utf8 ? 14 : 20, "", check->utf8 ? "→" : "->", remedy);
	check->n_missing += finding == FINDING_MISSING;
}

static void check_server_condition(struct check *check, const Runtime__V1__RuntimeCondition *c)
{
	if (c->status)
		check_report(check, FINDING_OK, "bulkheadd", NULL, "%s", c->type);
	else
		check_report(check, FINDING_MISSING, "bulkheadd", NULL, "not %s: %s: %s", c->type,
			c->reason, c->message);
}

/* bulkheadd's own answer. */
static void check_server(struct check *check)
{
	struct err err = ERR_INIT;
	Runtime__V1__VersionRequest ask = RUNTIME__V1__VERSION_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__VersionResponse *version = NULL;
	if (cli_call(check->cli, CLI_RUNTIME, "Version", &ask.base, CLI_SHORT_MS, &version, &err) <
		0) {
		check_report(check, FINDING_MISSING, "bulkheadd",
			"systemctl enable --now bulkheadd", "%s", err.msg);
		return;
	}
	check_report(check, FINDING_OK, "bulkheadd", NULL, "%s %s on %s", version->runtime_name,
		version->runtime_version, check->cli->socket);
	Runtime__V1__StatusRequest request = RUNTIME__V1__STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__StatusResponse *status = NULL;
	if (cli_call(check->cli, CLI_RUNTIME, "Status", &request.base, CLI_SHORT_MS, &status,
		    &err) < 0 ||
		!status->status) {
		check_report(check, FINDING_MISSING, "bulkheadd", NULL, "Status: %s", err.msg);
		return;
	}
	for (size_t i = 0; i < status->status->n_conditions; i++)
		check_server_condition(check, status->status->conditions[i]);
}

int command_check(struct cli *cli, char **args)
{
	const char *path = NULL;
	const struct option_row rows[] = {
		{"config", 'c', OPTION_STRING, &path, "FILE",
			"bulkheadd's configuration (default " CONFIG_PATH ")"},
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 0, 0, &exit_code))
		return exit_code;
	struct config *config = NULL;
	struct err err = ERR_INIT;
	if (config_load(path, &config, &err) < 0)
		return cli_fail(&err);
	if (!cli->socket_given)
		cli->socket = config->socket;

	struct check check = {
		.cli = cli, .config = config, .utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0};
	check_machine(&check);
	check_network(&check);
	check_programs(&check);
	check_server(&check);
	config_free(config);
	if (check.n_missing > 0)
		printf("\n%u missing: pods cannot run here yet.\n", check.n_missing);
	return check.n_missing > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
