#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/fsck/fsck.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/store.h"
#include "hypervisor/cgroup.h"

#define READY    "11111111111111111111111111111111"
#define STOPPED  "22222222222222222222222222222222"
#define UNKNOWN  "33333333333333333333333333333333"
#define CREATING "44444444444444444444444444444444"
#define LAYER    "sha256:5555"

struct node {
	char state[64];
	char run[80];
	char uri[128];
	struct config config;
	struct store *store;
};

static int set_up(void **state)
{
	struct node *node = calloc(1, sizeof(*node));
	if (!node)
		return -1;
	snprintf(node->state, sizeof(node->state), "/tmp/fsck-test-XXXXXX");
	if (!mkdtemp(node->state))
		return -1;
	snprintf(node->run, sizeof(node->run), "%s/run", node->state);
	snprintf(node->uri, sizeof(node->uri), "qemu:///embed?root=%s/libvirt", node->state);
	node->config = (struct config){.state_dir = node->state,
		.run_dir = node->run,
		.hypervisor.libvirt_uri = node->uri};
	char path[96];
	snprintf(path, sizeof(path), "%s/state.db", node->state);
	*state = node;
	return store_open(path, &node->store, NULL);
}

static int tear_down(void **state)
{
	struct node *node = *state;
	store_close(node->store);
	int r = fd_remove_tree(node->state, NULL);
	free(node);
	return r;
}

static void put_text(const struct node *node, const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", node->state, name);
	assert_non_null(path);
	char *slash = strrchr(path, '/');
	*slash = '\0';
	assert_int_equal(fd_mkdir_all(path, 0755, NULL), 0);
	*slash = '/';
	assert_int_equal(fd_write_file(path, text, strlen(text), 0644, NULL), 0);
}

static void put_file(const struct node *node, const char *name)
{
	put_text(node, name, "x");
}

static void put_pod(const struct node *node, const char *id, Bulkhead__Store__SandboxState state,
	bool network_released)
{
	Bulkhead__Store__Sandbox record = BULKHEAD__STORE__SANDBOX__INIT;
	record.state = state;
	record.network_released = network_released;
	assert_int_equal(store_put(node->store, STORE_SANDBOX, id, &record.base, NULL), 0);
}

static struct fsck_report *look(const struct node *node)
{
	struct fsck_report *report = NULL;
	struct err err = ERR_INIT;
	if (fsck_look(&node->config, NULL, &report, &err) < 0)
		fail_msg("%s", err.msg);
	return report;
}

static bool found(const struct fsck_report *report, const char *id, const char *problem)
{
	for (size_t i = 0; i < report->n_findings; i++)
		if (strstr(report->findings[i].id, id) &&
			strstr(report->findings[i].problem, problem))
			return true;
	return false;
}

static void assert_findings(const struct fsck_report *report, size_t n)
{
	if (report->n_findings != n)
		for (size_t i = 0; i < report->n_findings; i++)
			print_message("%s %s: %s\n", report->findings[i].kind,
				report->findings[i].id, report->findings[i].problem);
	assert_int_equal(report->n_findings, n);
}

static void a_node_without_pods_is_clean(void **state)
{
	struct fsck_report *report = look(*state);
	assert_findings(report, 0);
	assert_false(report->serving); /* the records are this test's */
	fsck_report_free(report);
}

static void a_stopped_pod_that_has_its_disk_only_is_clean(void **state)
{
	struct node *node = *state;
	put_pod(node, STOPPED, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY, true);
	put_file(node, "scratch/" STOPPED ".ext4");
	struct fsck_report *report = look(node);
	assert_findings(report, 0);
	fsck_report_free(report);
}

static void what_a_pod_that_runs_lacks_is_found(void **state)
{
	struct node *node = *state;
	put_pod(node, READY, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY, false);
	struct fsck_report *report = look(node);
	static const char *const lacks[] = {"no machine's directory", "no network namespace",
		"no CNI attachment", "no scratch disk", "no process qemu-system-x86",
		"no process virtiofsd"};
	for (size_t i = 0; i < ARRAY_SIZE(lacks); i++)
		assert_true(found(report, READY, lacks[i]));
	assert_findings(report, ARRAY_SIZE(lacks));
	fsck_report_free(report);
}

static void what_a_pod_that_is_gone_left_is_found(void **state)
{
	struct node *node = *state;
	static const char *const left[] = {"run/vm/" UNKNOWN "/console.pid",
		"run/netns/bh-" UNKNOWN, "cni/" UNKNOWN ".json", "scratch/" UNKNOWN ".ext4",
		"logs/" UNKNOWN, "libvirt/run/qemu/bh-" UNKNOWN ".xml",
		"libvirt/log/qemu/bh-" UNKNOWN ".log",
		"libvirt/lib/qemu/domain-3-bh-33333333333333333/master-key.aes",
		"libvirt/lib/qemu/ram/3-bh-33333333333333333/x"};
	for (size_t i = 0; i < ARRAY_SIZE(left); i++)
		put_file(node, left[i]);
	struct fsck_report *report = look(node);
	for (size_t i = 0; i < ARRAY_SIZE(left); i++) {
		/* Up to the part with the id. */
		const char *end = strstr(left[i], "33333333333333333");
		_cleanup_free_ char *name = str_printf("%.*s", (int)(end - left[i]) + 17, left[i]);
		assert_non_null(name);
		assert_true(found(report, name, "has no record"));
	}
	assert_findings(report, ARRAY_SIZE(left));
	fsck_report_free(report);
}

static void what_a_stopped_pod_still_has_is_found(void **state)
{
	struct node *node = *state;
	put_pod(node, STOPPED, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY, false);
	put_file(node, "run/vm/" STOPPED "/console.pid");
	put_file(node, "cni/" STOPPED ".json"); /* until StopPodSandbox */
	struct fsck_report *report = look(node);
	assert_true(found(report, STOPPED, "still has its machine's directory"));
	assert_findings(report, 1);
	fsck_report_free(report);
	put_pod(node, STOPPED, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY, true);
	report = look(node);
	assert_true(found(report, STOPPED, "still has its CNI attachment"));
	assert_findings(report, 2);
	fsck_report_free(report);
}

/* A program of that name that was told of the machine's directory, as the helpers are. */
static pid_t start_helper(const struct node *node, const char *run_dir, int *ret_stdin)
{
	char link[96], dir[160];
	int pipes[2];
	snprintf(link, sizeof(link), "%s/bulkhead-vsock", node->state);
	snprintf(dir, sizeof(dir), "%s/vm/" UNKNOWN "/vsock.sock", run_dir);
	assert_int_equal(symlink("/bin/sh", link), 0);
	assert_int_equal(pipe(pipes), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		dup2(pipes[0], 0);
		dup2(pipes[0], 1);
		close(pipes[1]);
		execl(link, link, "-c", "read x", dir, NULL);
		_exit(127);
	}
	close(pipes[0]);
	*ret_stdin = pipes[1];
	return pid;
}

static void await_program(pid_t pid)
{
	_cleanup_free_ char *path = str_printf("/proc/%d/comm", pid);
	bool is_there = false;
	assert_non_null(path);
	for (int i = 0; i < 1500 && !is_there; i++) {
		_cleanup_free_ char *name = NULL;
		assert_int_equal(fd_read_file(path, 64, &name, NULL, NULL), 0);
		is_there = strcmp(name, "bulkhead-vsock\n") == 0;
		usleep(20000);
	}
	assert_true(is_there);
}

static void a_process_that_nobody_knows_is_found(void **state)
{
	struct node *node = *state;
	int input;
	pid_t pid = start_helper(node, node->run, &input);
	char who[32];
	snprintf(who, sizeof(who), "bulkhead-vsock %d", pid);
	await_program(pid);
	struct fsck_report *report = look(node);
	bool seen = found(report, who, "of pod " UNKNOWN);
	fsck_report_free(report);
	close(input);
	waitpid(pid, NULL, 0);
	assert_true(seen);
	report = look(node);
	assert_findings(report, 0);
	fsck_report_free(report);
}

/* Its directory ends as ours does. */
static void a_process_of_another_bulkheadd_is_none_of_ours(void **state)
{
	struct node *node = *state;
	char run_dir[96];
	int input;
	snprintf(run_dir, sizeof(run_dir), "/elsewhere%s", node->run);
	pid_t pid = start_helper(node, run_dir, &input);
	await_program(pid);
	struct fsck_report *report = look(node);
	close(input);
	waitpid(pid, NULL, 0);
	assert_findings(report, 0);
	fsck_report_free(report);
}

static void a_cgroup_that_nobody_knows_is_found_where_it_is_ours(void **state)
{
	struct node *node = *state;
	struct cgroups cgroups = {0};
	struct err err = ERR_INIT;
	char parent[64], path[128];
	assert_int_equal(cgroups_read("/proc/self/mountinfo", &cgroups, &err), 0);
	snprintf(parent, sizeof(parent), "/fsck-test-%d", (int)getpid());
	snprintf(path, sizeof(path), "%s/bulkhead-" UNKNOWN, parent);
	bool able = cgroups.n > 0 && cgroups_make(&cgroups, path, node->run, &err) == 0;
	_cleanup_free_ char *dir = able ? str_printf("%s%s", cgroups.items[0].mount, path) : NULL;
	able = dir && cgroup_is_of(dir, node->run);
	struct fsck_report *report = look(node);
	if (able)
		assert_true(found(report, path, "cgroup of a pod that has no record"));
	fsck_report_free(report);
	node->config.run_dir = "/run/another";
	report = look(node);
	cgroups_remove(&cgroups, path, NULL);
	cgroups_remove(&cgroups, parent, NULL);
	cgroups_done(&cgroups);
	assert_findings(report, 0);
	fsck_report_free(report);
	if (!able)
		skip(); /* not root, or hierarchies that take no notes */
}

static void records_that_contradict_each_other_are_found(void **state)
{
	struct node *node = *state;
	Bulkhead__Store__Container c = BULKHEAD__STORE__CONTAINER__INIT;
	char *layers[] = {LAYER};
	c.state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
	c.sandbox_id = STOPPED;
	put_pod(node, STOPPED, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY, true);
	put_pod(node, CREATING, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_CREATING, false);
	assert_int_equal(store_put(node->store, STORE_CONTAINER, READY, &c.base, NULL), 0);
	c.state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED;
	c.sandbox_id = UNKNOWN;
	c.layers = layers;
	c.n_layers = 1;
	assert_int_equal(store_put(node->store, STORE_CONTAINER, CREATING, &c.base, NULL), 0);
	struct fsck_report *report = look(node);
	assert_true(found(report, READY, "recorded as running, and its pod " STOPPED " is not"));
	assert_true(found(report, CREATING, "its pod " UNKNOWN " has no record"));
	assert_true(found(report, CREATING, "its layer " LAYER " has no record"));
	assert_true(found(report, CREATING, "is half-made"));
	assert_findings(report, 4);
	fsck_report_free(report);
}

static void images_and_their_files_are_compared(void **state)
{
	struct node *node = *state;
	Bulkhead__Store__Image image = BULKHEAD__STORE__IMAGE__INIT;
	Bulkhead__Store__Layer layer = BULKHEAD__STORE__LAYER__INIT;
	char *layers[] = {LAYER, "sha256:6666"}, *blobs[] = {"sha256:7777", "sha256:8888"};
	image.layers = layers;
	image.n_layers = 2;
	image.blobs = blobs;
	image.n_blobs = 2;
	assert_int_equal(store_put(node->store, STORE_IMAGE, "sha256:1", &image.base, NULL), 0);
	assert_int_equal(store_put(node->store, STORE_LAYER, LAYER, &layer.base, NULL), 0);
	assert_int_equal(store_put(node->store, STORE_LAYER, "sha256:9999", &layer.base, NULL), 0);
	put_file(node, "images/layers/5555.erofs");
	put_file(node, "images/layers/aaaa.erofs");
	put_file(node, "images/blobs/sha256/7777");
	put_file(node, "images/blobs/sha256/bbbb");
	struct fsck_report *report = look(node);
	assert_true(found(report, "sha256:1", "its layer sha256:6666 has no record"));
	assert_true(found(report, "sha256:1", "its blob sha256:8888 is missing"));
	assert_true(found(report, "sha256:9999", "is missing"));
	assert_true(found(report, "sha256:9999", "no image and no container needs it"));
	assert_true(found(report, "layers/aaaa.erofs", "file of a layer that has no record"));
	assert_true(found(report, "sha256/bbbb", "blob that no image has"));
	assert_findings(report, 6);
	fsck_report_free(report);
}

/* A network of host-local's whose leases are below `state_dir`/<dir>/<network>. */
static void put_network(const struct node *node, const char *network, const char *dir)
{
	_cleanup_free_ char *text =
		str_printf("{\"cniVersion\": \"1.0.0\", \"name\": \"%s\", \"plugins\": [{\"type\": "
			   "\"bridge\", "
			   "\"ipam\": {\"type\": \"host-local\", \"dataDir\": \"%s/%s\"}}]}",
			network, node->state, dir);
	assert_non_null(text);
	put_text(node, "net.d/10-net.conflist", text);
}

static void put_attachment(const struct node *node, const char *id, const char *network)
{
	_cleanup_free_ char *name = str_printf("cni/%s.json", id);
	_cleanup_free_ char *text = str_printf(
		"{\"format\": 1, \"id\": \"%s\", \"netns\": \"/x\", \"args\": \"\", \"version\": "
		"\"1.0.0\", \"plugins\": [{\"type\": \"bridge\", \"name\": \"%s\", \"cniVersion\": "
		"\"1.0.0\", \"ipam\": {\"type\": \"host-local\", \"dataDir\": \"%s/old\"}}], "
		"\"result\": {\"cniVersion\": \"1.0.0\"}}",
		id, network, node->state);
	assert_non_null(name);
	assert_non_null(text);
	put_text(node, name, text);
}

static void leases_of_addresses_have_pods_and_pods_their_leases(void **state)
{
	struct node *node = *state;
	_cleanup_free_ char *conf_dir = str_printf("%s/net.d", node->state);
	node->config.network.conf_dir = conf_dir;
	put_network(node, "now", "new");
	put_pod(node, STOPPED, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY, true);
	put_pod(node, READY, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY, false);
	put_attachment(node, READY, "before"); /* the node's network has changed since */
	put_text(node, "new/now/lock", "");
	put_text(node, "new/now/last_reserved_ip.0", "10.0.0.4");
	put_text(node, "new/now/10.0.0.2", UNKNOWN "\r\neth0");
	put_text(node, "new/now/10.0.0.3", STOPPED "\r\neth0");
	put_text(node, "new/now/10.0.0.4", UNKNOWN UNKNOWN "\r\neth0"); /* another runtime's */
	put_text(node, "new/else/10.0.0.2", UNKNOWN "\r\neth0");
	struct fsck_report *report = look(node);
	assert_true(found(report, "/new/now/10.0.0.2", "of pod " UNKNOWN ", which has no record"));
	assert_true(found(report, STOPPED, "still has its address"));
	assert_true(found(report, READY, "may give its address away"));
	assert_false(found(report, "10.0.0.4", ""));
	assert_false(found(report, "/new/else", ""));
	fsck_report_free(report);
	put_text(node, "old/before/10.0.0.9", READY "\r\neth0");
	put_text(node, "old/before/fd00::9", UNKNOWN); /* as the plugin's first versions wrote it */
	report = look(node);
	assert_false(found(report, READY, "may give its address away"));
	assert_true(found(report, "/old/before/fd00::9", "which has no record"));
	fsck_report_free(report);
	node->config.network.conf_dir = NULL;
}

static void only_what_lasts_is_kept(void **state)
{
	struct node *node = *state;
	put_file(node, "scratch/" UNKNOWN ".ext4");
	struct fsck_report *first = look(node);
	put_file(node, "cni/" UNKNOWN ".json");
	struct fsck_report *second = look(node);
	assert_findings(second, 2);
	fsck_keep_common(second, first);
	assert_findings(second, 1);
	assert_true(found(second, "scratch/" UNKNOWN, "has no record"));
	fsck_report_free(first);
	fsck_report_free(second);
}

static void without_records_it_says_what_to_look_at(void **state)
{
	struct node *node = *state;
	struct fsck_report *report = NULL;
	struct err err = ERR_INIT;
	node->config.state_dir = "/nonexistent";
	assert_int_equal(fsck_look(&node->config, NULL, &report, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "is state_dir right"));
	node->config.state_dir = node->state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(a_node_without_pods_is_clean),
		TEST(a_stopped_pod_that_has_its_disk_only_is_clean),
		TEST(what_a_pod_that_runs_lacks_is_found),
		TEST(what_a_pod_that_is_gone_left_is_found),
		TEST(what_a_stopped_pod_still_has_is_found),
		TEST(a_process_that_nobody_knows_is_found),
		TEST(a_process_of_another_bulkheadd_is_none_of_ours),
		TEST(a_cgroup_that_nobody_knows_is_found_where_it_is_ours),
		TEST(records_that_contradict_each_other_are_found),
		TEST(images_and_their_files_are_compared),
		TEST(leases_of_addresses_have_pods_and_pods_their_leases),
		TEST(only_what_lasts_is_kept),
		TEST(without_records_it_says_what_to_look_at),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
