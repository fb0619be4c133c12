/* What the table of commands says for itself: help, and completion for shells. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"

static void print_options(void *userdata, const struct option_row *rows, size_t n_rows)
{
	options_help(userdata, rows, n_rows);
}

void cli_help(const struct command *command)
{
	const struct option_sink sink = {.fn = print_options, .userdata = stdout};
	printf("%s.\n\nUsage: bulkheadctl %s %s\n\nOptions:\n", command->summary, command->name,
		command->arguments);
	cli_describe(command, &sink);
}

void cli_overview(void)
{
	const struct option_sink sink = {.fn = print_options, .userdata = stdout};
	const struct command *command;
	printf("bulkheadctl: pods that are virtual machines, from the command line.\n\n"
	       "Usage: bulkheadctl [options] COMMAND …\n\nCommands:\n");
	for (size_t i = 0; (command = cli_command(i)); i++)
		printf("  %-12s %s\n", command->name, command->summary);
	printf("\nOptions:\n");
	cli_describe_globals(&sink);
	printf("\n`bulkheadctl help COMMAND` shows a command's own options.\n");
}

int command_help(struct cli *cli, char **args)
{
	int exit_code;
	if (!cli_arguments(cli, NULL, 0, &args, 0, 1, &exit_code))
		return exit_code;
	const struct command *command = args[0] ? cli_find_command(args[0]) : NULL;
	if (args[0] && !command) {
		cli_note("bulkheadctl: no command '%s'; `bulkheadctl help` lists them", args[0]);
		return EXIT_USAGE;
	}
	if (command)
		cli_help(command);
	else
		cli_overview();
	return EXIT_SUCCESS;
}

/* ---- completion ---- */

static void print_names(void *userdata, const struct option_row *rows, size_t n_rows)
{
	(void)userdata;
	for (size_t i = 0; i < n_rows; i++)
		printf(" --%s", rows[i].name);
}

static void print_pattern(const char *command, const struct option_row *row)
{
	printf("\t%s:--%s", command, row->name);
	if (row->letter)
		printf(" | %s:-%c", command, row->letter);
	printf(") words=");
}

/* Behind an option that takes a value come its words or, where there are none, files. */
static void print_values(void *userdata, const struct option_row *rows, size_t n_rows)
{
	const char *command = userdata;
	for (size_t i = 0; i < n_rows; i++) {
		if (rows[i].kind == OPTION_FLAG)
			continue;
		print_pattern(command, &rows[i]);
		putchar('"');
		for (const char *c = rows[i].argument; *c && rows[i].kind == OPTION_CHOICE; c++)
			putchar(*c == '|' ? ' ' : *c);
		puts("\" ;;");
	}
}

static void print_skips(void *userdata, const struct option_row *rows, size_t n_rows)
{
	const char *between = "";
	(void)userdata;
	for (size_t i = 0; i < n_rows; i++) {
		if (rows[i].kind == OPTION_FLAG)
			continue;
		printf("%s--%s", between, rows[i].name);
		between = " | ";
		if (rows[i].letter)
			printf(" | -%c", rows[i].letter);
	}
}

static void print_commands(void)
{
	const struct command *command;
	for (size_t i = 0; (command = cli_command(i)); i++)
		printf(" %s", command->name);
}

static void print_words(void)
{
	const struct option_sink names = {.fn = print_names};
	const struct command *command;
	printf("\tcase $command in\n\t\"\") words=\"--help");
	cli_describe_globals(&names);
	print_commands();
	printf("\" ;;\n");
	for (size_t i = 0; (command = cli_command(i)); i++) {
		printf("\t%s) words=\"--help", command->name);
		cli_describe(command, &names);
		if (command->run == command_help)
			print_commands();
		else if (command->run == command_completion)
			printf(" %s", command->arguments);
		printf("\" ;;\n");
	}
	printf("\tesac\n");
}

/*
 * Only words of the table are in it: names of containers are others' choice, and compgen would
 * expand them.
 */
static void print_bash(void)
{
	const struct option_sink skips = {.fn = print_skips};
	const struct command *command;
	printf("# bash completion for bulkheadctl, made by `bulkheadctl completion bash`\n"
	       "_bulkheadctl() {\n"
	       "\tlocal i command= words= current=${COMP_WORDS[COMP_CWORD]}\n"
	       "\tlocal before=${COMP_WORDS[COMP_CWORD - 1]}\n"
	       "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	       "\t\tcase ${COMP_WORDS[i]} in\n\t\t");
	cli_describe_globals(&skips);
	printf(") ((i++)) ;;\n"
	       "\t\t-*) ;;\n"
	       "\t\t*)\n\t\t\tcommand=${COMP_WORDS[i]}\n\t\t\tbreak\n\t\t\t;;\n"
	       "\t\tesac\n"
	       "\tdone\n");
	print_words();
	printf("\tcase $command:$before in\n");
	struct option_sink values = {.fn = print_values, .userdata = (void *)""};
	cli_describe_globals(&values);
	for (size_t i = 0; (command = cli_command(i)); i++) {
		values.userdata = (void *)command->name;
		cli_describe(command, &values);
	}
	printf("\tesac\n"
	       "\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
	       "}\n"
	       "complete -o default -F _bulkheadctl bulkheadctl\n");
}

int command_completion(struct cli *cli, char **args)
{
	int exit_code;
	if (!cli_arguments(cli, NULL, 0, &args, 1, 1, &exit_code))
		return exit_code;
	if (strcmp(args[0], "bash") != 0) {
		cli_note("bulkheadctl completion: only bash is known, not '%s'", args[0]);
		return EXIT_USAGE;
	}
	print_bash();
	return EXIT_SUCCESS;
}
