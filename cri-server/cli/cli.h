/*
 * bulkheadctl: what its commands share. One struct cli, made in main, lives as long as the process;
 * one thread. A command is a row of the table in main.c and a file of its own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "cri-server/cli/document.h"
#include "cri-server/cli/options.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/rpc/client.h"

struct command;
struct option_sink;

struct cli {
	const char *socket; /* path, without "unix://" */
	bool socket_given;
	const char *tls_ca;         /* whom the streaming server is trusted by; NULL: link.h */
	uint64_t timeout_ms;        /* 0: each call's default */
	struct rpc_client *client;  /* connected by the first call */
	const struct command *self; /* the command that runs */
	/* Instead of running, the command only tells its options; see cli_describe(). */
	const struct option_sink *describe;
};

struct command {
	const char *name;
	const char *arguments; /* for the usage line */
	const char *summary;
	int (*run)(struct cli *cli, char **args); /* the exit code */
};

#define EXIT_USAGE 2

/* Who hears of a command's options. */
struct option_sink {
	void (*fn)(void *userdata, const struct option_row *rows, size_t n_rows);
	void *userdata;
};

/*
 * The one table of commands; the help, the completion and the test of the manual pages are made of
 * it. NULL at its end.
 */
const struct command *cli_command(size_t i);
/* NULL: there is none of the name. */
const struct command *cli_find_command(const char *name);
/* Calls the sink with the command's options, by running it up to cli_arguments(). */
void cli_describe(const struct command *command, const struct option_sink *sink);
/* The same for those before the command. */
void cli_describe_globals(const struct option_sink *sink);
/* A command's help, on stdout. */
void cli_help(const struct command *command);
/* All commands and the options before them, on stdout. */
void cli_overview(void);

int command_attach(struct cli *cli, char **args);
int command_check(struct cli *cli, char **args);
int command_completion(struct cli *cli, char **args);
int command_console(struct cli *cli, char **args);
int command_cp(struct cli *cli, char **args);
int command_events(struct cli *cli, char **args);
int command_exec(struct cli *cli, char **args);
int command_fsck(struct cli *cli, char **args);
int command_help(struct cli *cli, char **args);
int command_images(struct cli *cli, char **args);
int command_inspect(struct cli *cli, char **args);
int command_logs(struct cli *cli, char **args);
int command_port_forward(struct cli *cli, char **args);
int command_pods(struct cli *cli, char **args);
int command_ps(struct cli *cli, char **args);
int command_pull(struct cli *cli, char **args);
int command_rm(struct cli *cli, char **args);
int command_rmi(struct cli *cli, char **args);
int command_run(struct cli *cli, char **args);
int command_stats(struct cli *cli, char **args);

/*
 * Parses a command's options and checks the number of its arguments (max 0: none, SIZE_MAX: any).
 * True to go on, with *args at the first argument; else what there was to say has been said and
 * *ret_exit is the exit code. It is EXIT_SUCCESS when true.
 */
bool cli_arguments(struct cli *cli, const struct option_row *rows, size_t n_rows, char ***args,
	size_t min, size_t max, int *ret_exit);

/* "bulkheadctl: message" on stderr, escaped. Returns EXIT_FAILURE. */
int cli_fail(const struct err *err);
/* For want of memory. Returns EXIT_FAILURE. */
int cli_no_memory(void);
/* A remark on stderr, escaped. */
void cli_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define CLI_RUNTIME (&runtime__v1__runtime_service__descriptor)
#define CLI_IMAGES  (&runtime__v1__image_service__descriptor)

/* Time for calls that look or change a little, and for those that boot a VM or stop a container. */
#define CLI_SHORT_MS 30000
#define CLI_LONG_MS  300000

/* Connects if need be. */
int cli_connect(struct cli *cli, struct err *err);

/*
 * Calls a method, by default with default_ms as the deadline (0: none). The response is freed by
 * the caller or by _cleanup_message_.
 */
int cli_call(struct cli *cli, const ProtobufCServiceDescriptor *service, const char *method,
	const ProtobufCMessage *request, uint64_t default_ms, void *ret_response, struct err *err);

/* An answer as --output json or yaml says, on stdout. Returns the exit code. */
int cli_print_message(const ProtobufCMessage *message, enum document_format format);

/* The option --output of commands that list. */
#define OUTPUT_ROW(value)                                                                          \
	{                                                                                          \
		"output", 'o', OPTION_CHOICE, value, DOCUMENT_FORMATS,                             \
			"form of the answer (default table)"                                       \
	}

/* For variables of any pointer type to a message. */
void cli_message_freep(void *message);
#define _cleanup_message_ __attribute__((cleanup(cli_message_freep)))
