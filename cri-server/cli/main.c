/* bulkheadctl: the table of commands, the global options, and what cli.h promises. */
#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/message_json.h"
#include "cri-server/cli/output.h"
#include "cri-server/cli/terminal.h"
#include "cri-server/config.h"
#include "cri-server/version.h"

#define DEFAULT_SOCKET "unix:///run/bulkhead/bulkhead.sock"

static const struct command commands[] = {
	{"check", "[options]", "What this host offers and lacks, with the remedy", command_check},
	{"fsck", "[options]", "Whether records and host agree; 1 where they do not", command_fsck},
	{"run", "[options] IMAGE [COMMAND…]",
		"Run a command in a pod of its own, print its output, remove all", command_run},
	{"pods", "", "List pods", command_pods},
	{"ps", "[options]", "List containers", command_ps},
	{"images", "", "List images", command_images},
	{"inspect", "[options] CONTAINER|POD|IMAGE…", "Tell all about containers, pods and images",
		command_inspect},
	{"stats", "[options] [POD…]", "Show what pods use, and what they cost the host",
		command_stats},
	{"events", "[options]", "Print what happens to containers, as it happens", command_events},
	{"logs", "[options] CONTAINER", "Print a container's output", command_logs},
	{"exec", "[options] CONTAINER COMMAND…", "Run a command in a container", command_exec},
	{"attach", "[options] CONTAINER", "Connect to a container's own streams", command_attach},
	{"cp", "[options] CONTAINER:PATH PATH | PATH CONTAINER:PATH",
		"Copy files and trees between this host and a container", command_cp},
	{"port-forward", "[options] POD [LOCAL:]REMOTE…", "Let local ports lead to ports in a pod",
		command_port_forward},
	{"rm", "[options] POD|CONTAINER…", "Remove pods and containers", command_rm},
	{"pull", "IMAGE", "Pull an image", command_pull},
	{"rmi", "IMAGE…", "Remove images", command_rmi},
	{"console", "[options] POD [COMMAND…]",
		"Print what the kernel of a pod's machine wrote, or run a shell there",
		command_console},
	{"completion", "bash", "Print what makes a shell complete these commands",
		command_completion},
	{"help", "[COMMAND]", "Tell how a command is used", command_help},
};

int cli_fail(const struct err *err)
{
	cli_note("bulkheadctl: %s", err->msg);
	return EXIT_FAILURE;
}

int cli_no_memory(void)
{
	struct err err = ERR_INIT;
	err_nomem(&err);
	return cli_fail(&err);
}

void cli_note(const char *fmt, ...)
{
	char text[2048];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	_cleanup_free_ char *escaped = output_escape(text);
	fprintf(stderr, "%s\n", escaped ? escaped : "out of memory");
}

bool cli_arguments(struct cli *cli, const struct option_row *rows, size_t n_rows, char ***args,
	size_t min, size_t max, int *ret_exit)
{
	if (cli->describe) {
		cli->describe->fn(cli->describe->userdata, rows, n_rows);
		*ret_exit = EXIT_SUCCESS;
		return false;
	}
	struct err err = ERR_INIT;
	int r = options_parse(rows, n_rows, *args, args, &err);
	if (r > 0) {
		cli_help(cli->self);
		*ret_exit = EXIT_SUCCESS;
		return false;
	}
	size_t n = 0;
	while (r == 0 && (*args)[n])
		n++;
	if (r == 0 && n < min)
		r = err_set(&err, -EINVAL, "too few arguments");
	else if (r == 0 && n > max)
		r = err_set(&err, -EINVAL, "too many arguments");
	*ret_exit = EXIT_SUCCESS;
	if (r == 0)
		return true;
	cli_note("bulkheadctl %s: %s. Usage: bulkheadctl %s %s", cli->self->name, err.msg,
		cli->self->name, cli->self->arguments);
	*ret_exit = EXIT_USAGE;
	return false;
}

const struct command *cli_command(size_t i)
{
	return i < ARRAY_SIZE(commands) ? &commands[i] : NULL;
}

const struct command *cli_find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

void cli_describe(const struct command *command, const struct option_sink *sink)
{
	char *none[] = {NULL};
	struct cli describing = {.self = command, .describe = sink};
	command->run(&describing, none);
}

int cli_connect(struct cli *cli, struct err *err)
{
	if (cli->client)
		return 0;
	int r = rpc_client_new(cli->socket, &cli->client, err);
	if (r == -EACCES || r == -EPERM)
		return err_set(err, r, "%s may be used by root only: use sudo", cli->socket);
	if (r == -ENOENT || r == -ECONNREFUSED)
		return err_set(err, r,
			"bulkheadd does not answer on %s: %s. Is it running? (systemctl status "
			"bulkheadd)%s",
			cli->socket, strerror(-r),
			cli->socket_given ? "" : " Another socket: --socket PATH");
	return r;
}

int cli_call(struct cli *cli, const ProtobufCServiceDescriptor *service, const char *method,
	const ProtobufCMessage *request, uint64_t default_ms, void *ret_response, struct err *err)
{
	int r = cli_connect(cli, err);
	if (r < 0)
		return r;
	return rpc_client_call(cli->client, service, method, request,
		cli->timeout_ms ? cli->timeout_ms : default_ms, ret_response, err);
}

int cli_print_message(const ProtobufCMessage *message, enum document_format format)
{
	json_t *json = message_json(message);
	int r = json ? document_print(stdout, json, format) : -ENOMEM;
	json_decref(json);
	return r < 0 ? cli_no_memory() : EXIT_SUCCESS;
}

void cli_message_freep(void *message)
{
	ProtobufCMessage *m = *(ProtobufCMessage **)message;
	if (m)
		protobuf_c_message_free_unpacked(m, NULL);
}

static const char *socket_path(const char *endpoint)
{
	return strncmp(endpoint, "unix://", 7) == 0 ? endpoint + 7 : endpoint;
}

static int run_command(struct cli *cli, char **args)
{
	cli->self = cli_find_command(args[0]);
	if (!cli->self) {
		cli_note("bulkheadctl: no command '%s'; `bulkheadctl --help` lists them", args[0]);
		return EXIT_USAGE;
	}
	int exit_code = cli->self->run(cli, args + 1);
	rpc_client_free(cli->client);
	return exit_code;
}

/* What stands before the command. */
struct globals {
	const char *endpoint, *tls_ca;
	uint64_t timeout_s;
	bool version;
	struct option_row rows[4];
};

static void globals_init(struct globals *g)
{
	*g = (struct globals){
		.rows = {
			{"socket", 's', OPTION_STRING, &g->endpoint, "PATH",
				"the runtime's socket (default " DEFAULT_SOCKET ")"},
			{"tls-ca", 0, OPTION_STRING, &g->tls_ca, "FILE",
				"whom to trust where streams go through TLS (default: the "
				"certificate in bulkheadd's configuration, else the system's)"},
			{"timeout", 't', OPTION_NUMBER, &g->timeout_s, "SECONDS",
				"longest time for each call"},
			{"version", 0, OPTION_FLAG, &g->version, NULL, "show the version"},
		}};
}

void cli_describe_globals(const struct option_sink *sink)
{
	struct globals g;
	globals_init(&g);
	sink->fn(sink->userdata, g.rows, ARRAY_SIZE(g.rows));
}

/* The certificate that the configuration of this host's bulkheadd names, or NULL. */
static char *configured_certificate(void)
{
	struct config *config = NULL;
	if (config_load(NULL, &config, NULL) < 0)
		return NULL;
	char *path = TAKE_PTR(config->streaming.tls_certificate);
	config_free(config);
	return path;
}

int main(int argc, char **argv)
{
	struct cli cli = {.client = NULL};
	struct globals g;
	struct err err = ERR_INIT;
	char **args = argv;

	setlocale(LC_CTYPE, "");
	terminal_block_resizes();
	globals_init(&g);
	int r = options_parse(g.rows, ARRAY_SIZE(g.rows), argv + (argc > 0), &args, &err);
	if (r == 0 && g.timeout_s > 86400)
		r = err_set(&err, -EINVAL, "--timeout: at most a day");
	if (r < 0) {
		cli_fail(&err);
		return EXIT_USAGE;
	}
	if (g.version) {
		printf("bulkheadctl %s\n", BULKHEAD_VERSION);
		return EXIT_SUCCESS;
	}
	if (r > 0 || !*args) {
		cli_overview();
		return r > 0 ? EXIT_SUCCESS : EXIT_USAGE;
	}
	cli.socket = socket_path(g.endpoint ? g.endpoint : DEFAULT_SOCKET);
	cli.socket_given = g.endpoint != NULL;
	_cleanup_free_ char *configured = g.tls_ca ? NULL : configured_certificate();
	cli.tls_ca = configured ? configured : g.tls_ca;
	cli.timeout_ms = g.timeout_s * 1000;
	return run_command(&cli, args);
}
