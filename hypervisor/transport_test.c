/*
 * Connecting to a machine's bulkhead-vsock, which its guest may have taken over: an attempt takes
 * no longer than it is given, whatever is at the other end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "hypervisor/internal.h"

#define TIMEOUT_MS 300
#define PORT       1024
#define GUEST_CID  3

struct room {
	char dir[32];
	char *path;
	int listener;
};

static int set_up(void **state)
{
	struct room *room = calloc(1, sizeof(*room));
	struct err err = ERR_INIT;

	snprintf(room->dir, sizeof(room->dir), "/tmp/transport-XXXXXX");
	assert_non_null(mkdtemp(room->dir));
	room->path = str_printf("%s/vsock.sock", room->dir);
	assert_int_equal(fd_unix_listen(room->path, 0600, &room->listener, &err), 0);
	*state = room;
	return 0;
}

static int tear_down(void **state)
{
	struct room *room = *state;

	fd_close(room->listener);
	fd_remove_tree(room->dir, NULL);
	free(room->path);
	free(room);
	return 0;
}

static int try_connect(const struct room *room, int *ret_fd, uint64_t *ret_ms)
{
	const struct transport_machine machine = {.dir = room->dir};
	uint64_t begin = ev_now_ms();
	struct err err = ERR_INIT;
	int r = transport_of(0)->connect(&machine, PORT, TIMEOUT_MS, ret_fd, &err);

	*ret_ms = ev_now_ms() - begin;
	return r;
}

/* ---- the other end ---- */

static int take_client(const struct room *room)
{
	char line[32] = "";
	int fd;

	while ((fd = accept4(room->listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
		assert_int_equal(errno, EAGAIN);
	assert_true(recv(fd, line, sizeof(line) - 1, 0) > 0);
	assert_string_equal(line, "CONNECT 1024\n");
	return fd;
}

static void *answer(void *userdata)
{
	static const char text[] = "OK 7\nx";
	_cleanup_close_ int fd = take_client(userdata);

	assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
	usleep(TIMEOUT_MS * 2 * 1000);
	assert_int_equal(send(fd, "y", 1, 0), 1);
	return NULL;
}

static void *accept_client(void *userdata)
{
	_cleanup_close_ int fd = take_client(userdata);

	assert_int_equal(send(fd, "OK 7\n", 5, 0), 5);
	return NULL;
}

/* Never so long that a single byte would be late. */
static void *drip(void *userdata)
{
	_cleanup_close_ int fd = take_client(userdata);

	while (send(fd, "O", 1, MSG_NOSIGNAL) == 1)
		usleep(TIMEOUT_MS * 1000 / 3);
	return NULL;
}

static void test_answer(void **state)
{
	_cleanup_close_ int fd = -EBADF;
	char byte = '\0';
	pthread_t thread;
	uint64_t ms;

	pthread_create(&thread, NULL, answer, *state);
	assert_int_equal(try_connect(*state, &fd, &ms), 0);
	/* Nothing of what follows the line is lost, and the socket blocks without end. */
	assert_int_equal(read(fd, &byte, 1), 1);
	assert_int_equal(byte, 'x');
	assert_int_equal(read(fd, &byte, 1), 1);
	assert_int_equal(byte, 'y');
	pthread_join(thread, NULL);
}

/* Once connected to what answers: what hv_vm_connect() says where libvirt has this domain. */
static int connect_to(const struct room *room, virDomainPtr domain, struct err *err)
{
	/* It keeps what it was made with, also where new ones get the kernel's device by now. */
	struct hv hv = {.transport = transport_of(GUEST_CID)};
	struct hv_vm vm = {.hv = &hv, .dir = (char *)room->dir, .domain = domain};
	_cleanup_close_ int fd = -EBADF;
	pthread_t thread;
	int r;

	pthread_create(&thread, NULL, accept_client, (void *)room);
	r = hv_vm_connect(&vm, PORT, TIMEOUT_MS, &fd, err);
	pthread_join(thread, NULL);
	assert_int_equal(fd >= 0, r == 0);
	return r;
}

/* What answers may be another machine's: the kernel's addresses are given anew. */
static void test_machine_that_has_ended(void **state)
{
	virConnectPtr connection = virConnectOpen("test:///default");
	_cleanup_domain_ virDomainPtr domain = virDomainLookupByName(connection, "test");
	struct err err = ERR_INIT;

	assert_non_null(domain);
	assert_int_equal(connect_to(*state, domain, &err), 0);
	assert_int_equal(virDomainDestroy(domain), 0);
	assert_int_equal(connect_to(*state, domain, &err), -EHOSTDOWN);
	assert_non_null(strstr(err.msg, "has ended"));
	virConnectClose(connection);
}

static void test_cids(void **state)
{
	uint32_t last = 0;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		uint32_t cid = transport_pick_cid();

		assert_in_range(cid, GUEST_CID, INT32_MAX);
		assert_int_not_equal(cid, last);
		last = cid;
	}
}

static void test_drips(void **state)
{
	pthread_t thread;
	uint64_t ms;
	int fd;

	pthread_create(&thread, NULL, drip, *state);
	assert_int_equal(try_connect(*state, &fd, &ms), 1);
	pthread_join(thread, NULL);
	assert_in_range(ms, TIMEOUT_MS - 1, TIMEOUT_MS * 3);
}

/* It accepts no more: connect(2) itself would wait for it. */
static void test_accepts_nobody(void **state)
{
	struct room *room = *state;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	uint64_t ms;
	int fds[8], fd, n = 0;

	assert_int_equal(listen(room->listener, 0), 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", room->path);
	for (int r = 0; r == 0 && n < (int)ARRAY_SIZE(fds); n++) {
		fds[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		r = connect(fds[n], (struct sockaddr *)&addr, sizeof(addr));
	}
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(try_connect(room, &fd, &ms), 1);
	assert_in_range(ms, 0, TIMEOUT_MS * 3);
	while (n > 0)
		fd_close(fds[--n]);
}

static void test_nobody(void **state)
{
	struct room *room = *state;
	uint64_t ms;
	int fd;

	room->listener = fd_close(room->listener);
	assert_int_equal(try_connect(room, &fd, &ms), 1);
	unlink(room->path);
	assert_int_equal(try_connect(room, &fd, &ms), 1);
}

int main(void)
{
#define TRANSPORT_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TRANSPORT_TEST(test_answer),
		TRANSPORT_TEST(test_machine_that_has_ended),
		cmocka_unit_test(test_cids),
		TRANSPORT_TEST(test_drips),
		TRANSPORT_TEST(test_nobody),
		TRANSPORT_TEST(test_accepts_nobody),
	};

	alarm(60); /* one that waits for ever fails */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
