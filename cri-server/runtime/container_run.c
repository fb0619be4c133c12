/* A container from its start to its removal: how it starts, ends, is stopped and removed. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "common/fault.h"
#include "common/fd.h"
#include "cri-server/runtime/events.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/signals.h"

#define CALL_MS      10000
#define LOG_DRAIN_MS 5000 /* from the exit, or the machine's end, to its output's last byte */
#define START_MS     60000
#define KILLED_MS    10000 /* from SIGKILL to the exit's record */
#define START_FAILED 128   /* exit code of what never ran, as containerd has it */
#define DIED_EXIT    137

/* Writes down what could not be written before. With the lock held. */
static int save_unsaved_locked(struct container *c, struct err *err)
{
	return c->unsaved ? container_save_locked(c, err) : 0;
}

/*
 * Records the end of a container, unless it is recorded. One that cannot be written is known all
 * the same. With the lock held.
 */
static int finish_locked(struct container *c, int32_t exit_code, const char *reason,
	const char *message, struct err *err)
{
	if (!container_runs(c))
		return save_unsaved_locked(c, err);
	c->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED;
	c->record->exit_code = exit_code;
	if (!c->record->finished_ns)
		c->record->finished_ns = realtime_ns();
	c->end_untold = true;
	int r = message_set_string(&c->record->reason, reason, err);
	if (r == 0)
		r = message_set_string(&c->record->message, message, err);
	if (r == 0)
		r = container_save_locked(c, err);
	pthread_cond_broadcast(&c->changed);
	return r;
}

/* Unless the start is not told of yet: then both are, in order. With the lock held. */
static void tell_end_locked(struct container *c)
{
	if (c->start_untold || !c->end_untold)
		return;
	c->end_untold = false;
	events_tell_container(c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT);
}

static int signal_container(
	struct container *c, struct machine *machine, int signo, bool all, struct err *err)
{
	Bulkhead__Agent__SignalProcessRequest request =
		BULKHEAD__AGENT__SIGNAL_PROCESS_REQUEST__INIT;
	request.container_id = c->id;
	request.signal = (uint32_t)signo;
	request.all = all;
	int r = agent_call(machine->agent, "SignalProcess", &request.base, CALL_MS, NULL, err);
	/* It ended by itself a moment ago: that is what was wanted. */
	return r == -ESRCH || r == -ENOENT ? 0 : r;
}

/* What StartContainer's steps work on. */
struct start {
	struct container *container;
	struct machine *machine;
};

static int record_start(void *subject, struct err *err)
{
	struct container *c = ((struct start *)subject)->container;
	pthread_mutex_lock(&c->runtime->lock);
	c->record->started_ns = realtime_ns();
	c->start_untold = true;
	pthread_mutex_unlock(&c->runtime->lock);
	return container_set_state(c, BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING, err);
}

static int open_log(void *subject, struct err *err)
{
	struct start *start = subject;
	return container_open_log(start->container, start->machine, err);
}

static int start_in_guest(void *subject, struct err *err)
{
	struct container *c = ((struct start *)subject)->container;
	struct machine *machine = ((struct start *)subject)->machine;
	Bulkhead__Agent__StartContainerRequest request =
		BULKHEAD__AGENT__START_CONTAINER_REQUEST__INIT;
	request.container_id = c->id;
	int r = agent_call(machine->agent, "StartContainer", &request.base, START_MS, NULL, err);
	r = container_image_error(r, err);
	if (r < 0) {
		/* An answer that did not come says nothing of what runs. */
		signal_container(c, machine, SIGKILL, true, NULL);
		container_close_log(c);
	}
	return r;
}

/* Of a start that began: also of the end that came before its answer. */
static void tell_start(struct container *c, bool started)
{
	pthread_mutex_lock(&c->runtime->lock);
	c->start_untold = false;
	if (started)
		events_tell_container(
			c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STARTED_EVENT);
	tell_end_locked(c);
	pthread_mutex_unlock(&c->runtime->lock);
}

static const struct step start_steps[] = {
	{"record", record_start, NULL},
	{"log", open_log, NULL},
	{"guest", start_in_guest, NULL},
};
STEP_TABLE(start_table, "StartContainer", start_steps);

int container_start(struct container *c, struct err *err)
{
	if (container_state(c) != BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATED)
		return err_set(err, -EBADFD, "container %s was started before, or is being removed",
			c->id);
	struct machine *machine = sandbox_machine(c->sandbox, err);
	if (!machine)
		return err_wrap(err, "start container %s", c->id);
	int r = steps_run(&start_table, &(struct start){c, machine}, NULL, NULL, err);
	machine_unref(machine);
	if (r < 0) {
		pthread_mutex_lock(&c->runtime->lock);
		/* The guest may have told of the end of what never began before it answered. */
		if (c->record->state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_EXITED)
			c->record->state = BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING;
		finish_locked(c, START_FAILED, "StartError", err->msg, NULL);
		pthread_mutex_unlock(&c->runtime->lock);
	}
	tell_start(c, r == 0);
	return r < 0 ? err_wrap(err, "start container %s", c->id) : 0;
}

/* ---- the end ---- */

static const char *exit_reason(const Bulkhead__Agent__Exit *exit)
{
	if (exit->oom_killed)
		return "OOMKilled";
	return exit->code == 0 ? "Completed" : "Error";
}

/* The guest's clock is the guest's word: it cannot have ended before it began, or later than now.
 */
static int64_t believable_end(const struct container *c, int64_t finished_ns)
{
	int64_t now = realtime_ns();
	return finished_ns >= c->record->started_ns && finished_ns <= now ? finished_ns : now;
}

/* The container of that id, if it is the sandbox's: a guest may speak of its own containers only.
 */
static struct container *own_container(struct sandbox *sandbox, const char *id)
{
	struct container *c =
		strlen(id) == ID_LEN ? container_find(sandbox->runtime, id, NULL) : NULL;
	if (c && c->sandbox != sandbox) {
		container_unref(c);
		return NULL;
	}
	return c;
}

/* The exit and the event's number in one transaction; where it fails, the event comes again. */
static int record_exit(
	struct container *c, const Bulkhead__Agent__Event *event, bool drained, struct err *err)
{
	struct runtime *rt = c->runtime;
	Bulkhead__Store__Sandbox *record = c->sandbox->record;
	uint64_t before = record->event_sequence;
	bool ran = container_runs(c);
	int r = store_begin(rt->store, err);
	if (r < 0)
		return r;
	if (ran)
		c->record->finished_ns = believable_end(c, event->exit->finished_ns);
	c->record->log_incomplete = !drained;
	r = finish_locked(c, event->exit->code, exit_reason(event->exit), "", err);
	record->event_sequence = event->sequence;
	if (r == 0)
		r = sandbox_save_locked(c->sandbox, err);
	if (r == 0)
		r = store_commit(rt->store, err);
	if (r < 0) {
		store_rollback(rt->store);
		c->unsaved = c->sandbox->unsaved = true;
		record->event_sequence = before; /* whatever else is written of the pod */
	}
	tell_end_locked(c);
	return r;
}

int container_exited(struct sandbox *sandbox, const Bulkhead__Agent__Event *event)
{
	struct runtime *rt = sandbox->runtime;
	struct container *c = own_container(sandbox, event->container_id);
	if (!c) /* removed meanwhile */
		return sandbox_record_stray(sandbox, event->sequence);
	struct err err = ERR_INIT;

	/* All that it wrote is in its log before its exit is known to anybody. */
	bool drained = container_drain_log(c, ev_now_ms() + LOG_DRAIN_MS);

	FAULT_POINT("StopContainer", "exit");
	pthread_mutex_lock(&rt->lock);
	bool news = container_runs(c) || c->unsaved;
	int r = news ? record_exit(c, event, drained, &err) : 0;
	pthread_mutex_unlock(&rt->lock);
	if (news && !drained)
		log_event(rt->log, LOG_LEVEL_WARNING, "log not complete at exit", "container",
			c->id, NULL);
	if (!news)
		r = sandbox_record_stray(sandbox, event->sequence);
	else if (r < 0)
		log_event(rt->log, LOG_LEVEL_ERROR, "exit not recorded", "container", c->id, "err",
			err.msg, NULL);
	else if (drained)
		container_close_log(c);
	container_unref(c);
	return r;
}

static int drain(struct container *c, void *userdata, struct err *err)
{
	const uint64_t *until_ms = userdata;
	(void)err;
	container_drain_log(c, *until_ms);
	return 0;
}

void containers_drain(struct sandbox *sandbox)
{
	uint64_t until_ms = ev_now_ms() + LOG_DRAIN_MS;
	containers_each(sandbox, drain, &until_ms, NULL);
}

int containers_lost_locked(struct sandbox *sandbox, const char *reason, struct err *err)
{
	struct container *c;
	int r = 0;
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link) {
		if (c->sandbox != sandbox)
			continue;
		int one = finish_locked(c, DIED_EXIT, "Error", reason, err);
		r = one < 0 ? one : r;
	}
	return r;
}

void containers_unsaved_locked(struct sandbox *sandbox)
{
	struct container *c;
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link)
		c->unsaved |= c->sandbox == sandbox;
}

void containers_tell_lost_locked(struct sandbox *sandbox)
{
	struct container *c;
	TAILQ_FOREACH(c, &sandbox->runtime->containers, link)
		if (c->sandbox == sandbox)
			tell_end_locked(c);
}

/* ---- stop and remove ---- */

int container_save_exit(struct container *c, struct err *err)
{
	pthread_mutex_lock(&c->runtime->lock);
	int r = save_unsaved_locked(c, err);
	pthread_mutex_unlock(&c->runtime->lock);
	return r;
}

/* True when the container has ended, false when the time or the caller's patience has. */
static bool wait_exit(struct container *c, uint64_t timeout_ms, struct rpc_call *call)
{
	uint64_t deadline = ev_now_ms() + timeout_ms;
	pthread_mutex_lock(&c->runtime->lock);
	while (container_runs(c) && ev_now_ms() < deadline && !(call && rpc_call_cancelled(call))) {
		uint64_t slice = ev_now_ms() + 200; /* to see a caller that goes away */
		wait_until(c->runtime, &c->changed, slice < deadline ? slice : deadline);
	}
	bool ended = !container_runs(c);
	pthread_mutex_unlock(&c->runtime->lock);
	return ended;
}

static int kill_container(struct container *c, struct machine *machine, struct err *err)
{
	FAULT_POINT("StopContainer", "kill");
	return signal_container(c, machine, SIGKILL, true, err);
}

/*
 * Once: to many a program a second one means that it shall not finish what it is at. Whoever stops
 * it again waits for the same end, for another grace period perhaps.
 */
static int ask_to_end(struct container *c, struct machine *machine, int signo, struct err *err)
{
	pthread_mutex_lock(&c->runtime->lock);
	bool asked = c->asked_to_end;
	c->asked_to_end = true;
	pthread_mutex_unlock(&c->runtime->lock);
	if (asked)
		return 0;
	FAULT_POINT("StopContainer", "signal");
	int r = signal_container(c, machine, signo, false, err);
	if (r < 0) {
		pthread_mutex_lock(&c->runtime->lock);
		c->asked_to_end = false;
		pthread_mutex_unlock(&c->runtime->lock);
	}
	return r;
}

int container_stop(struct container *c, uint64_t grace_ms, struct rpc_call *call, struct err *err)
{
	pthread_mutex_lock(&c->runtime->lock);
	bool runs = container_runs(c);
	/* Of one that is still being made the record is not whole. */
	int signo = runs ? signal_from_name(c->record->stop_signal) : 0;
	pthread_mutex_unlock(&c->runtime->lock);
	if (!runs)
		return 0;
	struct err none = ERR_INIT;
	struct machine *machine = sandbox_machine(c->sandbox, &none);
	if (!machine && none.code != -EAGAIN && wait_exit(c, KILLED_MS, call))
		return 0; /* its end was being recorded */
	if (!machine)
		return err_set(err, none.code, "%s", none.msg);
	int r = 0;
	bool ended = false;
	if (grace_ms) {
		r = ask_to_end(c, machine, signo ? signo : SIGTERM, err);
		ended = r == 0 && wait_exit(c, grace_ms, call);
	}
	/* One that does not know of its end has not had its grace period. */
	if (r == 0 && !ended && call && rpc_call_cancelled(call))
		r = err_set(err, -ECANCELED, "the caller went away before the grace period ended");
	else if (r == 0 && !ended)
		r = kill_container(c, machine, err);
	if (r == 0 && !ended && !wait_exit(c, KILLED_MS, NULL))
		r = err_set(err, -ETIMEDOUT, "it still runs %d s after SIGKILL", KILLED_MS / 1000);
	FAULT_POINT("StopContainer", "done");
	machine_unref(machine);
	return r < 0 ? err_wrap(err, "stop container %s", c->id) : 0;
}

static int stop_first(void *container, struct err *err)
{
	return container_stop(container, 0, NULL, err);
}

/* Until it is gone it is shown as ended: what never ran must not read as a success. */
static int record_removing(void *container, struct err *err)
{
	struct container *c = container;
	int r = 0;
	pthread_mutex_lock(&c->runtime->lock);
	if (!c->record->finished_ns) {
		c->record->exit_code = START_FAILED;
		r = message_set_string(&c->record->reason, "StartError", err);
	}
	pthread_mutex_unlock(&c->runtime->lock);
	return r < 0 ? r
		     : container_set_state(
			       c, BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_REMOVING, err);
}

static int remove_from_guest(void *container, struct err *err)
{
	struct container *c = container;
	struct err none = ERR_INIT;
	struct machine *machine = sandbox_machine(c->sandbox, &none);
	if (!machine && none.code == -EAGAIN)
		return err_set(err, none.code, "%s", none.msg);
	if (!machine)
		return 0; /* all of it went with the machine */
	int r = container_remove_in_guest(machine, c->id, err);
	if (r == 0) {
		volumes_release(c->sandbox, machine, c);
		disks_release(c->sandbox, machine, c);
		pin_without(machine, c);
	}
	machine_unref(machine);
	return r;
}

static int discard_log(void *container, struct err *err)
{
	(void)err;
	container_discard_log(container);
	return 0;
}

static int release_layers(void *container, struct err *err)
{
	struct container *c = container;
	(void)err;
	img_release(c->runtime->images, c->id);
	return 0;
}

static int delete_record(void *container, struct err *err)
{
	struct container *c = container;
	return store_delete(c->runtime->store, STORE_CONTAINER, c->id, err);
}

static const struct step remove_steps[] = {
	{"stop", stop_first, NULL},
	{"removing", record_removing, NULL},
	{"guest", remove_from_guest, NULL},
	{"log", discard_log, NULL},
	{"layers", release_layers, NULL},
	{"record", delete_record, NULL},
};
STEP_TABLE(remove_table, "RemoveContainer", remove_steps);

int container_remove(struct container *c, struct err *err)
{
	int r = steps_run(&remove_table, c, NULL, NULL, err);
	if (r < 0)
		return err_wrap(err, "remove container %s", c->id);
	container_forget(c); /* the caller has a reference of its own */
	pthread_mutex_lock(&c->runtime->lock);
	events_tell_container(c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_DELETED_EVENT);
	pthread_mutex_unlock(&c->runtime->lock);
	return 0;
}
