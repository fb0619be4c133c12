/*
 * One pod sandbox: how it comes up, and goes.
 *
 * States, as recorded: CREATING → READY → NOTREADY → (record gone), with REMOVING while it goes. A
 * sandbox is in the index from its first record on; list RPCs show it once it has been READY.
 *
 * Every resource is named after the sandbox's id and recorded (by the CREATING record itself)
 * before it is made, so whatever a crash leaves is found by the id.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/events.h"
#include "cri-server/runtime/guest_network.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/mirror.h"

#define CALL_MS       10000 /* an answer of the agent that needs no waiting in the guest */
#define RELEASE_TRIES 5
#define POWEROFF_MS   3000 /* for the guest to end by itself */
#define BUSY_MS       20   /* until a pod that somebody changes is looked at again */
#define LOOK_MS       200  /* between looks at whether a caller has gone away */
/* What a line of the log holds of it, escaped. */
#define CONSOLE_LOGGED_BYTES 1500

struct sandbox *sandbox_new(struct runtime *rt, const char *id,
	const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	struct sandbox *sandbox = calloc(1, sizeof(*sandbox));
	if (!sandbox) {
		err_nomem(err);
		return NULL;
	}
	sandbox->runtime = rt;
	sandbox->refs = 1;
	snprintf(sandbox->id, sizeof(sandbox->id), "%s", id);
	pthread_mutex_init(&sandbox->op, NULL);
	sandbox->config = (Runtime__V1__PodSandboxConfig *)message_copy(&config->base);
	sandbox->record = calloc(1, sizeof(*sandbox->record));
	if (sandbox->record)
		bulkhead__store__sandbox__init(sandbox->record);
	if (!sandbox->config || !sandbox->record) {
		sandbox_unref(sandbox);
		err_nomem(err);
		return NULL;
	}
	return sandbox;
}

static void sandbox_free(struct sandbox *sandbox)
{
	if (sandbox->config)
		runtime__v1__pod_sandbox_config__free_unpacked(sandbox->config, NULL);
	if (sandbox->limits)
		runtime__v1__linux_pod_sandbox_config__free_unpacked(sandbox->limits, NULL);
	if (sandbox->record)
		bulkhead__store__sandbox__free_unpacked(sandbox->record, NULL);
	if (sandbox->usage)
		bulkhead__agent__stats_response__free_unpacked(sandbox->usage, NULL);
	rpc_answer_done(&sandbox->listed);
	pthread_mutex_destroy(&sandbox->op);
	free(sandbox);
}

const Runtime__V1__LinuxPodSandboxConfig *sandbox_limits(const struct sandbox *sandbox)
{
	return sandbox->limits ? sandbox->limits : sandbox->config->linux;
}

void sandbox_unref(struct sandbox *sandbox)
{
	struct runtime *rt = sandbox->runtime;
	pthread_mutex_lock(&rt->lock);
	bool last = --sandbox->refs == 0;
	pthread_mutex_unlock(&rt->lock);
	if (last)
		sandbox_free(sandbox);
}

struct sandbox *sandbox_find(struct runtime *rt, const char *id, struct err *err)
{
	struct id_search search = {.id = id};
	struct sandbox *sandbox;

	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(sandbox, &rt->sandboxes, link)
		id_search_offer(&search, sandbox->id, sandbox);
	struct sandbox *found = id_search_end(&search, "sandbox", err);
	if (found)
		found->refs++;
	pthread_mutex_unlock(&rt->lock);
	return found;
}

int sandbox_check_found(struct sandbox *sandbox, struct err *err)
{
	pthread_mutex_lock(&sandbox->runtime->lock);
	bool gone = sandbox->gone;
	pthread_mutex_unlock(&sandbox->runtime->lock);
	return gone ? err_set(err, -ENOENT, "sandbox '%s' not found", sandbox->id) : 0;
}

int sandbox_save_locked(struct sandbox *sandbox, struct err *err)
{
	int r = store_put(
		sandbox->runtime->store, STORE_SANDBOX, sandbox->id, &sandbox->record->base, err);
	sandbox->unsaved = r < 0;
	return r < 0 ? err_wrap(err, "record sandbox %s", sandbox->id) : 0;
}

int sandbox_set_state(struct sandbox *sandbox, Bulkhead__Store__SandboxState state, struct err *err)
{
	pthread_mutex_lock(&sandbox->runtime->lock);
	sandbox->record->state = state;
	int r = sandbox_save_locked(sandbox, err);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	return r;
}

/* What has just been recorded. */
static void tell(struct sandbox *sandbox, Runtime__V1__ContainerEventType type)
{
	pthread_mutex_lock(&sandbox->runtime->lock);
	events_tell_sandbox(sandbox, type);
	pthread_mutex_unlock(&sandbox->runtime->lock);
}

static void leave_index_locked(struct sandbox *sandbox)
{
	TAILQ_REMOVE(&sandbox->runtime->sandboxes, sandbox, link);
	sandbox->gone = true;
}

void sandbox_leave_index(struct sandbox *sandbox)
{
	pthread_mutex_lock(&sandbox->runtime->lock);
	leave_index_locked(sandbox);
	pthread_mutex_unlock(&sandbox->runtime->lock);
}

int sandbox_record_event(struct sandbox *sandbox, uint64_t sequence)
{
	pthread_mutex_lock(&sandbox->runtime->lock);
	sandbox->record->event_sequence = sequence;
	int r = sandbox->gone ? 0 : sandbox_save_locked(sandbox, NULL);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	return r;
}

static void pause_ms(long ms)
{
	const struct timespec pause = {.tv_nsec = ms * 1000000};
	nanosleep(&pause, NULL);
}

int sandbox_record_stray(struct sandbox *sandbox, uint64_t sequence)
{
	int r = sandbox_record_event(sandbox, sequence);
	return r < 0 ? r : AGENT_EVENT_STRAY;
}

void sandbox_await_recovery(struct sandbox *sandbox)
{
	struct runtime *rt = sandbox->runtime;
	pthread_mutex_lock(&rt->lock);
	while (sandbox->recovering)
		pthread_cond_wait(&rt->recovered, &rt->lock);
	pthread_mutex_unlock(&rt->lock);
}

static bool lock_for_a_while(pthread_mutex_t *mutex)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += LOOK_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	return pthread_mutex_timedlock(mutex, &until) == 0;
}

/*
 * A caller that has gone away waits for nothing: it would keep a worker, for as long as the pod's
 * guest draws out what is being done.
 */
int sandbox_lock(struct sandbox *sandbox, struct rpc_call *call, struct err *err)
{
	struct runtime *rt = sandbox->runtime;
	bool locked = false;
	while (!locked && !rpc_call_cancelled(call)) {
		pthread_mutex_lock(&rt->lock);
		if (sandbox->recovering)
			wait_until(rt, &rt->recovered, ev_now_ms() + LOOK_MS);
		bool recovering = sandbox->recovering;
		pthread_mutex_unlock(&rt->lock);
		locked = !recovering && lock_for_a_while(&sandbox->op);
	}
	return locked ? 0
		      : err_set(err, -ECANCELED,
				"the caller went away while sandbox %s was being changed",
				sandbox->id);
}

static bool is_ready(const struct sandbox *sandbox)
{
	return sandbox->record->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY;
}

struct machine *sandbox_machine(struct sandbox *sandbox, struct err *err)
{
	struct machine *machine = NULL;
	pthread_mutex_lock(&sandbox->runtime->lock);
	if (sandbox->machine)
		machine = machine_ref(sandbox->machine);
	else if (sandbox->unreached[0] && is_ready(sandbox))
		err_set(err, -EAGAIN,
			"sandbox %s runs but is not reached yet, which is tried again: %s",
			sandbox->id, sandbox->unreached);
	else
		err_set(err, -EBADFD, "sandbox %s does not run", sandbox->id);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	return machine;
}

int sandbox_check_runs(struct sandbox *sandbox, struct err *err)
{
	sandbox_await_recovery(sandbox);
	struct machine *machine = sandbox_machine(sandbox, err);
	if (!machine)
		return -EBADFD;
	machine_unref(machine);
	return 0;
}

void sandbox_drop_machine(struct sandbox *sandbox)
{
	pthread_mutex_lock(&sandbox->runtime->lock);
	struct machine *machine = TAKE_PTR(sandbox->machine);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	sandbox->follower = network_follower_free(sandbox->follower);
	sandbox->mirror = mirror_free(sandbox->mirror);
	machine_unref(machine);
}

char *sandbox_scratch_path(const struct runtime *rt, const char *id)
{
	return str_printf("%s/scratch/%s.ext4", rt->config->state_dir, id);
}

static int kill_container(struct container *container, void *userdata, struct err *err)
{
	(void)userdata;
	return container_stop(container, 0, NULL, err);
}

/* Asks the guest to end and gives it a moment; then ends it. */
static int stop_machine(struct sandbox *sandbox, struct err *err)
{
	struct runtime *rt = sandbox->runtime;
	struct machine *machine = sandbox_machine(sandbox, NULL);
	if (machine) {
		Bulkhead__Agent__PowerOffRequest request = BULKHEAD__AGENT__POWER_OFF_REQUEST__INIT;
		if (agent_call(machine->agent, "PowerOff", &request.base, CALL_MS, NULL, NULL) == 0)
			hv_vm_wait_off(rt->hv, sandbox->id, POWEROFF_MS);
		machine_unref(machine);
	}
	sandbox_drop_machine(sandbox);
	return hv_vm_destroy(rt->hv, sandbox->id, err);
}

/* A plugin that goes on failing must not keep a pod from ending for ever. */
static int release_network(void *subject, struct err *err)
{
	struct sandbox *sandbox = subject;
	if (sandbox->record->network_released)
		return 0;
	int r = net_pod_teardown(sandbox->runtime->net, sandbox->id, err);
	if (r < 0 && ++sandbox->release_failures < RELEASE_TRIES)
		return err_wrap(err, "release the network");
	if (r < 0) {
		log_event(sandbox->runtime->log, LOG_LEVEL_ERROR,
			"network not released; the pod ends without, the next start tries again",
			"pod", sandbox->id, "err", err->msg, NULL);
		r = net_pod_abandon(sandbox->runtime->net, sandbox->id, err);
		if (r < 0)
			return err_wrap(err, "give up the network");
	}
	pthread_mutex_lock(&sandbox->runtime->lock);
	sandbox->record->network_released = true;
	r = sandbox_save_locked(sandbox, err);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	return r;
}

static int save_exit(struct container *container, void *userdata, struct err *err)
{
	(void)userdata;
	return container_save_exit(container, err);
}

/*
 * One after the other in order: containers' output and exit codes come before the machine's end.
 * Of a code that cannot be written down the machine has the only copy that outlives us.
 */
static int stop_containers(void *subject, struct err *err)
{
	struct sandbox *sandbox = subject;
	struct err first = ERR_INIT;
	if (is_ready(sandbox) && containers_each(sandbox, kill_container, NULL, &first) < 0)
		log_event(sandbox->runtime->log, LOG_LEVEL_WARNING,
			"container did not stop before its machine", "pod", sandbox->id, "err",
			first.msg, NULL);
	return containers_each(sandbox, save_exit, NULL, err);
}

static int end_machine(void *subject, struct err *err)
{
	struct sandbox *sandbox = subject;
	int r = stop_machine(sandbox, err);
	containers_drain(sandbox);
	pthread_mutex_lock(&sandbox->runtime->lock);
	containers_lost_locked(sandbox, "the pod was stopped", NULL);
	containers_tell_lost_locked(sandbox);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	return r;
}

static int record_stopped(void *subject, struct err *err)
{
	struct sandbox *sandbox = subject;
	bool ready = is_ready(sandbox);
	if (!ready && !sandbox->unsaved)
		return 0;
	int r = sandbox_set_state(sandbox, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY, err);
	if (ready)
		tell(sandbox, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT);
	return r;
}

static const struct step stop_steps[] = {
	{"containers", stop_containers, NULL},
	{"machine", end_machine, NULL},
	{"record", record_stopped, NULL},
	{"network", release_network, NULL},
};
STEP_TABLE(stop_table, "StopPodSandbox", stop_steps);

int sandbox_stop(struct sandbox *sandbox, struct err *err)
{
	return steps_run(&stop_table, sandbox, NULL, NULL, err);
}

static int remove_container(struct container *container, void *userdata, struct err *err)
{
	(void)userdata;
	return container_remove(container, err);
}

static int stop_first(void *subject, struct err *err)
{
	return sandbox_stop(subject, err);
}

static int record_removing(void *subject, struct err *err)
{
	return sandbox_set_state(subject, BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_REMOVING, err);
}

static int remove_containers(void *subject, struct err *err)
{
	return containers_each(subject, remove_container, NULL, err);
}

static int remove_scratch(void *subject, struct err *err)
{
	const struct sandbox *sandbox = subject;
	_cleanup_free_ char *scratch = sandbox_scratch_path(sandbox->runtime, sandbox->id);
	if (!scratch)
		return err_nomem(err);
	if (unlink(scratch) < 0 && errno != ENOENT)
		return err_errno(err, "remove %s", scratch);
	return 0;
}

static int delete_record(void *subject, struct err *err)
{
	struct sandbox *sandbox = subject;
	struct runtime *rt = sandbox->runtime;
	/* Together, or an event that comes in between would write the record again. */
	pthread_mutex_lock(&rt->lock);
	int r = store_delete(rt->store, STORE_SANDBOX, sandbox->id, err);
	if (r == 0)
		leave_index_locked(sandbox);
	pthread_mutex_unlock(&rt->lock);
	return r;
}

static const struct step remove_steps[] = {
	{"stop", stop_first, NULL},
	{"removing", record_removing, NULL},
	{"containers", remove_containers, NULL},
	{"scratch", remove_scratch, NULL},
	{"record", delete_record, NULL},
};
STEP_TABLE(remove_table, "RemovePodSandbox", remove_steps);

int sandbox_remove(struct sandbox *sandbox, struct err *err)
{
	int r = steps_run(&remove_table, sandbox, NULL, NULL, err);
	if (r < 0)
		return r;
	tell(sandbox, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_DELETED_EVENT);
	sandbox_unref(sandbox); /* the index's; the caller has one of its own */
	return 0;
}

/* ---- a machine that ended by itself ---- */

struct death {
	struct runtime *rt;
	char sandbox_id[ID_LEN + 1];
	char reason[512];
};

/*
 * Pod and containers at once: nobody sees the one's end without the others'. It counts where it
 * cannot be recorded, too: the next start finds no machine either.
 */
static int record_death_locked(struct sandbox *sandbox, const char *reason, struct err *err)
{
	struct store *store = sandbox->runtime->store;
	int r = message_set_string(&sandbox->record->death, reason, err);
	if (r == 0)
		r = store_begin(store, err);
	sandbox->record->state = BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_NOTREADY;
	int lost = containers_lost_locked(sandbox, reason, err);
	if (r == 0)
		r = lost;
	if (r == 0)
		r = sandbox_save_locked(sandbox, err);
	if (r == 0)
		r = store_commit(store, err);
	if (r < 0) {
		store_rollback(store);
		containers_unsaved_locked(sandbox);
		sandbox->unsaved = true;
	}
	return r;
}

/* With the end of its console, whose file goes with the machine: a panic, mostly. */
static void log_death(const struct sandbox *sandbox, const char *reason)
{
	_cleanup_free_ char *console = NULL;
	int r = hv_vm_console(
		sandbox->runtime->hv, sandbox->id, CONSOLE_LOGGED_BYTES, &console, NULL);
	log_event(sandbox->runtime->log, LOG_LEVEL_ERROR, "machine ended by itself", "pod",
		sandbox->id, "reason", reason, "console", r == 0 && console[0] ? console : NULL,
		NULL);
}

/* `op` is held. */
static void end_dead(struct sandbox *sandbox, const char *reason)
{
	struct err err = ERR_INIT;
	if (sandbox->record->state != BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY)
		return;
	log_death(sandbox, reason);
	sandbox_drop_machine(sandbox);
	hv_vm_destroy(sandbox->runtime->hv, sandbox->id, NULL);
	containers_drain(sandbox);
	pthread_mutex_lock(&sandbox->runtime->lock);
	int r = record_death_locked(sandbox, reason, &err);
	containers_tell_lost_locked(sandbox);
	events_tell_sandbox(sandbox, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT);
	pthread_mutex_unlock(&sandbox->runtime->lock);
	if (r < 0)
		log_event(sandbox->runtime->log, LOG_LEVEL_ERROR, "death not recorded", "pod",
			sandbox->id, "err", err.msg, NULL);
}

static void handle_death(void *userdata)
{
	struct death *death = userdata;
	struct sandbox *sandbox = sandbox_find(death->rt, death->sandbox_id, NULL);
	bool busy = sandbox && pthread_mutex_trylock(&sandbox->op) != 0;
	if (sandbox && !busy) {
		end_dead(sandbox, death->reason);
		pthread_mutex_unlock(&sandbox->op);
	}
	if (sandbox)
		sandbox_unref(sandbox);
	/* Not waited for: whoever is at it may take a minute, and other pods' deaths stand behind.
	 */
	if (busy) {
		pause_ms(BUSY_MS);
		if (ev_post(death->rt->keeper.loop, handle_death, death) == 0)
			return;
	}
	free(death);
}

void sandbox_report_death(struct runtime *rt, const char *sandbox_id, const char *reason)
{
	struct death *death = calloc(1, sizeof(*death));
	if (!death)
		return;
	death->rt = rt;
	snprintf(death->sandbox_id, sizeof(death->sandbox_id), "%s", sandbox_id);
	snprintf(death->reason, sizeof(death->reason), "%s", reason);
	if (ev_post(rt->keeper.loop, handle_death, death) < 0)
		free(death);
}
