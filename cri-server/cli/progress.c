#include "cri-server/cli/progress.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <jansson.h>

#include "common/fd.h"
#include "cri-server/cli/output.h"

#define TERMINAL_MS 250
#define LINES_MS    3000
#define STATUS_MS   2000

struct progress {
	char *socket, *image;
	int stop_fd;
	bool terminal;
	size_t width; /* of the line that stands on the terminal */
	pthread_t thread;
};

static double number(const json_t *pull, const char *key)
{
	return json_number_value(json_object_get(pull, key));
}

static char *line_for(const json_t *pull)
{
	if (!json_is_object(pull))
		return NULL;
	double total = number(pull, "bytesTotal"), mib = 1 << 20;
	if (total <= 0)
		return strdup("asking the registry");
	return str_printf("%.1f of %.1f MiB, %.1f MiB/s; layers: %.0f of %.0f downloaded, %.0f "
			  "converted",
		number(pull, "bytesDone") / mib, total / mib, number(pull, "bytesPerSecond") / mib,
		number(pull, "layersDownloaded"), number(pull, "layersTotal"),
		number(pull, "layersConverted"));
}

static char *line_of(const char *pulls, const char *image)
{
	json_t *list = json_loads(pulls, 0, NULL);
	char *line = NULL;
	size_t i;
	json_t *pull;
	json_array_foreach(list, i, pull) {
		const char *reference = json_string_value(json_object_get(pull, "reference"));
		if (!line && reference && strcmp(reference, image) == 0)
			line = line_for(pull);
	}
	json_decref(list);
	return line;
}

static char *ask(struct rpc_client *client, const char *image)
{
	Runtime__V1__StatusRequest request = RUNTIME__V1__STATUS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__StatusResponse *response = NULL;
	request.verbose = true;
	if (rpc_client_call(client, CLI_RUNTIME, "Status", &request.base, STATUS_MS,
		    (ProtobufCMessage **)&response, NULL) < 0)
		return NULL;
	for (size_t i = 0; i < response->n_info; i++)
		if (strcmp(response->info[i]->key, "pulls") == 0)
			return line_of(response->info[i]->value, image);
	return NULL;
}

static void show(struct progress *p, const char *line)
{
	if (!p->terminal) {
		fprintf(stderr, "%s\n", line);
		return;
	}
	size_t width = strlen(line);
	int erase = width < p->width ? (int)(p->width - width) : 0;
	fprintf(stderr, "\r%s%*s", line, erase, "");
	p->width = width;
}

static void *follow(void *userdata)
{
	struct progress *p = userdata;
	struct rpc_client *client = NULL;
	struct pollfd stop = {.fd = p->stop_fd, .events = POLLIN};
	if (rpc_client_new(p->socket, &client, NULL) < 0)
		return NULL;
	while (poll(&stop, 1, p->terminal ? TERMINAL_MS : LINES_MS) == 0) {
		_cleanup_free_ char *line = ask(client, p->image);
		if (line)
			show(p, line);
	}
	if (p->width)
		fputc('\n', stderr);
	rpc_client_free(client);
	return NULL;
}

static void progress_free(struct progress *p)
{
	fd_close(p->stop_fd);
	free(p->socket);
	free(p->image);
	free(p);
}

struct progress *progress_start(const struct cli *cli, const char *image)
{
	static const char docker[] = "docker://";
	struct progress *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	bool scheme = strncmp(image, docker, strlen(docker)) == 0;
	p->socket = strdup(cli->socket);
	p->image = strdup(scheme ? image + strlen(docker) : image);
	p->stop_fd = eventfd(0, EFD_CLOEXEC);
	p->terminal = isatty(STDERR_FILENO);
	if (p->socket && p->image && p->stop_fd >= 0 &&
		pthread_create(&p->thread, NULL, follow, p) == 0)
		return p;
	progress_free(p);
	return NULL;
}

void progress_stop(struct progress *p)
{
	if (!p)
		return;
	eventfd_write(p->stop_fd, 1);
	pthread_join(p->thread, NULL);
	progress_free(p);
}
