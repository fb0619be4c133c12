/*
 * exec_load SOCKET CONTAINER N M: N sessions of `cat` that run at the same time, each over a
 * WebSocket; when all of them have echoed a line, all end. Then M ExecSyncs at the same time. What
 * is wrong is said on stderr, and the exit code is then 1.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/fd.h"
#include "cri-server/cli/session.h"
#include "cri-server/cli/upgrade.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/rpc/client.h"

#define N_MAX       2000
#define STACK_BYTES (256u << 10)
#define MESSAGE_MAX 4096
#define CALL_MS     300000

enum { IN, OUT, ERR, STATUS };

struct load {
	const char *socket, *container;
	unsigned n;
	pthread_mutex_t lock; /* protects what follows */
	pthread_cond_t met;
	unsigned arrived; /* run, or will never */
	unsigned failed;
};

struct connection {
	struct link *link;
	struct buf rest; /* read behind the handshake's answer */
};

struct worker {
	struct load *load;
	unsigned number;
	char *url;
	pthread_t thread;
};

static void complain(struct worker *worker, const char *what, const char *why)
{
	pthread_mutex_lock(&worker->load->lock);
	if (worker->load->failed++ < 10)
		fprintf(stderr, "%s %u: %s\n", what, worker->number, why);
	pthread_mutex_unlock(&worker->load->lock);
}

static void meet(struct load *load)
{
	pthread_mutex_lock(&load->lock);
	load->arrived++;
	pthread_cond_broadcast(&load->met);
	while (load->arrived < load->n)
		pthread_cond_wait(&load->met, &load->lock);
	pthread_mutex_unlock(&load->lock);
}

/* At most 125 bytes, masked by zeros. */
static int send_message(const struct connection *c, const void *data, size_t len, struct err *err)
{
	unsigned char frame[6 + 125] = {0x82, 0x80 | (unsigned char)len};
	memcpy(frame + 6, data, len);
	return link_send_all(c->link, frame, 6 + len, err);
}

static int read_exact(struct connection *c, void *data, size_t len, struct err *err)
{
	size_t n = len < c->rest.len ? len : c->rest.len;
	if (n)
		memcpy(data, c->rest.data, n);
	buf_consume(&c->rest, n);
	while (n < len) {
		ssize_t got = link_recv_wait(c->link, (char *)data + n, len - n);
		if (got <= 0)
			return err_set(err, -EPIPE, "the streaming server has closed");
		n += (size_t)got;
	}
	return 0;
}

/* A frame's payload, with a NUL behind; *ret_len 0 at the close frame. */
static int read_frame(
	struct connection *c, unsigned char *payload, size_t *ret_len, struct err *err)
{
	unsigned char head[2], more[2];
	int r = read_exact(c, head, sizeof(head), err);
	size_t len = head[1];
	if (r == 0 && len == 126) {
		r = read_exact(c, more, sizeof(more), err);
		len = (size_t)more[0] << 8 | more[1];
	}
	if (r == 0 && len >= MESSAGE_MAX)
		r = err_set(err, -EMSGSIZE, "a frame of that size was not asked for");
	if (r == 0)
		r = read_exact(c, payload, len, err);
	if (r < 0)
		return r;
	payload[len] = '\0';
	*ret_len = head[0] == 0x88 ? 0 : len;
	return 0;
}

/* All of a channel, until it is as long as wanted, or to the end. */
static int read_channel(
	struct connection *c, int channel, size_t wanted, char *text, size_t size, struct err *err)
{
	unsigned char payload[MESSAGE_MAX];
	size_t got = 0, len = 1;
	while (got < wanted && len) {
		int r = read_frame(c, payload, &len, err);
		if (r < 0)
			return r;
		if (len > 1 && payload[0] == STATUS && channel != STATUS)
			return err_set(err, -EIO, "it ended: %s", payload + 1);
		if (len < 2 || payload[0] != channel)
			continue;
		if (got + len > size)
			return err_set(err, -EMSGSIZE, "more came back than was sent");
		memcpy(text + got, payload + 1, len - 1);
		got += len - 1;
	}
	text[got] = '\0';
	return 0;
}

static int begin(struct worker *worker, struct connection *c, struct err *err)
{
	const struct upgrade open = {.url = worker->url,
		.method = "GET",
		.headers = "Upgrade: websocket\r\n"
			   "Sec-WebSocket-Version: 13\r\n"
			   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
			   "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"};
	char text[64], echo[64];
	int len = snprintf(text, sizeof(text), "%csession %u\n", IN, worker->number);
	int r = upgrade(&open, &c->link, &c->rest, err);
	if (r == 0)
		r = send_message(c, text, (size_t)len, err);
	if (r == 0)
		r = read_channel(c, OUT, (size_t)len - 1, echo, sizeof(echo), err);
	if (r == 0 && strcmp(echo, text + 1) != 0)
		r = err_set(err, -EBADMSG, "'%s' came back", echo);
	return r;
}

static void *session_main(void *arg)
{
	struct worker *worker = arg;
	struct err err = ERR_INIT;
	struct connection c = {.rest = buf_init(MESSAGE_MAX)};
	char status[1024];
	int code = -1;
	int r = begin(worker, &c, &err);
	meet(worker->load);
	if (r == 0)
		r = send_message(&c, "\xff\0", 2, &err);
	if (r == 0)
		r = read_channel(&c, STATUS, sizeof(status), status, sizeof(status), &err);
	if (r == 0)
		r = session_status(status, strlen(status), &code, &err);
	if (r == 0 && code != 0)
		r = err_set(&err, -EIO, "exit code %d", code);
	if (r < 0)
		complain(worker, "session", err.msg);
	link_free(c.link);
	buf_done(&c.rest);
	return NULL;
}

static int call(struct rpc_client *client, const char *method, const ProtobufCMessage *request,
	void *ret_response, struct err *err)
{
	return rpc_client_call(client, &runtime__v1__runtime_service__descriptor, method, request,
		CALL_MS, ret_response, err);
}

static void *sync_main(void *arg)
{
	struct worker *worker = arg;
	struct err err = ERR_INIT;
	struct rpc_client *client = NULL;
	Runtime__V1__ExecSyncResponse *response = NULL;
	char number[16];
	char *cmd[] = {(char *)"echo", (char *)"-n", number};
	snprintf(number, sizeof(number), "%u", worker->number);
	Runtime__V1__ExecSyncRequest request = RUNTIME__V1__EXEC_SYNC_REQUEST__INIT;
	request.container_id = (char *)worker->load->container;
	request.n_cmd = ARRAY_SIZE(cmd);
	request.cmd = cmd;
	int r = rpc_client_new(worker->load->socket, &client, &err);
	if (r == 0)
		r = call(client, "ExecSync", &request.base, &response, &err);
	if (r == 0 && (response->exit_code != 0 || response->stdout.len != strlen(number) ||
			      memcmp(response->stdout.data, number, strlen(number)) != 0))
		r = err_set(&err, -EBADMSG, "exit code %d, %zu bytes", response->exit_code,
			response->stdout.len);
	if (r < 0)
		complain(worker, "ExecSync", err.msg);
	if (response)
		protobuf_c_message_free_unpacked(&response->base, NULL);
	rpc_client_free(client);
	return NULL;
}

static int get_urls(struct load *load, struct worker *workers, struct err *err)
{
	struct rpc_client *client = NULL;
	char *cmd[] = {(char *)"cat"};
	Runtime__V1__ExecRequest request = RUNTIME__V1__EXEC_REQUEST__INIT;
	request.container_id = (char *)load->container;
	request.n_cmd = ARRAY_SIZE(cmd);
	request.cmd = cmd;
	request.stdin = request.stdout = request.stderr = true;
	int r = rpc_client_new(load->socket, &client, err);
	for (unsigned i = 0; i < load->n && r == 0; i++) {
		Runtime__V1__ExecResponse *response = NULL;
		r = call(client, "Exec", &request.base, &response, err);
		if (r == 0) {
			workers[i].url = TAKE_PTR(response->url);
			protobuf_c_message_free_unpacked(&response->base, NULL);
		}
	}
	rpc_client_free(client);
	return r;
}

/* Runs all, prints how long they took. */
static void run_all(struct worker *workers, unsigned n, void *(*run)(void *), const char *what)
{
	struct timespec begin, end;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned i = 0; i < n; i++)
		if (pthread_create(&workers[i].thread, &attr, run, &workers[i]) != 0) {
			perror("exec_load: a thread");
			exit(EXIT_FAILURE);
		}
	for (unsigned i = 0; i < n; i++)
		pthread_join(workers[i].thread, NULL);
	clock_gettime(CLOCK_MONOTONIC, &end);
	pthread_attr_destroy(&attr);
	printf("%u %s in %ld s\n", n, what, (long)(end.tv_sec - begin.tv_sec));
}

int main(int argc, char **argv)
{
	struct load load = {.lock = PTHREAD_MUTEX_INITIALIZER, .met = PTHREAD_COND_INITIALIZER};
	load.n = argc == 5 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
	unsigned syncs = argc == 5 ? (unsigned)strtoul(argv[4], NULL, 10) : 0;
	if (load.n < 1 || load.n > N_MAX || syncs > load.n) {
		fputs("Usage: exec_load SOCKET CONTAINER N M, M up to N\n", stderr);
		return 2;
	}
	load.socket = argv[1];
	load.container = argv[2];
	struct worker *workers = calloc(load.n, sizeof(*workers));
	struct err err = ERR_INIT;
	if (!workers)
		return EXIT_FAILURE;
	for (unsigned i = 0; i < load.n; i++)
		workers[i] = (struct worker){.load = &load, .number = i};
	if (get_urls(&load, workers, &err) < 0) {
		fprintf(stderr, "exec_load: %s\n", err.msg);
		load.failed++;
	} else {
		run_all(workers, load.n, session_main, "sessions");
		run_all(workers, syncs, sync_main, "ExecSyncs");
	}
	for (unsigned i = 0; i < load.n; i++)
		free(workers[i].url);
	free(workers);
	return load.failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
