/*
 * bulkheadd: reads the configuration, opens everything in the order of dependence, serves until
 * SIGTERM or SIGINT, and closes in reverse. Pods go on without it.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/threads.h"
#include "cri-server/config.h"
#include "cri-server/daemon.h"
#include "cri-server/image/service.h"
#include "cri-server/rpc/server.h"
#include "cri-server/runtime/steps.h"
#include "cri-server/version.h"

#define STOP_GRACE_MS 10000
/* Each pod costs a few descriptors, each stream one. */
#define FDS_WANTED 65536
/* Ours, libvirt's and gRPC's, which waits for ever for one that it could not start. */
#define THREADS_WANTED 32

static const char usage_text[] =
	"Usage: bulkheadd [--config FILE]\n"
	"Serves CRI v1; every pod sandbox is a virtual machine.\n"
	"\n"
	"  --config FILE  configuration (default " CONFIG_PATH ", where it is there)\n"
	"  --list-steps   the boundaries between what methods do, for tests: one a line\n"
	"  --help         this text\n"
	"  --version      the version\n";

struct arguments {
	const char *config;
};

/* 0 to go on; positive 1 when the answer was given; negative for a mistake. */
static int parse(int argc, char **argv, struct arguments *arguments)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"list-steps", no_argument, NULL, 'l'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{0},
	};
	for (int option; (option = getopt_long(argc, argv, "c:h", options, NULL)) != -1;)
		switch (option) {
		case 'c':
			arguments->config = optarg;
			break;
		case 'l':
			steps_print(stdout);
			return 1;
		case 'h':
			fputs(usage_text, stdout);
			return 1;
		case 'v':
			puts("bulkheadd " BULKHEAD_VERSION);
			return 1;
		default:
			fputs(usage_text, stderr);
			return -EINVAL;
		}
	if (optind < argc) {
		fprintf(stderr, "bulkheadd: '%s' is one argument too many\n%s", argv[optind],
			usage_text);
		return -EINVAL;
	}
	return 0;
}

static int open_store(const struct config *config, struct store **ret, struct err *err)
{
	int r = fd_mkdir_all(config->state_dir, 0711, err);
	if (r == 0)
		r = fd_mkdir_all(config->run_dir, 0711, err);
	if (r < 0)
		return r;
	_cleanup_free_ char *path = str_printf("%s/state.db", config->state_dir);
	return path ? store_open(path, ret, err) : err_nomem(err);
}

static int open_images(const struct config *config, const struct log *log, struct store *store,
	struct img **ret, struct err *err)
{
	_cleanup_free_ char *dir = str_printf("%s/images", config->state_dir);
	if (!dir)
		return err_nomem(err);
	const struct img_config images = {
		.dir = dir,
		.registries_conf = config->images.registries_conf,
		.policy = config->images.policy,
		.unpack_helper = config->images.unpack_helper,
		.image_bytes_max = config->images.image_bytes_max,
		.layer_bytes_max = config->images.layer_bytes_max,
		.layer_files_max = config->images.layer_files_max,
		.pull_timeout_ms = config->images.pull_timeout_ms,
		.pinned = config->images.pinned,
		.n_pinned = config->images.n_pinned,
		.log = log,
	};
	return img_open(&images, store, ret, err);
}

static int open_streams(const struct config *config, const struct log *log,
	struct stream_server **ret, struct err *err)
{
	const struct config_streaming *c = &config->streaming;
	const struct stream_config streams = {
		.address = c->address,
		.port = (uint16_t)c->port,
		.idle_timeout_ms = c->idle_timeout_ms,
		.creation_timeout_ms = c->creation_timeout_ms,
		.tls_certificate = c->tls_certificate,
		.tls_key = c->tls_key,
		.log = log,
	};
	return stream_server_start(&streams, ret, err);
}

static void raise_fd_limit(const struct log *log)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= FDS_WANTED)
		return;
	limit.rlim_cur = limit.rlim_max < FDS_WANTED ? limit.rlim_max : FDS_WANTED;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		log_event(log, LOG_LEVEL_WARNING, "file descriptor limit not raised", "err",
			strerror(errno), NULL);
}

/* Its memory has credentials and containers' environments. */
static void forbid_core(const struct log *log)
{
	if (setrlimit(RLIMIT_CORE, &(struct rlimit){0}) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
		log_event(log, LOG_LEVEL_WARNING, "core dumps not forbidden", "err",
			strerror(errno), NULL);
}

static int serve(
	const struct config *config, struct daemon *daemon, const sigset_t *stop, struct err *err)
{
	const struct rpc_service services[] = {runtime_service, image_service};
	const struct rpc_server_config server_config = {
		.socket_path = config->socket,
		.workers = config->workers,
		.log = daemon->log,
		.userdata = daemon,
	};
	struct rpc_server *server;
	int r = rpc_server_start(&server_config, services, ARRAY_SIZE(services), &server, err);
	if (r < 0)
		return r;
	log_event(daemon->log, LOG_LEVEL_INFO, "serving", "socket", config->socket, "version",
		BULKHEAD_VERSION, NULL);
	int signo;
	sigwait(stop, &signo);
	log_event(daemon->log, LOG_LEVEL_INFO, "stopping", "signal", strsignal(signo), NULL);
	runtime_stop_waiting(daemon->runtime);
	rpc_server_stop(server, STOP_GRACE_MS);
	return 0;
}

static int run(
	const struct config *config, const struct log *log, const sigset_t *stop, struct err *err)
{
	struct daemon daemon = {.log = log};
	_cleanup_free_ char *scratch_dir = str_printf("%s/scratch", config->state_dir);
	daemon.scratch_dir = scratch_dir;
	struct store *store = NULL;
	int r = scratch_dir ? open_store(config, &store, err) : err_nomem(err);
	if (r == 0)
		r = open_images(config, log, store, &daemon.images, err);
	if (r == 0)
		r = image_answers_new(&daemon.image_answers, err);
	if (r == 0)
		r = runtime_open(config, log, store, daemon.images, &daemon.runtime, err);
	if (r == 0)
		r = open_streams(config, log, &daemon.streams, err);
	if (r == 0)
		r = serve(config, &daemon, stop, err);
	stream_server_stop(daemon.streams);
	runtime_close(daemon.runtime);
	image_answers_free(daemon.image_answers);
	img_close(daemon.images);
	store_close(store);
	return r;
}

int main(int argc, char **argv)
{
	/* Before any thread: a burst of large messages would else keep its pages in every thread's
	 * arena. */
	mallopt(M_MMAP_THRESHOLD, 128 << 10);
	mallopt(M_ARENA_MAX, 2);
	struct arguments arguments = {0};
	int r = parse(argc, argv, &arguments);
	if (r != 0)
		return r < 0 ? 2 : 0;

	struct err err = ERR_INIT;
	struct config *config;
	struct log log = {.fd = STDERR_FILENO, .level = LOG_LEVEL_INFO};
	sigset_t stop;
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	/* Before any thread is made: each inherits the mask, so that sigwait() alone takes them. */
	pthread_sigmask(SIG_BLOCK, &stop, NULL);
	signal(SIGPIPE, SIG_IGN);
	umask(0022);

	r = config_load(arguments.config, &config, &err);
	if (r == 0) {
		r = log_level_parse(config->log_level, &log.level);
		if (r < 0)
			err_set(&err, r, "log_level '%s': it can be error, warning, info or debug",
				config->log_level);
		raise_fd_limit(&log);
		forbid_core(&log);
		if (r == 0)
			r = threads_check(THREADS_WANTED, "which a start takes", &err);
		if (r == 0)
			r = run(config, &log, &stop, &err);
		config_free(config);
	}
	if (r < 0) {
		log_event(&log, LOG_LEVEL_ERROR, "bulkheadd cannot run", "err", err.msg, NULL);
		return 1;
	}
	return 0;
}
