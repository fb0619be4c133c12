#include "agent/program.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"

/* Where the environment has no PATH; containerd's default. */
#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The system's text for an errno, as Go writes it: in lower case. */
static int set_error(struct err *err, int code, const char *prefix)
{
	char text[64];
	snprintf(text, sizeof(text), "%s", strerror(-code));
	text[0] = (char)tolower((unsigned char)text[0]);
	return err_set(err, code, "%s: %s", prefix, text);
}

/* 0, or the -errno for which the file cannot be run. */
static int check_executable(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

/* Its index, or n. */
static size_t environment_find(char *const *env, size_t n, const char *key)
{
	size_t len = strlen(key);
	/* The last one counts, as for a shell that takes them one by one. */
	for (size_t i = n; i-- > 0;) {
		if (strncmp(env[i], key, len) == 0 && env[i][len] == '=')
			return i;
	}
	return n;
}

static int find_program(
	const char *name, const char *path, char ret_path[static PATH_MAX], struct err *err)
{
	char prefix[512];
	if (strchr(name, '/')) {
		int r = check_executable(name);
		if (r == -ENOENT || r == -ENOTDIR)
			snprintf(prefix, sizeof(prefix), "exec: \"%.200s\": stat %.200s", name,
				name);
		else
			snprintf(prefix, sizeof(prefix), "exec: \"%.200s\"", name);
		if (r < 0)
			return set_error(err, r, prefix);
		if (snprintf(ret_path, PATH_MAX, "%s", name) >= PATH_MAX)
			return set_error(err, -ENAMETOOLONG, prefix);
		return 0;
	}
	while (*name && *path) {
		size_t len = strcspn(path, ":");
		int n = len ? snprintf(ret_path, PATH_MAX, "%.*s/%s", (int)len, path, name)
			    : snprintf(ret_path, PATH_MAX, "./%s", name);
		if (n < PATH_MAX && check_executable(ret_path) == 0)
			return 0;
		path += len + (path[len] == ':');
	}
	return err_set(err, -ENOENT, "exec: \"%.200s\": executable file not found in $PATH", name);
}

/* A copy of n strings with a NULL at its end and room for one more; only the array is new. */
static char **string_array(char *const *strings, size_t n)
{
	char **array = calloc(n + 2, sizeof(*array));
	for (size_t i = 0; array && i < n; i++)
		array[i] = strings[i];
	return array;
}

int program_exec(const Bulkhead__Agent__Process *process, const char *home,
	const struct security_filter *filter, struct err *err)
{
	if (process->n_args == 0)
		return err_set(err, -EINVAL, "no command");
	_cleanup_free_ char *home_variable = str_printf("HOME=%s", home);
	_cleanup_free_ char **argv = string_array(process->args, process->n_args);
	_cleanup_free_ char **envp = string_array(process->env, process->n_env);
	if (!home_variable || !argv || !envp)
		return err_nomem(err);
	size_t at = environment_find(envp, process->n_env, "HOME");
	if (at == process->n_env || strcmp(envp[at], "HOME=") == 0)
		envp[at] = home_variable;
	at = environment_find(envp, process->n_env, "PATH");
	const char *search = at < process->n_env ? envp[at] + strlen("PATH=") : DEFAULT_PATH;
	char path[PATH_MAX];
	if (find_program(argv[0], search, path, err) < 0)
		return err->code;
	if (security_filter_load(filter, err) < 0)
		return err->code;
	execve(path, argv, envp);
	char prefix[512];
	int code = -errno;
	snprintf(prefix, sizeof(prefix), "exec %.200s", path);
	return set_error(err, code, prefix);
}
