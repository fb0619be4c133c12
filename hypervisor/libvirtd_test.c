/*
 * A libvirtd that goes away while machines run: what libvirt cannot tell then is not a machine's
 * end. It is a real one of the test's own, without privileges, and its machines are of libvirt's
 * test driver; skips where there is no libvirtd.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libvirt/virterror.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/domain_xml.h"
#include "hypervisor/internal.h"

#define LIBVIRTD "/usr/sbin/libvirtd"
#define RUN_DIR  "/run/of-this-test"
#define PORT     1024

struct room {
	char dir[32];
	char *socket, *uri;
	pid_t libvirtd;
	struct log log;
	struct hv hv;
	virDomainPtr domain; /* the machine "one" */
	sigset_t end;        /* what asks us to end */
};

/* As root libvirtd would be the host's. */
static void run_libvirtd(const struct room *room)
{
	const struct passwd *nobody = getpwnam("nobody");
	int null = open("/dev/null", O_RDWR);
	char *env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", str_printf("HOME=%s", room->dir),
		str_printf("XDG_RUNTIME_DIR=%s", room->dir), NULL};

	if (geteuid() == 0 && (!nobody || chown(room->dir, nobody->pw_uid, nobody->pw_gid) < 0 ||
				      setgroups(0, NULL) < 0 || setgid(nobody->pw_gid) < 0 ||
				      setuid(nobody->pw_uid) < 0))
		_exit(127);
	/* Not before: the kernel forgets it with a change of user. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dup2(null, 1) < 0 || dup2(null, 2) < 0)
		_exit(127);
	execle(LIBVIRTD, LIBVIRTD, NULL, env);
	_exit(127);
}

static virDomainPtr start_machine(struct room *room, const char *id, const char *run_dir)
{
	_cleanup_free_ char *xml = str_printf(
		"<domain type='test'><name>bh-%s</name><metadata><m:machine xmlns:m='%s' "
		"run-dir='%s'/></metadata><memory>8192</memory><os><type>hvm</type></os></domain>",
		id, DOMAIN_XML_NAMESPACE, run_dir);
	virDomainPtr domain = virDomainCreateXML(room->hv.connection, xml, 0);

	assert_non_null(domain);
	return domain;
}

static void ignore_error(void *userdata, virErrorPtr error)
{
	(void)userdata;
	(void)error;
}

static int set_up(void **state)
{
	struct room *room = calloc(1, sizeof(*room));
	int fd = -EBADF;

	*state = room;
	sigemptyset(&room->end);
	sigaddset(&room->end, SIGTERM);
	assert_int_equal(pthread_sigmask(SIG_BLOCK, &room->end, NULL), 0);
	if (access(LIBVIRTD, X_OK) < 0)
		return 0;
	snprintf(room->dir, sizeof(room->dir), "/tmp/libvirtd-XXXXXX");
	assert_non_null(mkdtemp(room->dir));
	room->socket = str_printf("%s/libvirt/libvirt-sock", room->dir);
	room->libvirtd = fork();
	if (room->libvirtd == 0)
		run_libvirtd(room);
	while (fd_unix_connect(room->socket, &fd, NULL) < 0) {
		assert_int_equal(waitpid(room->libvirtd, NULL, WNOHANG), 0);
		usleep(10000);
	}
	close(fd);
	room->uri = str_printf("test+unix:///default?socket=%s", room->socket);
	room->log = (struct log){.fd = memfd_create("log", MFD_CLOEXEC), .level = LOG_LEVEL_INFO};
	room->hv.log = &room->log;
	room->hv.config.run_dir = RUN_DIR;
	room->hv.config.libvirt_uri = room->uri;
	room->hv.connection = virConnectOpen(room->uri);
	assert_non_null(room->hv.connection);
	room->domain = start_machine(room, "one", RUN_DIR);
	return 0;
}

static void end_libvirtd(struct room *room)
{
	assert_int_equal(kill(room->libvirtd, SIGKILL), 0);
	assert_int_equal(waitpid(room->libvirtd, NULL, 0), room->libvirtd);
	room->libvirtd = 0;
}

static int tear_down(void **state)
{
	struct room *room = *state;

	if (room->libvirtd)
		end_libvirtd(room);
	if (room->domain)
		virDomainFree(room->domain);
	if (room->hv.connection) {
		hv_unwatch_connection(&room->hv);
		virConnectClose(room->hv.connection);
	}
	if (room->dir[0])
		fd_remove_tree(room->dir, NULL);
	fd_close(room->log.fd);
	free(room->uri);
	free(room->socket);
	free(room);
	return 0;
}

static void on_timer(int timer, void *userdata)
{
	(void)timer;
	*(bool *)userdata = true;
}

static int look_up(struct room *room, const char *id, struct err *err)
{
	_cleanup_domain_ virDomainPtr domain = NULL;

	return hv_lookup(&room->hv, id, &domain, err);
}

static void test_lookup(void **state)
{
	struct room *room = *state;
	struct err err = ERR_INIT;

	if (!room->libvirtd)
		skip();
	virDomainFree(start_machine(room, "other", "/run/of-another"));
	assert_int_equal(look_up(room, "one", &err), 0);
	assert_int_equal(look_up(room, "other", &err), 1);
	assert_int_equal(look_up(room, "none", &err), 1);
	end_libvirtd(room);
	assert_int_equal(look_up(room, "one", &err), -EAGAIN);
}

static int try_connect(const struct room *room, struct err *err)
{
	struct hv_vm vm = {.hv = (struct hv *)&room->hv,
		.id = "one",
		.dir = (char *)room->dir,
		.domain = room->domain};
	int fd;

	return hv_vm_connect(&vm, PORT, 60000, &fd, err);
}

/* Nobody answers, and there is nobody either who could say why. */
static void test_connect(void **state)
{
	struct room *room = *state;
	struct err err = ERR_INIT;

	if (!room->libvirtd)
		skip();
	end_libvirtd(room);
	assert_int_equal(try_connect(room, &err), -EAGAIN);
}

static void test_connect_to_one_that_ended(void **state)
{
	struct room *room = *state;
	struct err err = ERR_INIT;

	if (!room->libvirtd)
		skip();
	/* libvirtd knows nothing of it any more. */
	assert_int_equal(virDomainDestroy(room->domain), 0);
	assert_int_equal(try_connect(room, &err), -EHOSTDOWN);
}

static bool is_asked_to_end(void)
{
	sigset_t pending;

	assert_int_equal(sigpending(&pending), 0);
	return sigismember(&pending, SIGTERM);
}

static void test_its_end_is_ours(void **state)
{
	struct room *room = *state;
	char said[1024] = "";
	struct err err = ERR_INIT;
	int signo;

	if (!room->libvirtd)
		skip();
	room->hv.libvirtd = true;
	assert_int_equal(hv_watch_connection(&room->hv, &err), 0);
	end_libvirtd(room);
	while (!is_asked_to_end())
		assert_int_equal(virEventRunDefaultImpl(), 0);
	assert_int_equal(sigwait(&room->end, &signo), 0);
	assert_true(pread(room->log.fd, said, sizeof(said) - 1, 0) > 0);
	assert_non_null(strstr(said, "libvirtd is gone"));
	assert_non_null(strstr(said, room->socket));
}

/* As at our own end: that is not one of libvirtd's. */
static void test_close_is_no_end(void **state)
{
	struct room *room = *state;
	struct err err = ERR_INIT;

	if (!room->libvirtd)
		skip();
	room->hv.libvirtd = true;
	assert_int_equal(hv_watch_connection(&room->hv, &err), 0);
	virDomainFree(room->domain);
	room->domain = NULL;
	hv_unwatch_connection(&room->hv);
	assert_int_equal(virConnectClose(room->hv.connection), 0);
	room->hv.connection = NULL;
	/* The timer stands behind all that the loop has to do for the connection. */
	bool done = false;
	int timer = virEventAddTimeout(0, on_timer, &done, NULL);
	while (!done)
		assert_int_equal(virEventRunDefaultImpl(), 0);
	virEventRemoveTimeout(timer);
	assert_false(is_asked_to_end());
}

int main(void)
{
#define LIBVIRTD_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		LIBVIRTD_TEST(test_lookup),
		LIBVIRTD_TEST(test_connect),
		LIBVIRTD_TEST(test_connect_to_one_that_ended),
		LIBVIRTD_TEST(test_its_end_is_ours),
		LIBVIRTD_TEST(test_close_is_no_end),
	};

	alarm(120); /* one that waits for ever fails */
	signal(SIGPIPE, SIG_IGN);
	virSetErrorFunc(NULL, ignore_error);
	virEventRegisterDefaultImpl();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
