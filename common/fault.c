#include "common/fault.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"

#define FILE_MAX 4096

/* Made by the linker where there is such a section. */
extern const struct fault_point *const __start_fault_points[] __attribute__((weak));
extern const struct fault_point *const __stop_fault_points[] __attribute__((weak));

static bool asked_for(const char *what, const char *method, const char *point, const char *suffix)
{
	const char *path = getenv(FAULT_ENVIRONMENT);
	if (!path)
		return false;
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ char *wanted = str_printf("%s %s/%s%s", what, method, point, suffix);
	if (!wanted || fd_read_file(path, FILE_MAX, &text, NULL, NULL) < 0)
		return false;
	char *rest = text;
	for (char *line; (line = strsep(&rest, "\n"));)
		if (strcmp(line, wanted) == 0)
			return true;
	return false;
}

void fault_kill(const char *method, const char *point, const char *suffix)
{
	if (asked_for("kill", method, point, suffix))
		kill(getpid(), SIGKILL);
}

bool fault_fails(const char *method, const char *point)
{
	return asked_for("fail", method, point, "");
}

void fault_print(FILE *out)
{
	for (const struct fault_point *const *p = __start_fault_points; p != __stop_fault_points;
		p++)
		fprintf(out, "%s/%s\n", (*p)->method, (*p)->point);
}
