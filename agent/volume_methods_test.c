/*
 * Calls about volumes that meet each other, with the real server in a mount namespace of its own,
 * which needs root: skips otherwise. A host whose call was not answered in time repeats it, and the
 * guest, once it runs again, has both.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/test_server.h"
#include "common/fd.h"

#define CALL_MS 60000
#define FILES   3000 /* so many take the guest a while */
#define NAME    "v1"

/* One WriteVolume of a link "..data" to a directory with some files. */
struct content {
	struct agent *agent;
	Bulkhead__Agent__WriteVolumeRequest request;
	Bulkhead__Agent__VolumeEntry entries[FILES + 2];
	Bulkhead__Agent__VolumeEntry *pointers[FILES + 2];
	char paths[FILES + 2][32];
	int result;
	struct err err;
};

static void add(struct content *content, mode_t mode, const char *path)
{
	size_t i = content->request.n_entries++;
	Bulkhead__Agent__VolumeEntry *entry = content->pointers[i] = &content->entries[i];
	bulkhead__agent__volume_entry__init(entry);
	snprintf(content->paths[i], sizeof(content->paths[i]), "%s", path);
	entry->path = content->paths[i];
	entry->mode = mode;
}

static void content_init(
	struct content *content, struct agent *agent, const char *directory, unsigned files)
{
	char path[32];
	content->agent = agent;
	bulkhead__agent__write_volume_request__init(&content->request);
	content->request.name = (char *)NAME;
	content->request.entries = content->pointers;
	add(content, S_IFDIR | 0755, directory);
	for (unsigned i = 0; i < files; i++) {
		snprintf(path, sizeof(path), "%s/%u", directory, i);
		add(content, S_IFREG | 0644, path);
	}
	add(content, S_IFLNK | 0777, "..data");
	content->entries[files + 1].target = (char *)directory;
}

static void *write_content(void *userdata)
{
	struct content *content = userdata;
	content->result = agent_call(content->agent, "WriteVolume", &content->request.base, CALL_MS,
		NULL, &content->err);
	return NULL;
}

static int make_volume(struct agent *agent, struct err *err)
{
	Bulkhead__Agent__MakeVolumeRequest request = BULKHEAD__AGENT__MAKE_VOLUME_REQUEST__INIT;
	request.name = (char *)NAME;
	request.size_bytes = 64u << 20;
	request.mode = 0755;
	return agent_call(agent, "MakeVolume", &request.base, CALL_MS, NULL, err);
}

static void wait_for_file(const char *path)
{
	while (access(path, F_OK) < 0)
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

/* The later one counts, also where the earlier one takes longer. */
static void test_later_content_stays(void **state)
{
	struct test_client *context = *state;
	static struct content before, after;
	struct err err = ERR_INIT;
	pthread_t thread;
	char target[32] = "";
	assert_int_equal(make_volume(context->agent, &err), 0);
	content_init(&before, context->agent, "before", FILES);
	content_init(&after, context->agent, "after", 1);
	assert_int_equal(pthread_create(&thread, NULL, write_content, &before), 0);
	wait_for_file(AGENT_VOLUMES "/" NAME "/before/0");
	write_content(&after);
	pthread_join(thread, NULL);
	if (before.result < 0 || after.result < 0)
		fail_msg("%s; %s", before.err.msg, after.err.msg);
	assert_true(readlink(AGENT_VOLUMES "/" NAME "/..data", target, sizeof(target) - 1) > 0);
	assert_string_equal(target, "after");
	assert_int_equal(access(AGENT_VOLUMES "/" NAME "/after/0", F_OK), 0);
	assert_int_equal(access(AGENT_VOLUMES "/" NAME "/before", F_OK), -1);
}

static bool in_namespace(void)
{
	return geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
	       mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("tmpfs", "/run", "tmpfs", 0, NULL) == 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_later_content_stays, test_client_setup, test_client_teardown),
	};
	if (!in_namespace()) {
		puts("skipped: needs root and a mount namespace");
		return 0;
	}
	return cmocka_run_group_tests_name("volume_methods", tests, NULL, NULL);
}
