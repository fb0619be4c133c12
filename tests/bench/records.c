#include "tests/bench/records.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "tests/bench/clock.h"
#include "tests/bench/cri.h"

#define RECORDS  1000
#define START_MS 120000 /* the first one asks QEMU what it can */
#define LOOK_MS  2

static void __attribute__((noreturn)) run_server(const struct records_bench *bench)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (null >= 0 && dup2(null, 0) >= 0 && dup2(null, 1) >= 0 && dup2(null, 2) >= 0)
		execl(bench->program, bench->program, "--config", bench->config, NULL);
	_exit(127);
}

static void end(struct records_bench *bench)
{
	bench->client = rpc_client_free(bench->client);
	if (bench->pid > 0) {
		kill(bench->pid, SIGTERM);
		waitpid(bench->pid, NULL, 0);
	}
	bench->pid = 0;
}

static int connect_to(struct records_bench *bench, uint64_t begin, struct err *err)
{
	while (rpc_client_new(bench->socket, &bench->client, err) < 0) {
		if (waitpid(bench->pid, NULL, WNOHANG) != 0) {
			bench->pid = 0;
			return err_set(err, -EIO, "bulkheadd ended at once");
		}
		if (clock_ms_since(begin) > START_MS)
			return err_set(err, -ETIMEDOUT, "bulkheadd does not serve");
		nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
	}
	return 0;
}

int records_start(struct records_bench *bench, double *ret_ms, struct err *err)
{
	end(bench);
	uint64_t begin = clock_ns();
	bench->pid = fork();
	if (bench->pid < 0)
		return err_errno(err, "fork");
	if (bench->pid == 0)
		run_server(bench);
	int r = connect_to(bench, begin, err);
	if (r == 0)
		r = cri_list(bench->client, CRI_LIST_CONTAINERS, RECORDS, err);
	*ret_ms = clock_ms_since(begin);
	return r < 0 ? err_wrap(err, "the server with %d records", RECORDS) : 0;
}

void records_done(struct records_bench *bench)
{
	end(bench);
}

int records_list(const struct records_bench *bench, struct results *results, struct err *err)
{
	static const struct {
		enum cri_list list;
		const char *row;
	} lists[] = {{CRI_LIST_IMAGES, "image.list_1000"},
		{CRI_LIST_CONTAINERS, "list.containers_1000"},
		{CRI_LIST_SANDBOXES, "list.sandboxes_1000"},
		{CRI_LIST_CONTAINER_STATS, "list.container_stats_1000"}};
	int r = 0;
	for (size_t i = 0; i < ARRAY_SIZE(lists) && r == 0; i++) {
		uint64_t begin = clock_ns();
		r = cri_list(bench->client, lists[i].list, RECORDS, err);
		if (r == 0)
			r = results_add(results, lists[i].row, clock_ms_since(begin), err);
	}
	return r;
}

int records_restart(
	struct records_bench *bench, unsigned rounds, struct results *results, struct err *err)
{
	int r = 0;
	for (unsigned i = 0; i < rounds && r == 0; i++) {
		double ms;
		r = records_start(bench, &ms, err);
		if (r == 0)
			r = results_add(results, "restart.1000_records", ms, err);
	}
	return r;
}
