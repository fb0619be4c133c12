#include "tests/bench/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/log.h"
#include "common/loop.h"
#include "tests/bench/clock.h"
#include "tests/bench/process.h"

#define BOOT_MS       60000
#define ARGUMENTS_MAX 128
#define CONSOLE_MAX   4096
/* agent/init.c says it first of all. */
#define FIRST_LINE "bulkhead-agent: starting"

/* Options that are left out, with their value when it has the word; NULL: any. */
static const struct {
	const char *option;
	const char *word;
	bool has_value;
} left_out[] = {
	{"-S", NULL, false},
	{"-name", NULL, true},
	{"-uuid", NULL, true},
	{"-msg", NULL, true},
	{"-sandbox", NULL, true},
	{"-chardev", NULL, true},
	{"-mon", NULL, true},
	{"-netdev", NULL, true},
	{"-device", "netdev", true},
	{"-device", "vsock", true},
	{"-device", "vhost-user", true},
	{"-object", "\"secret\"", true},
};

/* How many arguments from this one on are to be left out. */
static size_t skip(const char *option, const char *value)
{
	for (size_t i = 0; i < ARRAY_SIZE(left_out); i++)
		if (strcmp(option, left_out[i].option) == 0 &&
			(!left_out[i].word || (value && strstr(value, left_out[i].word))))
			return left_out[i].has_value && value ? 2 : 1;
	return 0;
}

/* A disk of our own, as large as the pod's, which is its QEMU's alone. */
static int make_disk(const char *original, const char *path, struct err *err)
{
	struct stat st;
	if (stat(original, &st) < 0)
		return err_errno(err, "look at %s", original);
	_cleanup_close_ int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, "create %s", path);
	return ftruncate(fd, st.st_size) < 0 ? err_errno(err, "size %s", path) : 0;
}

/* The argument itself, or, for the file behind the pod's disk, the same with our file. */
static int translate(
	const char *argument, const char *id, const char *dir, json_t **ret, struct err *err)
{
	json_auto_t *object = argument[0] == '{' ? json_loads(argument, 0, NULL) : NULL;
	const char *original = json_string_value(json_object_get(object, "filename"));
	if (!original || !strstr(original, id)) {
		*ret = json_string(argument);
		return *ret ? 0 : err_nomem(err);
	}
	_cleanup_free_ char *path = str_printf("%s/raw-disk", dir);
	if (!path)
		return err_nomem(err);
	int r = make_disk(original, path, err);
	if (r < 0)
		return r;
	json_object_set_new(object, "filename", json_string(path));
	_cleanup_free_ char *text = json_dumps(object, JSON_COMPACT);
	*ret = text ? json_string(text) : NULL;
	return *ret ? 0 : err_nomem(err);
}

static int append(json_t *arguments, const char *argument, struct err *err)
{
	return json_array_append_new(arguments, json_string(argument)) < 0 ? err_nomem(err) : 0;
}

static int learn(json_t *arguments, const char *const *words, size_t n, const char *id,
	const char *dir, struct err *err)
{
	for (size_t i = 0; i < n;) {
		size_t skipped = skip(words[i], i + 1 < n ? words[i + 1] : NULL);
		json_t *argument;
		i += skipped;
		if (skipped)
			continue;
		int r = translate(words[i++], id, dir, &argument, err);
		if (r < 0)
			return r;
		if (json_array_append_new(arguments, argument) < 0)
			return err_nomem(err);
	}
	/* The serial port's device, which stays, knows it by this name. */
	int r = append(arguments, "-chardev", err);
	return r < 0 ? r : append(arguments, "stdio,id=charserial0,signal=off", err);
}

int raw_machine_learn(
	pid_t qemu, const char *id, const char *dir, struct raw_machine *ret, struct err *err)
{
	const char *words[ARGUMENTS_MAX];
	_cleanup_free_ char *line = NULL;
	size_t len, n = 0;
	int r = process_command_line(qemu, &line, &len, err);
	if (r < 0)
		return r;
	for (const char *p = line; p < line + len; p += strlen(p) + 1) {
		if (n == ARGUMENTS_MAX)
			return err_set(
				err, -E2BIG, "QEMU has more than %d arguments", ARGUMENTS_MAX);
		words[n++] = p;
	}
	json_auto_t *arguments = json_array();
	if (!arguments)
		return err_nomem(err);
	r = learn(arguments, words, n, id, dir, err);
	if (r == 0)
		ret->arguments = TAKE_PTR(arguments);
	return r;
}

void raw_machine_done(struct raw_machine *machine)
{
	json_decref(machine->arguments);
	machine->arguments = NULL;
}

static void __attribute__((noreturn)) run_qemu(char *const *argv, int console)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argv[0] && dup2(null, 0) >= 0 && dup2(console, 1) >= 0)
		execv(argv[0], argv);
	_exit(127);
}

static int fail(const char *seen, int code, const char *what, struct err *err)
{
	char quoted[512];
	log_escape(quoted, sizeof(quoted), seen);
	return err_set(err, code, "boot the raw machine: %s; its console says: %s", what, quoted);
}

static int wait_first_line(int console, struct err *err)
{
	char seen[CONSOLE_MAX + 1] = "";
	uint64_t deadline = ev_now_ms() + BOOT_MS;
	size_t n = 0;
	while (n < CONSOLE_MAX) {
		struct pollfd pollfd = {.fd = console, .events = POLLIN};
		uint64_t now = ev_now_ms();
		if (now >= deadline || poll(&pollfd, 1, (int)(deadline - now)) <= 0)
			return fail(seen, -ETIMEDOUT, "no word of the agent", err);
		ssize_t got = read(console, seen + n, CONSOLE_MAX - n);
		if (got <= 0)
			return fail(seen, -EIO, "QEMU ended", err);
		/* What a kernel may put before the line is text. */
		for (ssize_t i = 0; i < got; i++)
			if (seen[n + (size_t)i] == '\0')
				seen[n + (size_t)i] = '.';
		n += (size_t)got;
		seen[n] = '\0';
		if (strstr(seen, FIRST_LINE))
			return 0;
	}
	return fail(seen, -ENODATA, "no word of the agent among much else", err);
}

int raw_boot(
	const struct raw_machine *machine, struct raw_boot *boot, uint64_t *ret_ns, struct err *err)
{
	char *argv[ARGUMENTS_MAX + 3] = {NULL};
	int pair[2];
	size_t n = json_array_size(machine->arguments);
	for (size_t i = 0; i < n; i++)
		argv[i] = (char *)json_string_value(json_array_get(machine->arguments, i));
	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_errno(err, "make a pipe");
	_cleanup_close_ int write_end = pair[1];
	boot->console = pair[0];
	uint64_t begin = clock_ns();
	boot->pid = fork();
	if (boot->pid < 0)
		return err_errno(err, "fork");
	if (boot->pid == 0)
		run_qemu(argv, write_end);
	write_end = fd_close(write_end);
	int r = wait_first_line(boot->console, err);
	*ret_ns = clock_ns() - begin;
	return r;
}

void raw_end(struct raw_boot *boot)
{
	if (boot->pid > 0) {
		kill(boot->pid, SIGKILL);
		waitpid(boot->pid, NULL, 0);
	}
	boot->pid = 0;
	boot->console = fd_close(boot->console);
}
