#include "common/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* Each test has a fresh directory and is in it. */
static int setup(void **state)
{
	char *dir = strdup("/tmp/fd_test-XXXXXX");
	assert_non_null(dir);
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	*state = dir;
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(chdir("/"), 0);
	assert_int_equal(fd_remove_tree(*state, NULL), 0);
	assert_int_equal(access(*state, F_OK), -1);
	free(*state);
	return 0;
}

static void put(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");
	assert_non_null(file);
	fputs(text, file);
	assert_int_equal(fclose(file), 0);
}

static int count_entries(const char *path)
{
	int n = 0;
	DIR *dir = opendir(path);
	assert_non_null(dir);
	for (const struct dirent *entry; (entry = readdir(dir));)
		n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
	closedir(dir);
	return n;
}

static void ownership_by_scope(void **state)
{
	(void)state;
	int kept = -EBADF;
	int closed;
	{
		_cleanup_close_ int a = open(".", O_RDONLY);
		_cleanup_close_ int b = open(".", O_RDONLY);
		assert_true(a >= 0 && b >= 0);
		closed = a;
		kept = TAKE_FD(b);
		assert_int_equal(b, -EBADF);
		errno = EDOM;
	}
	assert_int_equal(errno, EDOM);
	assert_int_equal(fcntl(closed, F_GETFD), -1);
	assert_int_equal(fcntl(kept, F_GETFD), 0);
	assert_int_equal(fd_close(kept), -EBADF);
	assert_int_equal(fd_close(-EBADF), -EBADF);
}

static void formats_strings(void **state)
{
	(void)state;
	_cleanup_free_ char *text = str_printf("%s-%d", "a", 1);
	assert_string_equal(text, "a-1");
	char *taken = TAKE_PTR(text);
	assert_null(text);
	free(taken);

	char hex[] = "unwritten";
	str_hex(hex, (const unsigned char[]){0, 0x0f, 0xa0, 0xff}, 4);
	assert_string_equal(hex, "000fa0ff");
	str_hex(hex, NULL, 0);
	assert_string_equal(hex, "");
}

static void reads_exactly(void **state)
{
	(void)state;
	int ends[2];
	char data[8] = "";
	struct err err = ERR_INIT;
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(fd_write_all(ends[1], "abcdef", 6, NULL), 0);
	assert_int_equal(fd_read_exact(ends[0], data, 4, &err), 0);
	assert_string_equal(data, "abcd");
	close(ends[1]);
	assert_int_equal(fd_read_exact(ends[0], data, 4, &err), -ENODATA);
	assert_string_equal(err.msg, "the stream ended after 2 of 4 bytes");
	assert_int_equal(fd_read_exact(ends[0], data, 0, &err), 0);
	assert_int_equal(fd_write_all(ends[0], "x", 1, &err), -EBADF);
	close(ends[0]);
}

static void reads_whole_files(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	char *data = NULL;
	size_t len = 0;
	put("f", "0123456789");
	assert_int_equal(fd_read_file("f", 10, &data, &len, &err), 0);
	assert_int_equal(len, 10);
	assert_string_equal(data, "0123456789");
	free(data);
	data = NULL;
	assert_int_equal(fd_read_file("f", 9, &data, &len, &err), -EFBIG);
	assert_null(data);
	assert_int_equal(fd_read_file("none", 9, &data, &len, &err), -ENOENT);
	assert_int_equal(fd_read_file(".", 9, &data, &len, &err), -EISDIR);
	put("empty", "");
	assert_int_equal(fd_read_file("empty", 0, &data, &len, &err), 0);
	assert_int_equal(len, 0);
	assert_string_equal(data, "");
	free(data);
	/* A file that says it has no size. */
	assert_int_equal(fd_read_file("/proc/self/status", 1 << 20, &data, NULL, &err), 0);
	assert_memory_equal(data, "Name:", 5);
	free(data);
}

static void reads_files_beyond_a_chunk(void **state)
{
	(void)state;
	static char big[20001];
	memset(big, 'x', sizeof(big) - 1);
	put("f", big);
	char *data = NULL;
	size_t len = 0;
	assert_int_equal(fd_read_file("f", 20000, &data, &len, NULL), 0);
	assert_int_equal(len, 20000);
	assert_string_equal(data, big);
	free(data);
	assert_int_equal(fd_read_file("f", 19999, &data, &len, NULL), -EFBIG);
}

static void writes_in_one_step(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	struct stat st;
	umask(077);
	assert_int_equal(fd_write_file("f", "old", 3, 0644, &err), 0);
	assert_int_equal(fd_write_file("f", "new!", 4, 0640, &err), 0);
	umask(022);
	assert_int_equal(stat("f", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(st.st_size, 4);
	/* Where it fails, nothing is left. */
	assert_int_equal(mkdir("d", 0755), 0);
	put("d/x", "x");
	assert_int_equal(fd_write_file("d", "x", 1, 0644, &err), -EISDIR);
	assert_int_equal(fd_write_file("none/f", "x", 1, 0644, &err), -ENOENT);
	assert_int_equal(count_entries("."), 2);
	/* What a crash in it left is taken over by the next, and removed with the file. */
	put("f.tmp", "much more than is written then");
	assert_int_equal(fd_write_file("f", "newest", 6, 0644, &err), 0);
	assert_int_equal(stat("f", &st), 0);
	assert_int_equal(st.st_size, 6);
	put("f.tmp", "half");
	assert_int_equal(fd_remove_file("f", &err), 0);
	assert_int_equal(fd_remove_file("f", &err), 0);
	assert_int_equal(count_entries("."), 1);
}

static void makes_directories(void **state)
{
	struct err err = ERR_INIT;
	struct stat st;
	_cleanup_free_ char *absolute = str_printf("%s//p//q/", (char *)*state);
	assert_int_equal(fd_mkdir_all("a/b/c", 0750, &err), 0);
	assert_int_equal(fd_mkdir_all("a/b/c", 0700, &err), 0);
	assert_int_equal(stat("a/b", &st), 0);
	assert_int_equal(st.st_mode & 0777, 0750);
	assert_int_equal(fd_mkdir_all(absolute, 0755, &err), 0);
	assert_int_equal(access("p/q", F_OK), 0);
	put("a/f", "");
	assert_int_equal(fd_mkdir_all("a/f", 0755, &err), -ENOTDIR);
	assert_int_equal(fd_mkdir_all("a/f/g", 0755, &err), -ENOTDIR);
	assert_int_equal(symlink("none", "dangling"), 0);
	assert_true(fd_mkdir_all("dangling/x", 0755, &err) < 0);
	assert_int_equal(fd_mkdir_all("/", 0755, &err), 0);
}

static void removes_trees(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	assert_int_equal(fd_remove_tree("none", &err), 0);
	assert_int_equal(fd_remove_tree("none/none", &err), 0);
	put("f", "");
	assert_int_equal(fd_remove_tree("f", &err), 0);
	assert_int_equal(access("f", F_OK), -1);
	assert_int_equal(fd_mkdir_all("t/a/b", 0755, &err), 0);
	put("t/a/f", "");
	assert_int_equal(mkfifo("t/a/fifo", 0600), 0);
	assert_int_equal(fd_remove_tree("t/", &err), 0);
	assert_int_equal(access("t", F_OK), -1);
	assert_int_equal(fd_remove_tree("/", &err), -EINVAL);
	assert_int_equal(fd_remove_tree("", &err), -EINVAL);
	assert_int_equal(fd_remove_tree("a/..", &err), -EINVAL);
}

/* False where the file system or our rights know no such flag. */
static bool set_flag(const char *path, int flag)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	int flags;
	assert_true(fd >= 0);
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
		return false;
	flags |= flag;
	return ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
}

static void removes_what_chattr_forbids_to(void **state)
{
	struct err err = ERR_INIT;
	(void)state;
	assert_int_equal(fd_mkdir_all("t/a/empty", 0755, NULL), 0);
	put("t/f", "");
	put("t/a/g", "");
	if (!set_flag("t/f", FS_IMMUTABLE_FL))
		skip();
	assert_true(set_flag("t/a/g", FS_APPEND_FL));
	assert_true(set_flag("t/a/empty", FS_IMMUTABLE_FL));
	assert_true(set_flag("t/a", FS_IMMUTABLE_FL));
	if (fd_remove_tree("t", &err) < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(access("t", F_OK), -1);
}

static void removing_follows_no_link(void **state)
{
	(void)state;
	assert_int_equal(fd_mkdir_all("outside", 0755, NULL), 0);
	put("outside/f", "kept");
	assert_int_equal(fd_mkdir_all("t/a", 0755, NULL), 0);
	assert_int_equal(symlink("../../outside", "t/a/link"), 0);
	assert_int_equal(symlink("none", "t/dangling"), 0);
	assert_int_equal(fd_remove_tree("t", NULL), 0);
	assert_int_equal(access("outside/f", F_OK), 0);
	assert_int_equal(symlink("outside", "link"), 0);
	assert_int_equal(fd_remove_tree("link", NULL), 0);
	assert_int_equal(access("outside/f", F_OK), 0);
}

static void removes_any_depth(void **state)
{
	enum { DEPTH = 500 };
	/* Names that the lifting uses itself must not disturb it. */
	assert_int_equal(fd_mkdir_all("t/.removing-0/.removing-1", 0755, NULL), 0);
	assert_int_equal(chdir("t"), 0);
	for (int i = 0; i < DEPTH; i++) {
		assert_int_equal(mkdir("deep", 0755), 0);
		assert_int_equal(chdir("deep"), 0);
	}
	put("f", "");
	assert_int_equal(chdir(*state), 0);
	struct err err = ERR_INIT;
	assert_int_equal(fd_remove_tree("t", &err), 0);
	assert_int_equal(access("t", F_OK), -1);
}

static void removing_stops_at_mounts(void **state)
{
	(void)state;
	if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		print_message("needs root and a mount namespace of its own\n");
		skip();
	}
	struct err err = ERR_INIT;
	assert_int_equal(fd_mkdir_all("volume/data", 0755, NULL), 0);
	put("volume/data/f", "kept");
	/* Of the same file system: only the mount gives it away. */
	assert_int_equal(fd_mkdir_all("t/a/bind", 0755, NULL), 0);
	assert_int_equal(mount("volume", "t/a/bind", NULL, MS_BIND, NULL), 0);
	assert_int_equal(fd_remove_tree("t", &err), -EBUSY);
	assert_non_null(strstr(err.msg, "bind"));
	assert_int_equal(access("volume/data/f", F_OK), 0);
	assert_int_equal(fd_remove_tree("t/a/bind", &err), -EBUSY);
	assert_int_equal(access("volume/data/f", F_OK), 0);
	assert_int_equal(umount("t/a/bind"), 0);

	assert_int_equal(mount("none", "t/a/bind", "tmpfs", 0, NULL), 0);
	put("t/a/bind/f", "kept");
	assert_int_equal(fd_remove_tree("t", &err), -EBUSY);
	assert_int_equal(access("t/a/bind/f", F_OK), 0);
	assert_int_equal(umount("t/a/bind"), 0);
	assert_int_equal(fd_remove_tree("t", &err), 0);
	assert_int_equal(access("t", F_OK), -1);
}

static void opens_no_way_over_links(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	assert_int_equal(fd_mkdir_all("d/e", 0755, NULL), 0);
	put("d/e/f", "");
	assert_int_equal(symlink("d", "link"), 0);
	assert_int_equal(symlink("f", "d/e/last"), 0);
	_cleanup_close_ int fd = fd_open_no_links("d/e/f", O_RDONLY, &err);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fd_open_no_links("link/e/f", O_PATH, &err), -ELOOP);
	assert_int_equal(fd_open_no_links("d/e/last", O_PATH, &err), -ELOOP);
	assert_int_equal(fd_open_no_links("d/none", O_PATH, &err), -ENOENT);
}

static void listens_and_connects(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	struct stat st;
	_cleanup_close_ int server = -EBADF;
	_cleanup_close_ int client = -EBADF;
	assert_int_equal(fd_unix_connect("s", &client, &err), -ENOENT);
	assert_int_equal(fd_unix_listen("s", 0606, &server, &err), 0);
	assert_int_equal(stat("s", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0606);
	assert_int_equal(fd_unix_connect("s", &client, &err), 0);
	_cleanup_close_ int accepted = accept(server, NULL, NULL);
	assert_true(accepted >= 0);
	assert_int_equal(accept(server, NULL, NULL), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(fcntl(client, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(client, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(server, F_GETFD), FD_CLOEXEC);

	int second = -EBADF;
	assert_int_equal(fd_unix_listen("s", 0600, &second, &err), -EADDRINUSE);
	assert_int_equal(second, -EBADF);
	server = fd_close(server);
	assert_int_equal(fd_unix_connect("s", &second, &err), -ECONNREFUSED);
	assert_int_equal(fd_unix_listen("s", 0600, &server, &err), 0);
}

static void a_busy_listener_is_not_replaced(void **state)
{
	(void)state;
	_cleanup_close_ int server = -EBADF;
	assert_int_equal(fd_unix_listen("s", 0600, &server, NULL), 0);
	assert_int_equal(listen(server, 0), 0);
	_cleanup_close_ int first = -EBADF;
	assert_int_equal(fd_unix_connect("s", &first, NULL), 0);
	int second = -EBADF;
	assert_int_equal(fd_unix_listen("s", 0600, &second, NULL), -EADDRINUSE);
}

static void sockets_do_not_replace_files(void **state)
{
	(void)state;
	struct err err = ERR_INIT;
	int fd = -EBADF;
	put("f", "precious");
	assert_int_equal(fd_unix_listen("f", 0600, &fd, &err), -EEXIST);
	assert_int_equal(access("f", F_OK), 0);
	char path[200];
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(fd_unix_listen(path, 0600, &fd, &err), -ENAMETOOLONG);
	assert_int_equal(fd_unix_connect(path, &fd, &err), -ENAMETOOLONG);
	assert_int_equal(fd, -EBADF);
}

static void sets_nonblocking(void **state)
{
	(void)state;
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	assert_int_equal(fd_set_nonblock(ends[0], NULL), 0);
	char c;
	assert_int_equal(read(ends[0], &c, 1), -1);
	assert_int_equal(errno, EAGAIN);
	close(ends[0]);
	close(ends[1]);
	assert_int_equal(fd_set_nonblock(ends[0], NULL), -EBADF);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(ownership_by_scope),
		TEST(formats_strings),
		TEST(reads_exactly),
		TEST(reads_whole_files),
		TEST(reads_files_beyond_a_chunk),
		TEST(writes_in_one_step),
		TEST(makes_directories),
		TEST(removes_trees),
		TEST(removes_what_chattr_forbids_to),
		TEST(removing_follows_no_link),
		TEST(removes_any_depth),
		TEST(removing_stops_at_mounts),
		TEST(opens_no_way_over_links),
		TEST(listens_and_connects),
		TEST(a_busy_listener_is_not_replaced),
		TEST(sockets_do_not_replace_files),
		TEST(sets_nonblocking),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
