/* Pulls from registries that mean harm, or ask who is there: each is a process of the test's. */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "common/loop.h"
#include "cri-server/image/image_fixture.h"

#define PATIENCE_S 20
#define DRIP_MS    500
#define TRICKLE_MS 50
/* Less than a layer takes that trickles. */
#define TIMEOUT_MS   4000
#define DOCUMENT_MAX 65536
#define JOE          "am9lOmpvZQ==" /* joe:joe */

enum manner {
	HONEST,
	DRIPS,    /* a layer comes byte by byte */
	TRICKLES, /* the same, sooner than anybody loses patience */
	STALLS,   /* of a layer the first byte comes */
	ASKS,     /* for a user and a password */
	SENDS_ON, /* for its blobs to where nobody listens, with a signature */
	MUTE,     /* nothing comes of its manifests */
	MOVES,    /* a tag, once it was asked for manifest and configuration */
};

/* What a registry's tags stand for before they move. */
#define FIRST "first.json"

static atomic_uint *tags_asked; /* of the one that runs, shared with its processes */

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

static void answer(int fd, const char *type, const char *text, size_t len, enum manner manner)
{
	char head[256];
	int n = snprintf(head, sizeof(head),
		"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", type, len);
	say(fd, head, (size_t)n);
	bool slow = text[0] != '{' && manner >= DRIPS && manner <= STALLS;
	for (size_t i = 0; slow && i < len; i++) {
		say(fd, text + i, 1);
		if (manner == STALLS)
			pause();
		usleep((manner == DRIPS ? DRIP_MS : TRICKLE_MS) * 1000);
	}
	if (!slow)
		say(fd, text, len);
}

static void answer_request(int fd, const char *layout, const char *request, enum manner manner)
{
	static const char *const kinds[] = {"/manifests/", "/blobs/"};
	char path[PATH_MAX + 128];
	_cleanup_free_ char *index = NULL, *text = NULL;
	size_t len;
	const char *wanted = NULL;
	bool manifest = false;
	if (manner == ASKS && !strstr(request, "\r\nAuthorization: Basic " JOE "\r\n")) {
		static const char unknown[] =
			"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"\r\n"
			"Content-Length: 0\r\n\r\n";
		say(fd, unknown, strlen(unknown));
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(kinds) && !wanted; i++) {
		wanted = strstr(request, kinds[i]);
		manifest = i == 0;
		wanted = wanted ? wanted + strlen(kinds[i]) : NULL;
	}
	if (!wanted) {
		answer(fd, "application/json", "{}", 2, HONEST);
		return;
	}
	if (manifest && manner == MUTE)
		pause();
	if (!manifest && manner == SENDS_ON) {
		static const char elsewhere[] =
			"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n"
			"Location: http://127.0.0.1:1/b?X-Signature=secret&X-Token=secret\r\n\r\n";
		say(fd, elsewhere, strlen(elsewhere));
		return;
	}
	bool tag = strncmp(wanted, "sha256:", 7) != 0;
	bool first = manner == MOVES && tag && atomic_fetch_add(tags_asked, 1) < 2;
	snprintf(path, sizeof(path), "%s/%s", layout, first ? FIRST : "index.json");
	if (fd_read_file(path, DOCUMENT_MAX, &index, NULL, NULL) < 0)
		_exit(1);
	if (tag)
		wanted = strstr(index, "sha256:");
	snprintf(path, sizeof(path), "%s/blobs/sha256/%.64s", layout, wanted + 7);
	if (fd_read_file(path, DOCUMENT_MAX, &text, &len, NULL) < 0)
		_exit(1);
	answer(fd,
		manifest ? "application/vnd.oci.image.manifest.v1+json"
			 : "application/octet-stream",
		text, len, manner);
}

/* skopeo begins with TLS, which ends at its first byte. */
_Noreturn static void serve_connection(int fd, const char *layout, enum manner manner)
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
			*end = '\0';
			answer_request(fd, layout, request, manner);
			end += 4;
			len -= (size_t)(end - request);
			memmove(request, end, len + 1);
		}
	}
	_exit(0);
}

_Noreturn static void serve(int listener, const char *layout, enum manner manner)
{
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		if (fd >= 0 && fork() == 0)
			serve_connection(fd, layout, manner);
		fd_close(fd);
	}
}

static struct registry begin_registry(const struct place *p, enum manner manner)
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
		serve(fd, layout, manner);
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
	const struct registry slow = begin_registry(p, DRIPS), honest = begin_registry(p, HONEST);
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

/* As long as it comes it may take any time; that is what large images and slow lines need. */
static void a_pull_has_time_while_something_comes(void **state)
{
	struct place *p = begin(state);
	_cleanup_free_ char *id = NULL, *none = NULL;
	close_images(p);
	p->config.pull_timeout_ms = TIMEOUT_MS;
	open_images(p);
	make_layout(p, &(struct layout_options){.layers = {one}, .gzip = true});
	const struct registry slow = begin_registry(p, TRICKLES), dead = begin_registry(p, STALLS);
	snprintf(p->source, sizeof(p->source), "127.0.0.1:%u/x", dead.port);
	uint64_t begin_ms = ev_now_ms();
	int stalled = img_pull(p->img, p->source, NULL, -EBADF, &none, &p->err);
	uint64_t took_ms = ev_now_ms() - begin_ms;
	bool told = strstr(p->err.msg, "images.pull_timeout_ms");
	snprintf(p->source, sizeof(p->source), "127.0.0.1:%u/y", slow.port);
	begin_ms = ev_now_ms();
	int r = img_pull(p->img, p->source, NULL, -EBADF, &id, &p->err);
	uint64_t slow_ms = ev_now_ms() - begin_ms;
	end_registry(&slow);
	end_registry(&dead);
	if (r < 0)
		fail_msg("%s", p->err.msg);
	assert_true(slow_ms > TIMEOUT_MS);
	assert_int_equal(stalled, -ETIMEDOUT);
	assert_true(told);
	assert_in_range(took_ms, TIMEOUT_MS, PATIENCE_S * 1000);
}

/* Documents have the same time: a cache may have to fetch them from far away first. */
static void a_registry_that_says_nothing(void **state)
{
	struct place *p = begin(state);
	_cleanup_free_ char *id = NULL;
	close_images(p);
	p->config.pull_timeout_ms = TIMEOUT_MS;
	open_images(p);
	make_layout(p, &(struct layout_options){.layers = {one}});
	const struct registry mute = begin_registry(p, MUTE);
	snprintf(p->source, sizeof(p->source), "127.0.0.1:%u/x", mute.port);
	int r = img_pull(p->img, p->source, NULL, -EBADF, &id, &p->err);
	end_registry(&mute);
	if (r != -ETIMEDOUT || !strstr(p->err.msg, "4000 ms (images.pull_timeout_ms)"))
		fail_msg("%d, %s", r, p->err.msg);
}

static void write_login(const struct place *p, const char *name, const struct registry *registry)
{
	char path[128], text[256];
	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	*strrchr(path, '/') = '\0';
	assert_int_equal(fd_mkdir_all(path, 0700, NULL), 0);
	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	snprintf(text, sizeof(text), "{\"auths\":{\"127.0.0.1:%u\":{\"auth\":\"" JOE "\"}}}",
		registry->port);
	assert_int_equal(fd_write_file(path, text, strlen(text), 0600, NULL), 0);
}

/* Where root has logged in at a registry, that is root's affair, and no pod's. */
static void logins_of_the_node_are_not_used(void **state)
{
	static const char *const places[][3] = {
		{"HOME", "", ".docker/config.json"},
		{"HOME", "", ".config/containers/auth.json"},
		{"DOCKER_CONFIG", "/docker", "docker/config.json"},
		{"XDG_CONFIG_HOME", "/config", "config/containers/auth.json"},
		{"XDG_RUNTIME_DIR", "/run", "run/containers/auth.json"},
		{"REGISTRY_AUTH_FILE", "/auth.json", "auth.json"},
	};
	const struct img_auth joe = {.username = "joe", .password = "joe"};
	struct place *p = begin(state);
	const char *before = getenv("HOME");
	_cleanup_free_ char *home = strdup(before ? before : "/root");
	make_layout(p, &(struct layout_options){.layers = {one}});
	const struct registry asks = begin_registry(p, ASKS);
	snprintf(p->source, sizeof(p->source), "127.0.0.1:%u/x", asks.port);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		char value[64], *id = NULL;
		snprintf(value, sizeof(value), "%s%s", p->dir, places[i][1]);
		write_login(p, places[i][2], &asks);
		setenv(places[i][0], value, 1);
		int r = img_pull(p->img, p->source, NULL, -EBADF, &id, &p->err);
		setenv("HOME", home, 1);
		if (i > 1)
			unsetenv(places[i][0]);
		snprintf(value, sizeof(value), "%s/%s", p->dir, places[i][2]);
		unlink(value);
		if (r != -EACCES)
			fail_msg("%s: %d, %s", places[i][2], r, p->err.msg);
	}
	_cleanup_free_ char *id = NULL;
	int r = img_pull(p->img, p->source, &joe, -EBADF, &id, &p->err);
	end_registry(&asks);
	if (r < 0)
		fail_msg("%s", p->err.msg);
}

/* With a signed URL anybody has the blob, and errors stand in a pod's events. */
static void signatures_of_urls_are_not_told(void **state)
{
	struct place *p = begin(state);
	_cleanup_free_ char *id = NULL;
	make_layout(p, &(struct layout_options){.layers = {one}});
	const struct registry registry = begin_registry(p, SENDS_ON);
	snprintf(p->source, sizeof(p->source), "127.0.0.1:%u/x", registry.port);
	int r = img_pull(p->img, p->source, NULL, -EBADF, &id, &p->err);
	end_registry(&registry);
	if (r != -EHOSTUNREACH || strstr(p->err.msg, "secret") ||
		!strstr(p->err.msg, "\"http://127.0.0.1:1/b?...\": "))
		fail_msg("%d, %s", r, p->err.msg);
}

/* The policy is asked about what is copied: an image must not pass for another one. */
static void a_tag_that_moves_during_a_pull(void **state)
{
	struct place *p = begin(state);
	tags_asked = mmap(NULL, sizeof(*tags_asked), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(tags_asked != MAP_FAILED);
	for (int gzip = 0; gzip < 2; gzip++) {
		char index[64], first[64], *id = NULL;
		snprintf(index, sizeof(index), "%s/layout/index.json", p->dir);
		snprintf(first, sizeof(first), "%s/layout/" FIRST, p->dir);
		make_layout(p, &(struct layout_options){
				       .layers = {one}, .gzip = gzip, .env = "LD_PRELOAD=x"});
		assert_int_equal(rename(index, first), 0);
		make_layout(p, &(struct layout_options){.layers = {one}, .gzip = gzip});
		*tags_asked = 0;
		const struct registry registry = begin_registry(p, MOVES);
		snprintf(p->source, sizeof(p->source), "127.0.0.1:%u/x", registry.port);
		int r = img_pull(p->img, p->source, NULL, -EBADF, &id, &p->err);
		end_registry(&registry);
		free(id);
		if (r != -EAGAIN || !strstr(p->err.msg, "the tag may have moved"))
			fail_msg("gzip %d: %d, %s", gzip, r, p->err.msg);
		holds(p, 0, 0);
	}
	munmap(tags_asked, sizeof(*tags_asked));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		image_test(a_registry_that_drips),
		image_test(a_pull_has_time_while_something_comes),
		image_test(a_registry_that_says_nothing),
		image_test(logins_of_the_node_are_not_used),
		image_test(signatures_of_urls_are_not_told),
		image_test(a_tag_that_moves_during_a_pull),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
