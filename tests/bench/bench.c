/*
 * bulkhead-bench: what a pod costs over the bare machine, in time and memory.
 *
 * Absolute figures are the host's; so each round boots the raw machine and then runs a pod, both
 * from the same files, and what counts is how one stands to the other. A pod that is not counted
 * comes first: it gives the raw machine its command line and both their warm caches.
 *
 * It speaks CRI to a bulkheadd that tests/bench/run started for it alone. Its pods are removed in
 * any case. Exit codes: 0 measured, whatever the bars; 1 could not measure; 2 bad arguments.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "common/fd.h"
#include "cri-server/cli/options.h"
#include "tests/bench/clock.h"
#include "tests/bench/cri.h"
#include "tests/bench/disk.h"
#include "tests/bench/exec.h"
#include "tests/bench/frame.h"
#include "tests/bench/network.h"
#include "tests/bench/process.h"
#include "tests/bench/pull.h"
#include "tests/bench/raw.h"
#include "tests/bench/records.h"
#include "tests/bench/results.h"

/* Memory is looked at when what came up has come to rest. */
#define SETTLE_MS 1000
/* A pull is long, and does not vary as a boot does. */
#define PULL_ROUNDS    3
#define NETWORK_ROUNDS 5
#define RESTART_ROUNDS 10

static const char *const sleep_command[] = {"sleep", "86400", NULL};
static const char *const true_command[] = {"true", NULL};
static const char *const uname_command[] = {"uname", "-rv", NULL};

struct bench {
	/* As given. */
	const char *socket, *image, *dir, *output, *unwire, *cni;
	const char *large_image, *baseline_image, *crictl;
	uint64_t rounds, server_pid;
	struct pull_bench pull;
	struct disk_bench disk;
	struct records_bench records;
	/* Made on the way. */
	struct rpc_client *client;
	char *image_ref;
	struct raw_machine raw;
	struct results results;
};

static void settle(void)
{
	nanosleep(&(struct timespec){.tv_sec = SETTLE_MS / 1000,
			  .tv_nsec = SETTLE_MS % 1000 * 1000000L},
		NULL);
}

static void print_load(void)
{
	double load[1];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (getloadavg(load, 1) != 1)
		return;
	printf("load average     %.2f on %ld CPUs\n", load[0], cpus);
	if (load[0] > (double)cpus / 2)
		printf("                 WARNING: this host is busy; the figures are its, too\n");
}

static int print_host(struct bench *bench, const char *container, struct err *err)
{
	_cleanup_free_ char *guest = NULL;
	json_auto_t *info = NULL;
	struct utsname host;
	int r = cri_info(bench->client, NULL, &info, err);
	if (r == 0)
		r = cri_exec(bench->client, container, uname_command, &guest, err);
	if (r < 0 || !guest)
		return r;
	guest[strcspn(guest, "\n")] = '\0';
	uname(&host);
	printf("host kernel      %s\n", host.release);
	printf("guest kernel     %s\n", guest);
	const char *accelerator = json_string_value(json_object_get(info, "accelerator"));
	bench->results.kvm = accelerator && strcmp(accelerator, "kvm") == 0;
	static const char *const keys[][2] = {{"accelerator", "accelerator"},
		{"", "acceleratorReason"}, {"hypervisor", "hypervisor"},
		{"guest transport", "transport"}};
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const char *value = json_string_value(json_object_get(info, keys[i][1]));
		printf("%-16s %s\n", keys[i][0], value ? value : "?");
	}
	return 0;
}

static int measure_raw(struct bench *bench, struct err *err)
{
	struct raw_boot boot = RAW_BOOT_INIT;
	uint64_t ns;
	double mib = 0;
	int r = raw_boot(&bench->raw, &boot, &ns, err);
	if (r == 0)
		r = results_add(&bench->results, "raw.boot", (double)ns / 1e6, err);
	if (r == 0) {
		settle();
		r = process_memory_mib(boot.pid, "Pss", &mib, err);
	}
	raw_end(&boot);
	return r < 0 ? r : results_add(&bench->results, "raw.memory", mib, err);
}

/*
 * What RunPodSandbox does for the network but for what the plugins themselves take. Of the wiring,
 * which runs beside the boot, that is the wait for it.
 */
static int add_network_setup(struct bench *bench, const json_t *info, struct err *err)
{
	const json_t *steps = json_object_get(info, "bringUpMs");
	double ms = json_number_value(json_object_get(steps, "network")) +
		    json_number_value(json_object_get(steps, "wire")) -
		    json_number_value(json_object_get(info, "cniPluginsMs"));
	return results_add(&bench->results, "net.setup", ms, err);
}

static int add_steps(struct bench *bench, const char *pod, struct err *err)
{
	json_auto_t *info = NULL;
	json_t *value;
	const char *name;
	int r = cri_info(bench->client, pod, &info, err);
	if (r < 0)
		return r;
	json_object_foreach(json_object_get(info, "bringUpMs"), name, value) {
		char row[RESULTS_NAME_MAX];
		snprintf(row, sizeof(row), "sandbox.run.%s", name);
		r = results_add(&bench->results, row, json_number_value(value), err);
		if (r < 0)
			return r;
	}
	return add_network_setup(bench, info, err);
}

static int add_memory(struct bench *bench, const char *pod, struct err *err)
{
	pid_t pids[PROCESSES_MAX];
	double sum = 0;
	settle();
	int n = process_find(pod, pids, err);
	if (n <= 0)
		return n < 0 ? n : err_set(err, -ESRCH, "pod %s has no process", pod);
	for (int i = 0; i < n; i++) {
		double mib = 0;
		int r = process_memory_mib(pids[i], "Pss", &mib, err);
		if (r < 0)
			return r;
		sum += mib;
	}
	return results_add(&bench->results, "memory.pod", sum, err);
}

static int measure_container(struct bench *bench, const char *pod, struct err *err)
{
	_cleanup_free_ char *container = NULL;
	uint64_t begin = clock_ns();
	int r = cri_create_container(bench->client, pod,
		&(struct cri_container){.image = bench->image_ref, .command = sleep_command},
		&container, err);
	if (r == 0)
		r = results_add(&bench->results, "container.create", clock_ms_since(begin), err);
	begin = clock_ns();
	if (r == 0)
		r = cri_start_container(bench->client, container, err);
	if (r == 0)
		r = results_add(&bench->results, "container.start", clock_ms_since(begin), err);
	begin = clock_ns();
	if (r == 0)
		r = cri_exec(bench->client, container, true_command, NULL, err);
	if (r == 0)
		r = results_add(&bench->results, "exec.sync", clock_ms_since(begin), err);
	return r;
}

/* The error that is reported is the first. */
static int remove_pod(struct bench *bench, const char *pod, int before, struct err *err)
{
	struct err ignored = ERR_INIT;
	int r = cri_remove_pod(bench->client, pod, before < 0 ? &ignored : err);
	return before < 0 ? before : r;
}

static int measure_pod(struct bench *bench, unsigned round, struct err *err)
{
	_cleanup_free_ char *pod = NULL;
	char name[32];
	snprintf(name, sizeof(name), "bench-%u", round);
	uint64_t begin = clock_ns();
	int r = cri_run_pod(bench->client, name, bench->dir, &pod, err);
	if (r < 0)
		return r;
	r = results_add(&bench->results, "sandbox.run", clock_ms_since(begin), err);
	if (r == 0)
		r = add_steps(bench, pod, err);
	if (r == 0)
		r = measure_container(bench, pod, err);
	if (r == 0)
		r = add_memory(bench, pod, err);
	return remove_pod(bench, pod, r, err);
}

/* The QEMU among a pod's processes is the largest by far. */
static int learn_machine(struct bench *bench, const char *pod, struct err *err)
{
	pid_t pids[PROCESSES_MAX], qemu = 0;
	double most = 0, mib;
	int n = process_find(pod, pids, err);
	for (int i = 0; i < n; i++)
		if (process_memory_mib(pids[i], "Rss", &mib, err) == 0 && mib > most) {
			most = mib;
			qemu = pids[i];
		}
	if (qemu == 0)
		return n < 0 ? n : err_set(err, -ESRCH, "pod %s has no QEMU", pod);
	return raw_machine_learn(qemu, pod, bench->dir, &bench->raw, err);
}

static int prepare(struct bench *bench, struct err *err)
{
	_cleanup_free_ char *pod = NULL, *container = NULL;
	int r = cri_pull(bench->client, bench->image, &bench->image_ref, err);
	if (r == 0)
		r = cri_run_pod(bench->client, "bench-first", bench->dir, &pod, err);
	if (r < 0)
		return r;
	r = cri_create_container(bench->client, pod,
		&(struct cri_container){.image = bench->image_ref, .command = sleep_command},
		&container, err);
	if (r == 0)
		r = cri_start_container(bench->client, container, err);
	if (r == 0)
		r = print_host(bench, container, err);
	if (r == 0)
		r = learn_machine(bench, pod, err);
	return remove_pod(bench, pod, r, err);
}

static int measure_network(struct bench *bench, struct err *err)
{
	const struct network_bench network = {
		.client = bench->client,
		.image_ref = bench->image_ref,
		.dir = bench->dir,
		.wiring = {bench->unwire, bench->dir},
		.rounds = NETWORK_ROUNDS,
	};
	const struct frame_bench frame = {.conf_dir = bench->cni, .wiring = network.wiring};
	int r = network_measure(&network, &bench->results, err);
	return r < 0 ? r : frame_measure(&frame, &bench->results, err);
}

/* After the pulls, for which no server had an image. */
static int measure_containers(struct bench *bench, struct err *err)
{
	struct disk_bench *disk = &bench->disk;
	_cleanup_free_ char *large = NULL, *baseline = NULL;
	int r = rpc_client_new(bench->pull.baseline.socket, &disk->baseline.client, err);
	if (r == 0)
		r = cri_pull(disk->baseline.client, bench->baseline_image, &baseline, err);
	if (r == 0)
		r = cri_pull(bench->client, bench->large_image, &large, err);
	if (r == 0) {
		disk->ours = (struct bench_peer){bench->client, bench->image_ref};
		disk->baseline.image = baseline;
		disk->dir = bench->dir;
		r = container_measure(
			&disk->ours, &disk->baseline, bench->dir, &bench->results, err);
	}
	if (r == 0) {
		const struct exec_bench exec = {.ours = disk->ours,
			.baseline = disk->baseline,
			.our_socket = bench->socket,
			.baseline_socket = bench->pull.baseline.socket,
			.crictl = bench->crictl,
			.dir = bench->dir};
		r = exec_measure(&exec, &bench->results, err);
	}
	disk->ours.image = large;
	if (r == 0)
		r = disk_measure(disk, &bench->results, err);
	rpc_client_free(disk->baseline.client);
	return r;
}

static int measure(struct bench *bench, struct err *err)
{
	double mib, ms;
	int r = prepare(bench, err);
	if (r == 0)
		r = records_start(&bench->records, &ms, err);
	for (unsigned round = 1; r == 0 && round <= bench->rounds; round++) {
		if (isatty(STDERR_FILENO))
			fprintf(stderr, "round %u of %u\r", round, (unsigned)bench->rounds);
		r = measure_raw(bench, err);
		if (r == 0)
			r = measure_pod(bench, round, err);
		if (r == 0)
			r = records_list(&bench->records, &bench->results, err);
	}
	if (r == 0)
		r = records_restart(&bench->records, RESTART_ROUNDS, &bench->results, err);
	records_done(&bench->records);
	if (r == 0)
		r = measure_network(bench, err);
	if (r == 0)
		r = pull_measure(&bench->pull, &bench->results, err);
	if (r == 0)
		r = measure_containers(bench, err);
	/* What the server has for itself alone and what it shares: the more severe figure. */
	if (r == 0)
		r = process_memory_mib((pid_t)bench->server_pid, "Rss", &mib, err);
	if (r == 0)
		r = results_add(&bench->results, "memory.server", mib, err);
	return r < 0 ? r : results_check(&bench->results, err);
}

static int run(struct bench *bench, struct err *err)
{
	print_load();
	int r = rpc_client_new(bench->socket, &bench->client, err);
	if (r == 0)
		r = measure(bench, err);
	if (r == 0) {
		printf("\n%u rounds, medians:\n", (unsigned)bench->rounds);
		results_print(&bench->results, stdout);
		r = results_write(&bench->results, bench->output, err);
	}
	rpc_client_free(bench->client);
	records_done(&bench->records);
	raw_machine_done(&bench->raw);
	free(bench->image_ref);
	return r;
}

int main(int argc, char **argv)
{
	struct bench bench = {.rounds = 10};
	(void)argc;
	const struct option_row options[] = {
		{"socket", 0, OPTION_STRING, &bench.socket, "PATH", "where bulkheadd serves"},
		{"bulkheadd", 0, OPTION_STRING, &bench.records.program, "PROGRAM", "bulkheadd"},
		{"records-config", 0, OPTION_STRING, &bench.records.config, "FILE",
			"of a bulkheadd with 1000 images, pods and containers"},
		{"records-socket", 0, OPTION_STRING, &bench.records.socket, "PATH",
			"where that one serves"},
		{"server-pid", 0, OPTION_NUMBER, &bench.server_pid, "PID", "bulkheadd's"},
		{"image", 0, OPTION_STRING, &bench.image, "REF",
			"an image with busybox's programs"},
		{"dir", 0, OPTION_STRING, &bench.dir, "DIR", "for logs and the raw machine's disk"},
		{"unwire", 0, OPTION_STRING, &bench.unwire, "PROGRAM",
			"makes a pod's tap a port of the bridge"},
		{"cni", 0, OPTION_STRING, &bench.cni, "DIR", "the configuration of that bridge"},
		{"rounds", 0, OPTION_NUMBER, &bench.rounds, "N", "default 10"},
		{"images-dir", 0, OPTION_STRING, &bench.pull.ours.directory, "DIR",
			"where bulkheadd has images"},
		{"containerd", 0, OPTION_STRING, &bench.pull.baseline.socket, "PATH",
			"where containerd serves"},
		{"containerd-dir", 0, OPTION_STRING, &bench.pull.baseline.directory, "DIR",
			"containerd's root"},
		{"pull", 0, OPTION_STRING, &bench.pull.first, "REF", "a large image"},
		{"pull-shared", 0, OPTION_STRING, &bench.pull.shared, "REF",
			"one that has all its layers but one"},
		{"large-image", 0, OPTION_STRING, &bench.large_image, "REF",
			"one with busybox's programs and /large"},
		{"containerd-image", 0, OPTION_STRING, &bench.baseline_image, "REF",
			"for containerd, like --image"},
		{"volume", 0, OPTION_STRING, &bench.disk.volume, "DIR",
			"with disk_load and a file 'large'"},
		{"crictl", 0, OPTION_STRING, &bench.crictl, "PROGRAM", "crictl"},
		{"output", 0, OPTION_STRING, &bench.output, "FILE", "the results as JSON"},
	};
	struct err err = ERR_INIT;
	char **rest;
	int r = options_parse(options, ARRAY_SIZE(options), argv + 1, &rest, &err);
	if (r != 0 || *rest || !bench.socket || !bench.server_pid || !bench.image || !bench.dir ||
		!bench.output || !bench.unwire || !bench.cni || !bench.records.program ||
		!bench.records.config || !bench.records.socket || !bench.pull.ours.directory ||
		!bench.pull.baseline.socket || !bench.pull.baseline.directory ||
		!bench.pull.first || !bench.pull.shared || !bench.large_image ||
		!bench.baseline_image || !bench.crictl || !bench.disk.volume || bench.rounds == 0 ||
		bench.rounds > RESULTS_SAMPLES_MAX) {
		fprintf(stderr, "%s%sbulkhead-bench takes all of these:\n", err.msg,
			err.msg[0] ? "; " : "");
		options_help(stderr, options, ARRAY_SIZE(options));
		return 2;
	}
	bench.pull.ours.socket = bench.socket;
	bench.pull.server_pid = (pid_t)bench.server_pid;
	bench.pull.rounds = PULL_ROUNDS;
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (run(&bench, &err) < 0) {
		fprintf(stderr, "bench: %s\n", err.msg);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
