/*
 * Containers whose pod is changed by an RPC, under `op`, while the guest tells of their ends, which
 * are recorded without it. ThreadSanitizer sees what is done without the lock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

#include "common/fd.h"
#include "cri-server/config.h"
#include "cri-server/daemon.h"
#include "cri-server/rpc/call.h"
#include "cri-server/runtime/events.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/store/store.h"
#include "hypervisor/internal.h"

#define ROUNDS 5000
/* Each is two writes to a database. */
#define SAVES 100
/* In which a call that does not wait for a pod would have been answered. */
#define FOUND_AFTER_US 200000

static const struct log silent = {.fd = -EBADF};

#define RUNNING BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING
#define EXITED  BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED

struct fixture {
	struct runtime rt;
	struct sandbox *sandbox;
	struct container *ends, *lives;
	atomic_bool enough;
	bool torn;  /* the thread's */
	int output; /* likewise; of a container */
	char dir[64];
};

static struct container *make_container(struct sandbox *sandbox, char first)
{
	Runtime__V1__ContainerConfig config = RUNTIME__V1__CONTAINER_CONFIG__INIT;
	char id[ID_LEN + 1];
	struct err err = ERR_INIT;

	snprintf(id, sizeof(id), "%c%031d", first, 0);
	struct container *c = container_new(sandbox, id, &config, &err);
	assert_non_null(c);
	TAILQ_INSERT_TAIL(&sandbox->runtime->containers, c, link);
	return c;
}

static int setup(void **state)
{
	Runtime__V1__PodSandboxConfig config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err = ERR_INIT;

	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "/tmp/container-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	pthread_mutex_init(&f->rt.lock, NULL);
	TAILQ_INIT(&f->rt.sandboxes);
	TAILQ_INIT(&f->rt.containers);
	f->sandbox = sandbox_new(&f->rt, "00000000000000000000000000000000", &config, &err);
	assert_non_null(f->sandbox);
	f->ends = make_container(f->sandbox, 'a');
	f->lives = make_container(f->sandbox, 'b');
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	container_forget(f->ends);
	container_forget(f->lives);
	sandbox_unref(f->sandbox);
	logs_close(f->rt.logs);
	store_close(f->rt.store);
	assert_int_equal(fd_remove_tree(f->dir, NULL), 0);
	pthread_mutex_destroy(&f->rt.lock);
	free(f);
	return 0;
}

static void *end_again_and_again(void *userdata)
{
	struct fixture *f = userdata;
	unsigned i = 0;

	/* Relaxed: what orders the two threads must be the lock alone. */
	while (!atomic_load_explicit(&f->enough, memory_order_relaxed)) {
		pthread_mutex_lock(&f->rt.lock);
		f->ends->record->state =
			i++ % 2 ? BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING
				: BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED;
		pthread_mutex_unlock(&f->rt.lock);
	}
	return NULL;
}

static void test_growth_while_another_ends(void **state)
{
	struct fixture *f = *state;
	struct hv_vm vm = {.size = {1, 1, 256, 256}};
	struct machine machine = {.vm = &vm, .vcpus = 1};
	Runtime__V1__LinuxContainerResources resources =
		RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, end_again_and_again, f), 0);
	for (int i = 0; i < ROUNDS; i++) {
		struct err err = ERR_INIT;
		assert_int_equal(grow_for_container(&machine, f->lives, &resources, &err), 0);
	}
	atomic_store_explicit(&f->enough, true, memory_order_relaxed);
	pthread_join(thread, NULL);
}

static void test_start_while_it_ends(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;

	f->ends->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
	assert_int_equal(pthread_create(&thread, NULL, end_again_and_again, f), 0);
	for (int i = 0; i < ROUNDS; i++) {
		struct err err = ERR_INIT;
		assert_int_equal(container_start(f->ends, &err), -EBADFD);
	}
	atomic_store_explicit(&f->enough, true, memory_order_relaxed);
	pthread_join(thread, NULL);
}

static void *name_signals(void *userdata)
{
	struct fixture *f = userdata;
	unsigned i = 0;

	while (!atomic_load_explicit(&f->enough, memory_order_relaxed))
		message_set_string(
			&f->lives->record->stop_signal, i++ % 2 ? "SIGINT" : "SIGQUIT", NULL);
	return NULL;
}

/* Nobody was told its id, but the beginning of an id finds it. */
static void test_stop_while_it_is_made(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, name_signals, f), 0);
	for (int i = 0; i < ROUNDS; i++) {
		struct err err = ERR_INIT;
		assert_int_equal(container_stop(f->lives, 1000, NULL, &err), 0);
	}
	atomic_store_explicit(&f->enough, true, memory_order_relaxed);
	pthread_join(thread, NULL);
}

/* As a start does that finds the pod, in which the container runs. */
static void *find_again(void *userdata)
{
	struct fixture *f = userdata;

	usleep(FOUND_AFTER_US);
	pthread_mutex_lock(&f->rt.lock);
	f->lives->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
	f->sandbox->recovering = false;
	pthread_cond_broadcast(&f->rt.recovered);
	pthread_mutex_unlock(&f->rt.lock);
	return NULL;
}

static void test_call_before_its_pod_is_found_again(void **state)
{
	struct fixture *f = *state;
	struct daemon daemon = {.runtime = &f->rt};
	struct rpc_transport transport = {.userdata = &daemon};
	struct rpc_call call = {
		.transport = &transport, .details.deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC)};
	Runtime__V1__StartContainerRequest request = RUNTIME__V1__START_CONTAINER_REQUEST__INIT;
	struct rpc_answer answer = {0};
	struct err err = ERR_INIT;
	pthread_t thread;

	request.container_id = f->lives->id;
	f->lives->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED;
	f->sandbox->recovering = true;
	ev_cond_init(&f->rt.recovered);
	assert_int_equal(pthread_create(&thread, NULL, find_again, f), 0);
	assert_int_equal(container_service_start(&call, &request.base, &answer, &err), -EBADFD);
	assert_non_null(strstr(err.msg, "was started before"));
	pthread_join(thread, NULL);
	pthread_cond_destroy(&f->rt.recovered);
}

struct asking {
	struct fixture *f;
	struct rpc_call call;
	atomic_bool answered;
	int result;
};

static void *ask_for_start(void *userdata)
{
	struct asking *asking = userdata;
	Runtime__V1__StartContainerRequest request = RUNTIME__V1__START_CONTAINER_REQUEST__INIT;
	struct rpc_answer answer = {0};
	struct err err = ERR_INIT;

	request.container_id = asking->f->lives->id;
	asking->result = container_service_start(&asking->call, &request.base, &answer, &err);
	asking->answered = true;
	return NULL;
}

/* For hours a pod may be at something that its guest draws out; workers are few. */
static void test_caller_that_does_not_wait_for_its_pod(void **state)
{
	struct fixture *f = *state;
	struct daemon daemon = {.runtime = &f->rt};
	struct rpc_transport transport = {.userdata = &daemon};
	struct asking asking = {.f = f,
		.call = {.transport = &transport,
			.details.deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC)}};
	pthread_t thread;

	pthread_mutex_init(&asking.call.lock, NULL);
	pthread_mutex_lock(&f->sandbox->op);
	assert_int_equal(pthread_create(&thread, NULL, ask_for_start, &asking), 0);
	usleep(FOUND_AFTER_US);
	bool early = asking.answered;
	pthread_mutex_lock(&asking.call.lock);
	asking.call.cancelled = true;
	pthread_mutex_unlock(&asking.call.lock);
	for (int i = 0; i < 3000 && !asking.answered; i++)
		usleep(1000);
	bool answered = asking.answered;
	pthread_mutex_unlock(&f->sandbox->op);
	pthread_join(thread, NULL);
	pthread_mutex_destroy(&asking.call.lock);
	assert_false(early);
	assert_true(answered);
	assert_int_equal(asking.result, -ECANCELED);
}

/* As a save reads it: what it counts first and packs then must be the same. */
static void *read_as_a_save_does(void *userdata)
{
	struct fixture *f = userdata;
	const Bulkhead__Store__Volume *volume = f->sandbox->record->volumes[0];

	while (!atomic_load_explicit(&f->enough, memory_order_relaxed)) {
		pthread_mutex_lock(&f->rt.lock);
		size_t size = bulkhead__store__volume__get_packed_size(volume);
		bool writable = volume->writable;
		usleep(100);
		f->torn |= writable != volume->writable ||
			   size != bulkhead__store__volume__get_packed_size(volume);
		pthread_mutex_unlock(&f->rt.lock);
	}
	return NULL;
}

/* In the sandbox's record, as made for a container that reads it. */
static Bulkhead__Store__Volume *record_secret(struct fixture *f, const char *path)
{
	Bulkhead__Store__Sandbox *record = f->sandbox->record;
	Bulkhead__Store__Container *reader = f->ends->record;
	Bulkhead__Store__Volume *volume = calloc(1, sizeof(*volume));
	struct stat st;

	record->volumes = calloc(1, sizeof(*record->volumes));
	reader->volumes = calloc(1, sizeof(*reader->volumes));
	assert_non_null(volume);
	assert_non_null(record->volumes);
	assert_non_null(reader->volumes);
	assert_int_equal(stat(path, &st), 0);
	bulkhead__store__volume__init(volume);
	volume->id = 1;
	reader->volumes[reader->n_volumes++] = volume->id;
	volume->kind = BULKHEAD__STORE__VOLUME_KIND__VOLUME_MIRROR;
	volume->device = st.st_dev;
	volume->inode = st.st_ino;
	assert_int_equal(message_set_string(&volume->source, path, NULL), 0);
	record->volumes[record->n_volumes++] = volume;
	return volume;
}

/* Of a directory that is made for it. */
static void ask_for_mount(struct container *c, const char *path)
{
	Runtime__V1__ContainerConfig *config = c->config;
	Runtime__V1__Mount *mount = calloc(1, sizeof(*mount));

	config->mounts = calloc(1, sizeof(*config->mounts));
	assert_non_null(mount);
	assert_non_null(config->mounts);
	runtime__v1__mount__init(mount);
	config->mounts[config->n_mounts++] = mount;
	assert_int_equal(fd_mkdir_all(path, 0755, NULL), 0);
	assert_int_equal(message_set_string(&mount->host_path, path, NULL), 0);
	assert_int_equal(message_set_string(&mount->container_path, "/v", NULL), 0);
}

/* As CreateContainer does it. */
static int attach_volumes(struct container *c, struct machine *machine, struct err *err)
{
	Bulkhead__Agent__CreateContainerRequest *request = calloc(1, sizeof(*request));

	assert_non_null(request);
	bulkhead__agent__create_container_request__init(request);
	int r = volumes_attach(c, machine, request, NULL, err);
	bulkhead__agent__create_container_request__free_unpacked(request, NULL);
	return r;
}

static void test_volume_that_one_begins_to_write(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *path = str_printf("%s/volumes/kubernetes.io~secret/v", f->dir);
	_cleanup_free_ char *database = str_printf("%s/state.db", f->dir);
	struct err err = ERR_INIT;
	pthread_t thread;

	ask_for_mount(f->lives, path);
	assert_int_equal(store_open(database, &f->rt.store, &err), 0);
	Bulkhead__Store__Volume *volume = record_secret(f, path);
	assert_int_equal(pthread_create(&thread, NULL, read_as_a_save_does, f), 0);
	for (int i = 0; i < SAVES; i++) {
		pthread_mutex_lock(&f->rt.lock);
		volume->writable = false;
		volume->flags = HV_BIND_READ_ONLY;
		pthread_mutex_unlock(&f->rt.lock);
		assert_int_equal(attach_volumes(f->lives, NULL, &err), 0);
		assert_true(volume->writable);
	}
	atomic_store_explicit(&f->enough, true, memory_order_relaxed);
	pthread_join(thread, NULL);
	assert_false(f->torn);
}

/*
 * Readers hold the lock and no more, as lists and statuses do. This one comes while the last
 * container's output is waited for, before it lets that end, and then again and again.
 */
static void *read_states(void *userdata)
{
	struct fixture *f = userdata;
	bool ready = true;

	usleep(FOUND_AFTER_US);
	while (!atomic_load_explicit(&f->enough, memory_order_relaxed) && ready) {
		pthread_mutex_lock(&f->rt.lock);
		ready = f->sandbox->record->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY;
		f->torn |= container_runs(f->ends) != ready || container_runs(f->lives) != ready;
		pthread_mutex_unlock(&f->rt.lock);
		f->output = fd_close(f->output);
	}
	return NULL;
}

/* In the places of the client's: of a guest that takes connections and does not answer. */
static atomic_uint streams_asked_for;

int agent_stream_open(struct agent *agent, const Bulkhead__Agent__StreamOpen *open,
	uint64_t timeout_ms, int *ret_fd, uint64_t *ret_offset, struct err *err)
{
	(void)agent;
	(void)open;
	(void)ret_fd;
	(void)ret_offset;
	atomic_fetch_add(&streams_asked_for, 1);
	usleep((useconds_t)timeout_ms * 1000);
	return err_set(err, -ETIMEDOUT, "no answer");
}

int agent_stream_ack(int fd, uint64_t offset, struct err *err)
{
	(void)fd;
	(void)offset;
	(void)err;
	return 0;
}

#define LOGS_MS 300

/* At a start, which has other pods to look after: the time is for all of a pod's. */
static void test_logs_of_a_guest_that_hangs(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *logs = str_printf("%s/logs", f->dir);
	struct config config = {.state_dir = f->dir};
	struct machine machine = {.vcpus = 1};
	struct err err = ERR_INIT;

	f->rt.config = &config;
	f->rt.log = &silent;
	assert_int_equal(fd_mkdir_all(logs, 0755, &err), 0);
	assert_int_equal(logs_open(f->rt.log, &f->rt.logs, &err), 0);
	uint64_t begin = ev_now_ms();
	assert_int_equal(
		container_resume_log(f->ends, &machine, begin + LOGS_MS, &err), -ETIMEDOUT);
	assert_int_equal(
		container_resume_log(f->lives, &machine, begin + LOGS_MS, &err), -ETIMEDOUT);
	assert_in_range(ev_now_ms() - begin, LOGS_MS, 10 * LOGS_MS);
	assert_int_equal(streams_asked_for, 1);
	assert_null(f->ends->log);
}

static void open_log(struct fixture *f, struct container *c)
{
	_cleanup_free_ char *path = str_printf("%s/log", f->dir);
	Bulkhead__Agent__Stream out = BULKHEAD__AGENT__STREAM__STDOUT;
	struct err err = ERR_INIT;
	int fds[2];

	if (!f->rt.logs)
		assert_int_equal(logs_open(f->rt.log, &f->rt.logs, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(log_writer_new(f->rt.logs, NULL, path, &c->log, &err), 0);
	assert_int_equal(log_writer_follow(c->log, out, fds[0], 0, &err), 0);
	f->output = fds[1];
}

/* One whose log cannot be written costs a pod's end some seconds, and all together no more. */
static void test_outputs_that_do_not_end(void **state)
{
	struct fixture *f = *state;
	int first;

	f->rt.log = &silent;
	open_log(f, f->ends);
	first = f->output;
	open_log(f, f->lives);
	uint64_t begin = ev_now_ms();
	containers_drain(f->sandbox);
	assert_in_range(ev_now_ms() - begin, 5000, 8000);
	fd_close(first);
	f->output = fd_close(f->output);
}

/* What records, and who tells of it. */
static void open_parts(struct fixture *f)
{
	_cleanup_free_ char *database = str_printf("%s/state.db", f->dir);
	struct err err = ERR_INIT;

	f->rt.log = &silent;
	assert_int_equal(store_open(database, &f->rt.store, &err), 0);
	assert_int_equal(ev_loop_new(&f->rt.keeper.loop, &err), 0);
	assert_int_equal(events_open(&f->rt.events, &err), 0);
}

static void close_parts(struct fixture *f)
{
	f->rt.events = events_close(f->rt.events);
	f->rt.keeper.loop = ev_loop_free(f->rt.keeper.loop);
}

/* Both run, in a pod that does. */
static void set_running(struct fixture *f)
{
	/* No machine's id: there is none to be taken away. */
	snprintf(f->sandbox->id, sizeof(f->sandbox->id), "NO MACHINE");
	TAILQ_INSERT_TAIL(&f->rt.sandboxes, f->sandbox, link);
	assert_int_equal(
		sandbox_set_state(f->sandbox, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY, NULL),
		0);
	assert_int_equal(container_set_state(f->ends, RUNNING, NULL), 0);
	assert_int_equal(container_set_state(f->lives, RUNNING, NULL), 0);
}

static void handle_death(struct fixture *f)
{
	ev_loop_stop(f->rt.keeper.loop);
	assert_int_equal(ev_loop_run(f->rt.keeper.loop, NULL), 0);
}

static void test_pod_ends_with_its_containers(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;

	open_parts(f);
	open_log(f, f->lives);
	set_running(f);
	sandbox_report_death(&f->rt, f->sandbox->id, "QEMU was killed");
	assert_int_equal(pthread_create(&thread, NULL, read_states, f), 0);
	handle_death(f);
	atomic_store_explicit(&f->enough, true, memory_order_relaxed);
	pthread_join(thread, NULL);
	assert_false(f->torn);
	assert_int_equal(
		f->sandbox->record->state, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY);
	assert_string_equal(f->sandbox->record->death, "QEMU was killed");
	assert_int_equal(f->lives->record->exit_code, 137);
	close_parts(f);
}

/* Its files go with it: what its kernel said last is in the log or nowhere. */
static void test_end_of_the_console_is_logged(void **state)
{
	struct fixture *f = *state;
	struct hv hv = {.config.run_dir = f->dir};
	_cleanup_free_ char *path = str_printf("%s/log", f->dir), *text = NULL, *dir = NULL,
			    *console = NULL;
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	const struct log log = {.fd = fd, .level = LOG_LEVEL_ERROR};

	open_parts(f);
	set_running(f);
	snprintf(f->sandbox->id, sizeof(f->sandbox->id), "%032d", 7);
	dir = str_printf("%s/vm/%s", f->dir, f->sandbox->id);
	console = str_printf("%s/console", dir);
	assert_int_equal(fd_mkdir_all(dir, 0700, NULL), 0);
	text = str_printf("%s%5000d\r\nKernel panic - not syncing", "boots", 1);
	assert_int_equal(fd_write_file(console, text, strlen(text), 0600, NULL), 0);
	pthread_mutex_init(&hv.lock, NULL);
	assert_int_equal(virInitialize(), 0);
	f->rt.hv = &hv; /* without a driver: it ends no machine */
	f->rt.log = &log;
	sandbox_report_death(&f->rt, f->sandbox->id, "QEMU was killed");
	handle_death(f);
	f->rt.log = &silent;
	free(TAKE_PTR(text));
	assert_int_equal(fd_read_file(path, 1 << 20, &text, NULL, NULL), 0);
	assert_non_null(strstr(text, "QEMU was killed"));
	assert_non_null(strstr(text, "Kernel panic - not syncing"));
	assert_null(strstr(text, "boots"));
	pthread_mutex_destroy(&hv.lock);
	close_parts(f);
}

/* What a guest, a plugin or a cut in between leaves of a text. */
static void test_death_that_is_not_utf8(void **state)
{
	struct fixture *f = *state;
	struct daemon daemon = {.runtime = &f->rt};
	struct rpc_transport transport = {.userdata = &daemon};
	struct rpc_call call = {.transport = &transport};
	struct hv hv = {.config.run_dir = f->dir};
	const struct net_config network = {
		.conf_dir = f->dir, .bin_dirs = f->dir, .cache_dir = f->dir, .netns_dir = f->dir};
	Runtime__V1__PodSandboxStatusRequest request =
		RUNTIME__V1__POD_SANDBOX_STATUS_REQUEST__INIT;
	struct rpc_answer answer = {0};
	struct err err = ERR_INIT;

	open_parts(f);
	set_running(f);
	snprintf(f->sandbox->id, sizeof(f->sandbox->id), "%032d", 7);
	assert_int_equal(message_set_string(&f->sandbox->record->death, "it said \xc3", NULL), 0);
	assert_int_equal(net_open(&network, &f->rt.net, &err), 0);
	f->rt.hv = &hv;
	request.pod_sandbox_id = f->sandbox->id;
	request.verbose = true;
	assert_int_equal(sandbox_service_status(&call, &request.base, &answer, &err), 0);
	Runtime__V1__PodSandboxStatusResponse *told =
		runtime__v1__pod_sandbox_status_response__unpack(NULL, answer.len, answer.data);
	assert_non_null(strstr(told->info[0]->value, "\"death\":\"it said ?\""));
	runtime__v1__pod_sandbox_status_response__free_unpacked(told, NULL);
	rpc_answer_done(&answer);
	f->rt.net = net_close(f->rt.net);
	close_parts(f);
}

static void assert_recorded(const struct fixture *f, const struct container *c,
	Bulkhead__Store__ContainerState state, int exit_code)
{
	ProtobufCMessage *message;

	assert_int_equal(store_get(f->rt.store, STORE_CONTAINER, c->id, &message, NULL), 0);
	const Bulkhead__Store__Container *record = (const void *)message;
	assert_int_equal(record->state, state);
	assert_int_equal(record->exit_code, exit_code);
	protobuf_c_message_free_unpacked(message, NULL);
}

#define FULL(which)                                                                                \
	"CREATE TRIGGER full BEFORE INSERT ON record WHEN " which                                  \
	" BEGIN SELECT RAISE(ABORT, 'no room'); END"
#define ROOM "DROP TRIGGER full"

/* What can be written from then on. */
static void alter(const struct fixture *f, const char *sql)
{
	_cleanup_free_ char *database = str_printf("%s/state.db", f->dir);
	sqlite3 *db;

	assert_int_equal(sqlite3_open(database, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

/* As the guest tells of it. */
static int tell_exit(struct fixture *f)
{
	Bulkhead__Agent__Exit exit = BULKHEAD__AGENT__EXIT__INIT;
	Bulkhead__Agent__Event event = BULKHEAD__AGENT__EVENT__INIT;

	event.container_id = f->ends->id;
	event.sequence = 5;
	event.exit = &exit;
	exit.code = 7;
	return container_exited(f->sandbox, &event);
}

/* Whoever asks again must not be given one that cannot be written. */
static void test_volume_that_does_not_become_writable(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *path = str_printf("%s/volume", f->dir);
	struct hv_vm vm = {.dir = f->dir}; /* without a share */
	struct machine machine = {.vm = &vm};
	struct err err = ERR_INIT;

	open_parts(f);
	ask_for_mount(f->lives, path);
	Bulkhead__Store__Volume *volume = record_secret(f, path);
	volume->kind = BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND;
	volume->flags = HV_BIND_READ_ONLY;
	assert_true(attach_volumes(f->lives, &machine, &err) < 0);
	assert_true(attach_volumes(f->lives, &machine, &err) < 0);
	assert_false(volume->writable);
	close_parts(f);
}

/* Nor one that never was. In memory, it would be kept as long as the pod. */
static void test_volume_that_cannot_be_recorded(void **state)
{
	struct fixture *f = *state;
	char shm[] = "/dev/shm/container-test-XXXXXX";
	struct err err = ERR_INIT;

	assert_non_null(mkdtemp(shm));
	_cleanup_free_ char *path = str_printf("%s/volumes/kubernetes.io~empty-dir/v", shm);
	open_parts(f);
	ask_for_mount(f->lives, path);
	alter(f, FULL("true"));
	assert_true(attach_volumes(f->lives, NULL, &err) < 0);
	assert_non_null(strstr(err.msg, "no room"));
	volumes_release(f->sandbox, NULL, f->lives);
	size_t left = f->sandbox->record->n_volumes;
	close_parts(f);
	assert_int_equal(fd_remove_tree(shm, NULL), 0);
	assert_int_equal(left, 0);
}

/* It is known at once; the guest tells of it again until it is recorded, and no end of its machine
 * comes before that. */
static void test_exit_that_cannot_be_recorded(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;

	open_parts(f);
	set_running(f);
	alter(f, FULL("true"));
	for (int i = 0; i < 2; i++) {
		assert_true(tell_exit(f) < 0);
		assert_int_equal(container_state(f->ends), EXITED);
		assert_int_equal(f->ends->record->exit_code, 7);
		assert_int_equal(f->sandbox->record->event_sequence, 0);
		assert_recorded(f, f->ends, RUNNING, 0);
		assert_true(container_save_exit(f->ends, &err) < 0);
		assert_non_null(strstr(err.msg, "no room"));
	}
	alter(f, ROOM);
	assert_int_equal(tell_exit(f), 0);
	assert_recorded(f, f->ends, EXITED, 7);
	assert_int_equal(f->sandbox->record->event_sequence, 5);
	assert_int_equal(container_save_exit(f->ends, &err), 0);
	close_parts(f);
}

/* A start could not resume its log: what the guest keeps of it is not done with. */
static void test_exit_of_one_whose_log_was_not_resumed(void **state)
{
	struct fixture *f = *state;

	open_parts(f);
	set_running(f);
	assert_int_equal(message_set_string(&f->ends->record->log_path, "/log", NULL), 0);
	assert_int_equal(tell_exit(f), 0);
	assert_recorded(f, f->ends, EXITED, 7);
	assert_true(f->ends->record->log_incomplete);
	close_parts(f);
}

static void test_exit_of_one_without_a_log(void **state)
{
	struct fixture *f = *state;

	open_parts(f);
	set_running(f);
	assert_int_equal(tell_exit(f), 0);
	assert_false(f->ends->record->log_incomplete);
	close_parts(f);
}

/* The pod's record alone cannot: none is written. What ended before keeps its exit code. */
static void test_death_that_cannot_be_recorded(void **state)
{
	struct fixture *f = *state;

	open_parts(f);
	set_running(f);
	alter(f, FULL("NEW.id = 'NO MACHINE'"));
	assert_true(tell_exit(f) < 0);
	sandbox_report_death(&f->rt, f->sandbox->id, "QEMU was killed");
	handle_death(f);
	assert_int_equal(
		f->sandbox->record->state, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY);
	assert_string_equal(f->sandbox->record->death, "QEMU was killed");
	assert_int_equal(f->ends->record->exit_code, 7);
	assert_int_equal(f->lives->record->exit_code, 137);
	assert_recorded(f, f->ends, RUNNING, 0);
	assert_recorded(f, f->lives, RUNNING, 0);
	alter(f, ROOM);
	assert_true(f->sandbox->unsaved); /* for the stop that follows */
	assert_int_equal(container_save_exit(f->ends, NULL), 0);
	assert_int_equal(container_save_exit(f->lives, NULL), 0);
	assert_recorded(f, f->ends, EXITED, 7);
	assert_recorded(f, f->lives, EXITED, 137);
	close_parts(f);
}

static void test_exit_and_death_that_are_recorded_together(void **state)
{
	struct fixture *f = *state;

	open_parts(f);
	set_running(f);
	alter(f, FULL("true"));
	assert_true(tell_exit(f) < 0);
	alter(f, ROOM);
	sandbox_report_death(&f->rt, f->sandbox->id, "QEMU was killed");
	handle_death(f);
	assert_recorded(f, f->ends, EXITED, 7);
	assert_recorded(f, f->lives, EXITED, 137);
	assert_false(f->sandbox->unsaved);
	close_parts(f);
}

static void put_file(const struct fixture *f, const char *name, const char *text)
{
	_cleanup_free_ char *path = str_printf("%s/%s", f->dir, name);
	assert_int_equal(fd_write_file(path, text, strlen(text), 0644, NULL), 0);
}

static void assert_cpus(const struct fixture *f, const char *cpus)
{
	_cleanup_free_ char *path = str_printf("%s/pod/cpuset.cpus", f->dir);
	_cleanup_free_ char *text = NULL;
	assert_int_equal(fd_read_file(path, 4096, &text, NULL, NULL), 0);
	assert_string_equal(text, cpus);
	put_file(f, "pod/cpuset.cpus", "");
}

/* A tree of plain files is the host's cgroups. */
static void test_machine_runs_where_its_containers_may(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *pod = str_printf("%s/pod", f->dir);
	struct hv hv = {
		.cgroups = {.items = {{.mount = f->dir, .v2 = true, .cpuset = true}}, .n = 1}};
	struct hv_vm vm = {.hv = &hv, .dir = f->dir};
	struct machine machine = {.vm = &vm};
	Runtime__V1__LinuxContainerResources some = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	struct err err = ERR_INIT;

	assert_int_equal(fd_mkdir_all(pod, 0755, &err), 0);
	put_file(f, "cgroup", "/pod");
	put_file(f, "pod/cpuset.cpus", "");
	put_file(f, "pod/cpuset.mems", "");
	f->ends->resources = calloc(1, sizeof(*f->ends->resources));
	assert_non_null(f->ends->resources);
	runtime__v1__linux_container_resources__init(f->ends->resources);
	assert_int_equal(message_set_string(&f->ends->resources->cpuset_cpus, "2-3", NULL), 0);
	some.cpuset_cpus = (char *)"0,5";

	f->ends->record->state = RUNNING;
	assert_int_equal(pin_for_container(&machine, f->lives, &some, &err), 0);
	assert_cpus(f, "0,2-3,5");
	f->ends->record->state = EXITED;
	assert_int_equal(pin_for_container(&machine, f->lives, &some, &err), 0);
	assert_cpus(f, "0,5");
	assert_int_equal(pin_for_container(&machine, f->lives, NULL, &err), 0);
	assert_cpus(f, "\n");
	/* Nothing is named, as nearly always: nothing is done. */
	assert_int_equal(pin_for_container(&machine, f->lives, NULL, &err), 0);
	assert_cpus(f, "");
	f->ends->record->state = RUNNING;
	pin_without(&machine, f->lives);
	assert_cpus(f, "2-3");
	pin_without(&machine, f->ends);
	assert_cpus(f, "\n");
}

static void set_image(struct container *c)
{
	Runtime__V1__ImageSpec *image = calloc(1, sizeof(*image));
	assert_non_null(image);
	runtime__v1__image_spec__init(image);
	c->config->image = image;
}

#define MANY 200

/* Every key is looked for with the lock held. */
static void test_selectors_that_are_too_many(void **state)
{
	struct fixture *f = *state;
	struct daemon daemon = {.runtime = &f->rt};
	struct rpc_transport transport = {.userdata = &daemon};
	struct rpc_call call = {.transport = &transport};
	Runtime__V1__ListContainersRequest list = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	Runtime__V1__ContainerFilter filter = RUNTIME__V1__CONTAINER_FILTER__INIT;
	Runtime__V1__ContainerFilter__LabelSelectorEntry entry =
		RUNTIME__V1__CONTAINER_FILTER__LABEL_SELECTOR_ENTRY__INIT;
	Runtime__V1__ContainerFilter__LabelSelectorEntry *entries[MANY];
	struct rpc_answer answer = {0};
	struct err err = ERR_INIT;

	for (size_t i = 0; i < MANY; i++)
		entries[i] = &entry;
	list.filter = &filter;
	filter.label_selector = entries;
	filter.n_label_selector = MANY;
	assert_int_equal(container_service_list(&call, &list.base, &answer, &err), -EINVAL);
	filter.n_label_selector = 1;
	assert_int_equal(container_service_list(&call, &list.base, &answer, &err), 0);
	rpc_answer_done(&answer);
}

/* Of entries with one key protobuf's last one counts. */
static void test_labels_that_come_twice(void **state)
{
	Runtime__V1__PodSandboxConfig__LabelsEntry old =
		RUNTIME__V1__POD_SANDBOX_CONFIG__LABELS_ENTRY__INIT;
	Runtime__V1__PodSandboxConfig__LabelsEntry new = old;
	void *twice[] = {&old, &new}, *first[] = {&old}, *last[] = {&new};
	(void)state;

	old.key = new.key = (char *)"key";
	old.value = (char *)"old";
	new.value = (char *)"new";
	assert_true(labels_match(last, 1, twice, 2));
	assert_false(labels_match(first, 1, twice, 2));
	assert_true(labels_match(twice, 2, last, 1));
	assert_false(labels_match(twice, 2, first, 1));
	assert_false(labels_match(last, 1, NULL, 0));
	assert_true(labels_match(NULL, 0, first, 1));
}

/*
 * Kubelets before 1.30 look there for the ids of images that are in use, and delete the others. A
 * status names the digest, which is what pods show.
 */
static void test_image_that_is_in_use(void **state)
{
	struct fixture *f = *state;
	struct daemon daemon = {.runtime = &f->rt};
	struct rpc_transport transport = {.userdata = &daemon};
	struct rpc_call call = {.transport = &transport};
	Runtime__V1__ListContainersRequest list = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	Runtime__V1__ContainerStatusRequest status = RUNTIME__V1__CONTAINER_STATUS_REQUEST__INIT;
	Runtime__V1__ContainerFilter filter = RUNTIME__V1__CONTAINER_FILTER__INIT;
	Bulkhead__Store__Container *record = f->lives->record;
	struct rpc_answer answer = {0};
	struct err err = ERR_INIT;

	set_image(f->lives);
	record->state = RUNNING;
	assert_int_equal(message_set_string(&record->image_id, "sha256:id", NULL), 0);
	assert_int_equal(message_set_string(&record->image_ref, "a/b@sha256:digest", NULL), 0);
	filter.id = status.container_id = f->lives->id;
	list.filter = &filter;
	assert_int_equal(container_service_list(&call, &list.base, &answer, &err), 0);
	Runtime__V1__ListContainersResponse *listed =
		runtime__v1__list_containers_response__unpack(NULL, answer.len, answer.data);
	assert_int_equal(listed->n_containers, 1);
	assert_string_equal(listed->containers[0]->image_ref, "sha256:id");
	assert_string_equal(listed->containers[0]->image_id, "sha256:id");
	runtime__v1__list_containers_response__free_unpacked(listed, NULL);
	rpc_answer_done(&answer);

	assert_int_equal(container_service_status(&call, &status.base, &answer, &err), 0);
	Runtime__V1__ContainerStatusResponse *told =
		runtime__v1__container_status_response__unpack(NULL, answer.len, answer.data);
	assert_string_equal(told->status->image_ref, "a/b@sha256:digest");
	assert_string_equal(told->status->image_id, "sha256:id");
	runtime__v1__container_status_response__free_unpacked(told, NULL);
	rpc_answer_done(&answer);
}

#define TOO_LARGE (RPC_MESSAGE_MAX + 1000)

/* Its client hears of it, and asks again; else it would listen to nothing for ever. */
static void test_event_that_is_too_large_to_be_sent(void **state)
{
	struct fixture *f = *state;
	struct daemon daemon = {.runtime = &f->rt};
	struct rpc_transport transport = {.userdata = &daemon, .log = &silent};
	const struct rpc_route route = {
		.service = &runtime__v1__runtime_service__descriptor,
		.method = protobuf_c_service_descriptor_get_method_by_name(
			&runtime__v1__runtime_service__descriptor, "GetContainerEvents"),
	};
	/* As one to which something is being sent: the end follows that. */
	struct rpc_call call = {.transport = &transport,
		.route = &route,
		.pending = 2,
		.details.deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC),
		.stream.sending = true};
	struct err err = ERR_INIT;

	pthread_mutex_init(&call.lock, NULL);
	open_parts(f);
	set_running(f);
	set_image(f->ends);
	set_image(f->lives);
	assert_int_equal(events_service_get(&call, NULL, &err), 0);
	assert_int_equal(call.pending, 3);
	_cleanup_free_ char *large = malloc(TOO_LARGE + 1);
	assert_non_null(large);
	memset(large, 'x', TOO_LARGE);
	large[TOO_LARGE] = '\0';
	Runtime__V1__ContainerMetadata *metadata = calloc(1, sizeof(*metadata));
	assert_non_null(metadata);
	runtime__v1__container_metadata__init(metadata);
	assert_int_equal(message_set_string(&metadata->name, large, NULL), 0);
	f->lives->config->metadata = metadata;
	assert_int_equal(tell_exit(f), 0);
	assert_int_equal(call.pending, 2);
	assert_true(call.stream.ending);
	assert_int_equal(call.stream.status, GRPC_STATUS_RESOURCE_EXHAUSTED);
	pthread_mutex_destroy(&call.lock);
	close_parts(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_growth_while_another_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_start_while_it_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stop_while_it_is_made, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pod_ends_with_its_containers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_end_of_the_console_is_logged, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_call_before_its_pod_is_found_again, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_volume_that_one_begins_to_write, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_volume_that_does_not_become_writable, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_volume_that_cannot_be_recorded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_logs_of_a_guest_that_hangs, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_caller_that_does_not_wait_for_its_pod, setup, teardown),
		cmocka_unit_test_setup_teardown(test_outputs_that_do_not_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exit_that_cannot_be_recorded, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_exit_of_one_whose_log_was_not_resumed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_exit_of_one_without_a_log, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_death_that_cannot_be_recorded, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_exit_and_death_that_are_recorded_together, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_machine_runs_where_its_containers_may, setup, teardown),
		cmocka_unit_test_setup_teardown(test_image_that_is_in_use, setup, teardown),
		cmocka_unit_test_setup_teardown(test_selectors_that_are_too_many, setup, teardown),
		cmocka_unit_test(test_labels_that_come_twice),
		cmocka_unit_test_setup_teardown(test_death_that_is_not_utf8, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_event_that_is_too_large_to_be_sent, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
