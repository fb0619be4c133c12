/* Pulls from registries that mean harm, beside others: each is a process of the test's. */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "cri-server/image/image_fixture.h"

#define PATIENCE_S   20
#define DRIP_MS      500
#define DOCUMENT_MAX 65536

struct registry {
	pid_t pid; /* and its group's */
	uint16_t port;
};

/* ---- a registry that has a layout's image under any name and tag ---- */

static void say(int fd, const char *text, size_t len)
{
	if (send(fd, text, len, MSG_NOSIGNAL) != (ssize_t)len)
		_exit(0);
}

/* A layer comes byte by byte where it drips; documents come at once. */
static void answer(int fd, const char *type, const char *text, size_t len, bool drips)
{
	char head[256];
	int n = snprintf(head, sizeof(head),
		"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", type, len);
	say(fd, head, (size_t)n);
	for (size_t i = 0; drips && text[0] != '{' && i < len; i++) {
		say(fd, text + i, 1);
		usleep(DRIP_MS * 1000);
	}
	if (!drips || text[0] == '{')
		say(fd, text, len);
}

static void answer_request(int fd, const char *layout, const char *request, bool drips)
{
	static const char *const kinds[] = {"/manifests/", "/blobs/"};
	char path[PATH_MAX + 128];
	_cleanup_free_ char *index = NULL, *text = NULL;
	size_t len;
	const char *wanted = NULL;
	bool manifest = false;
	for (size_t i = 0; i < ARRAY_SIZE(kinds) && !wanted; i++) {
		wanted = strstr(request, kinds[i]);
		manifest = i == 0;
		wanted = wanted ? wanted + strlen(kinds[i]) : NULL;
	}
	if (!wanted) {
		answer(fd, "application/json", "{}", 2, false);
		return;
	}
	snprintf(path, sizeof(path), "%s/index.json", layout);
	if (fd_read_file(path, DOCUMENT_MAX, &index, NULL, NULL) < 0)
		_exit(1);
	if (strncmp(wanted, "sha256:", 7) != 0) /* a tag */
		wanted = strstr(index, "sha256:");
	snprintf(path, sizeof(path), "%s/blobs/sha256/%.64s", layout, wanted + 7);
	if (fd_read_file(path, DOCUMENT_MAX, &text, &len, NULL) < 0)
		_exit(1);
	answer(fd,
		manifest ? "application/vnd.oci.image.manifest.v1+json"
			 : "application/octet-stream",
		text, len, drips);
}

/* skopeo begins with TLS, which ends at its first byte. */
_Noreturn static void serve_connection(int fd, const char *layout, bool drips)
{
	char request[8192] = "";
	size_t len = 0;
	ssize_t n;
	while ((n = recv(fd, request + len, sizeof(request) - 1 - len, 0)) > 0 &&
		request[0] != 0x16) {
		char *end;
		len += (size_t)n;
		request[len] = '\0';
		while ((end = strstr(request, "\r\n\r\n"))) {
			*strchr(request, '\r') = '\0';
			answer_request(fd, layout, request, drips);
			end += 4;
			len -= (size_t)(end - request);
			memmove(request, end, len + 1);
		}
	}
	_exit(0);
}

_Noreturn static void serve(int listener, const char *layout, bool drips)
{
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		if (fd >= 0 && fork() == 0)
			serve_connection(fd, layout, drips);
		fd_close(fd);
	}
}

static struct registry begin_registry(const struct place *p, bool drips)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	char layout[64];
	snprintf(layout, sizeof(layout), "%s/layout", p->dir);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (const struct sockaddr *)&address, len), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	struct registry registry = {.pid = fork(), .port = ntohs(address.sin_port)};
	assert_true(registry.pid >= 0);
	if (registry.pid == 0) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(fd, layout, drips);
	}
	setpgid(registry.pid, registry.pid);
	close(fd);
	return registry;
}

static void end_registry(const struct registry *registry)
{
	kill(-registry->pid, SIGKILL);
	waitpid(registry->pid, NULL, 0);
}

/* ---- the tests ---- */

struct puller {
	pthread_t thread;
	struct place *place;
	char source[64];
	int cancel_fd, r;
	struct err err;
};

static void *pull_in_thread(void *userdata)
{
	struct puller *puller = userdata;
	_cleanup_free_ char *id = NULL;
	puller->r = img_pull(
		puller->place->img, puller->source, NULL, puller->cancel_fd, &id, &puller->err);
	return NULL;
}

/* Until some of a layer has come. */
static void await_bytes(struct place *p)
{
	uint64_t bytes = 0;
	for (int i = 0; i < PATIENCE_S * 20 && !bytes; i++) {
		struct img_pull_progress *list;
		size_t n;
		assert_int_equal(img_pulls(p->img, &list, &n, NULL), 0);
		bytes = n ? list[0].bytes_done : 0;
		img_pulls_free(list, n);
		usleep(50000);
	}
	assert_true(bytes > 0);
}

/* Who names a layer that others want, and then lets it drip, holds up his own pull alone. */
static void a_registry_that_drips(void **state)
{
	const struct itimerspec late = {.it_value = {.tv_sec = PATIENCE_S}};
	struct place *p = begin(state);
	make_layout(p, &(struct layout_options){.layers = {one}, .gzip = true});
	const struct registry slow = begin_registry(p, true), honest = begin_registry(p, false);
	struct puller dripping = {.place = p, .cancel_fd = eventfd(0, EFD_CLOEXEC)};
	snprintf(dripping.source, sizeof(dripping.source), "127.0.0.1:%u/x", slow.port);
	assert_int_equal(pthread_create(&dripping.thread, NULL, pull_in_thread, &dripping), 0);
	await_bytes(p);
	_cleanup_free_ char *id = NULL;
	_cleanup_close_ int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	timerfd_settime(timer, 0, &late, NULL);
	snprintf(p->source, sizeof(p->source), "127.0.0.1:%u/y", honest.port);
	int r = img_pull(p->img, p->source, NULL, timer, &id, &p->err);
	eventfd_write(dripping.cancel_fd, 1);
	pthread_join(dripping.thread, NULL);
	end_registry(&slow);
	end_registry(&honest);
	fd_close(dripping.cancel_fd);
	if (r < 0 || dripping.r != -ECANCELED)
		fail_msg("'%s', and the other: '%s'", p->err.msg, dripping.err.msg);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		image_test(a_registry_that_drips),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
