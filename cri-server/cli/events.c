/* events: what happens to containers, from the runtime's stream, until it is interrupted. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/cli.h"
#include "cri-server/cli/message_json.h"
#include "cri-server/cli/output.h"

static const char *event_name(Runtime__V1__ContainerEventType type)
{
	switch (type) {
	case RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_CREATED_EVENT:
		return "created";
	case RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STARTED_EVENT:
		return "started";
	case RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT:
		return "stopped";
	case RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_DELETED_EVENT:
		return "deleted";
	default:
		return "unknown";
	}
}

static void print_escaped(const char *before, const char *text)
{
	_cleanup_free_ char *escaped = output_escape(text);
	printf("%s%s", before, escaped ? escaped : "");
}

/* TIME EVENT container ID NAME exit=CODE pod ID NAME; a pod's own events have its id as both. */
static void print_line(const Runtime__V1__ContainerEventResponse *event)
{
	char time[OUTPUT_TIME_SIZE];
	const Runtime__V1__PodSandboxStatus *pod = event->pod_sandbox_status;
	bool is_pod = pod && strcmp(pod->id, event->container_id) == 0;
	output_time(time, event->created_at);
	printf("%s %s", time, event_name(event->container_event_type));
	if (!is_pod)
		print_escaped(" container ", event->container_id);
	for (size_t i = 0; i < event->n_containers_statuses && !is_pod; i++) {
		const Runtime__V1__ContainerStatus *c = event->containers_statuses[i];
		if (strcmp(c->id, event->container_id) != 0)
			continue;
		if (c->metadata)
			print_escaped(" ", c->metadata->name);
		if (event->container_event_type ==
			RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT)
			printf(" exit=%d", c->exit_code);
	}
	if (pod)
		print_escaped(" pod ", pod->id);
	if (pod && pod->metadata)
		print_escaped(" ", pod->metadata->name);
	printf("\n");
}

static int on_event(void *userdata, const ProtobufCMessage *message)
{
	const enum document_format *format = userdata;
	if (*format == DOCUMENT_TABLE) {
		print_line((const Runtime__V1__ContainerEventResponse *)message);
	} else {
		json_t *json = message_json(message);
		if (json)
			document_print_next(stdout, json, *format);
		json_decref(json);
	}
	/* Nobody reads any longer. */
	return fflush(stdout) != 0;
}

int command_events(struct cli *cli, char **args)
{
	const char *output = NULL;
	const struct option_row rows[] = {
		OUTPUT_ROW(&output),
	};
	int exit_code;
	if (!cli_arguments(cli, rows, ARRAY_SIZE(rows), &args, 0, 0, &exit_code))
		return exit_code;
	enum document_format format = document_format(output);
	const struct rpc_client_sink sink = {.on_message = on_event, .userdata = &format};
	Runtime__V1__GetEventsRequest request = RUNTIME__V1__GET_EVENTS_REQUEST__INIT;
	struct err err = ERR_INIT;
	int r = cli_connect(cli, &err);
	if (r == 0)
		r = rpc_client_stream(cli->client, CLI_RUNTIME, "GetContainerEvents", &request.base,
			cli->timeout_ms, &sink, &err);
	return r < 0 ? cli_fail(&err) : EXIT_SUCCESS;
}
