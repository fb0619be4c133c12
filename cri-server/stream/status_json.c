#include "cri-server/stream/status_json.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"

#define FAILED "command terminated with non-zero exit code: exit status %d"

char *status_text(const char *message, int exit_code)
{
	if (message)
		return str_printf("error executing command in container: %s", message);
	return exit_code ? str_printf(FAILED, exit_code) : strdup("");
}

char *status_json(const char *message, int exit_code)
{
	char code[16];
	snprintf(code, sizeof(code), "%d", exit_code);
	_cleanup_free_ char *text = status_text(message, exit_code);
	if (!text)
		return NULL;
	json_t *status;
	if (message)
		status = json_pack("{s{} ss s{s[{ss}]} si ss ss+}", "metadata", "status", "Failure",
			"details", "causes", "message", text, "code", 500, "reason",
			"InternalError", "message", "Internal error occurred: ", text);
	else if (exit_code)
		status = json_pack("{s{} ss ss ss s{s[{ssss}]}}", "metadata", "status", "Failure",
			"message", text, "reason", "NonZeroExitCode", "details", "causes", "reason",
			"ExitCode", "message", code);
	else
		status = json_pack("{s{} ss}", "metadata", "status", "Success");
	char *json = status ? json_dumps(status, JSON_COMPACT) : NULL;
	json_decref(status);
	return json;
}
