/*
 * What a machine's helpers cost, seen at processes of the test's own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/proc.h"
#include "hypervisor/internal.h"

#define ID        "pod1"
#define CHILD_MIB 32u

struct room {
	char run_dir[32];
	char *dir;
	pid_t parent;
};

/* As virtiofsd is: the first process waits for its child, which serves. */
static void __attribute__((noreturn)) be_helper(int ready)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (fork() == 0) {
		size_t size = (size_t)CHILD_MIB << 20;
		void *memory = mmap(
			NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (memory != MAP_FAILED)
			memset(memory, 1, size);
		if (write(ready, "r", 1) != 1)
			_exit(1);
	}
	for (;;)
		pause();
}

static void write_record(const struct room *room)
{
	_cleanup_free_ char *path = str_printf("%s/share.pid", room->dir), *text = NULL;
	struct err err = ERR_INIT;
	uint64_t start;

	assert_int_equal(proc_start_time(room->parent, &start), 0);
	text = str_printf("%d %" PRIu64 "\n", room->parent, start);
	assert_int_equal(fd_write_file(path, text, strlen(text), 0600, &err), 0);
}

static int set_up(void **state)
{
	struct room *room = calloc(1, sizeof(*room));
	struct err err = ERR_INIT;
	int ready[2];
	char byte;

	strcpy(room->run_dir, "/tmp/cost-test-XXXXXX");
	assert_non_null(mkdtemp(room->run_dir));
	room->dir = str_printf("%s/vm/" ID, room->run_dir);
	assert_int_equal(fd_mkdir_all(room->dir, 0755, &err), 0);
	assert_int_equal(pipe(ready), 0);
	room->parent = fork();
	if (room->parent == 0)
		be_helper(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	write_record(room);
	*state = room;
	return 0;
}

static int tear_down(void **state)
{
	struct room *room = *state;

	kill(room->parent, SIGKILL);
	waitpid(room->parent, NULL, 0);
	fd_remove_tree(room->run_dir, NULL);
	free(room->dir);
	free(room);
	return 0;
}

static void test_who_serves_counts(void **state)
{
	const struct room *room = *state;
	struct hv hv = {.config.run_dir = room->run_dir, .state_dir = (char *)"/nowhere"};
	struct hv_cost cost;
	struct err err = ERR_INIT;

	assert_int_equal(hv_vm_cost(&hv, ID, &cost, &err), 0);
	assert_int_equal(cost.processes, 2);
	assert_true(cost.rss_bytes > (uint64_t)CHILD_MIB << 20);
	assert_true(cost.pss_bytes > (uint64_t)CHILD_MIB << 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_who_serves_counts, set_up, tear_down),
	};

	alarm(60); /* one that waits for ever fails */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
