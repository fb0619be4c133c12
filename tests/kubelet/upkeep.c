/* What is done to containers that run: probes, resizing, rotation of logs. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/kubelet/scenarios.h"

#define PROBE_MS     1000
#define PROBES       4
#define PROBE_FAILED 3 /* failures in a row until a container is restarted */
#define RESTARTED_MS 120000
#define MIB(n)       ((uint64_t)(n) << 20)

/* ---- probes ---- */

struct probe {
	struct kubelet *k;
	struct container c;
	const char *script;
	int expected; /* exit code, or error */
	unsigned failures;
	atomic_uint restarts;
	struct worker worker;
};

static int restart(struct probe *p, struct err *err)
{
	int r = container_stop(p->k->node, p->c.id, 0, err);
	if (r == 0)
		r = pleg_wait(p->k->pleg, p->c.id, CONTAINER_EXITED, err);
	p->c.attempt++;
	p->failures = 0;
	if (r == 0)
		r = container_run(p->k->node, &p->c, err);
	if (r == 0)
		r = prune(p->k, p->c.pod, err);
	atomic_fetch_add(&p->restarts, r == 0);
	return r;
}

static int probe_once(void *userdata, struct err *err)
{
	struct probe *p = userdata;
	struct err own = ERR_INIT;
	int r = container_probe(p->k->node, p->c.id, p->script, 1, NULL, &own);
	/* A loaded host may be slower than a probe's timeout; a kubelet takes that as it comes. */
	if (r != p->expected && r != -ETIMEDOUT)
		return err_set(err, -EBADMSG, "the probe of %s: %d instead of %d %s", p->c.name, r,
			p->expected, own.msg);
	p->failures = r == 0 ? 0 : p->failures + 1;
	return p->failures == PROBE_FAILED ? restart(p, err) : 0;
}

/* Of a probe that took too long nothing is left. The pattern does not match itself. */
static int check_nothing_hangs(struct kubelet *k, const struct container *c, struct err *err)
{
	int r = container_probe(k->node, c->id,
		"for i in $(seq 50); do grep -qs 424[2] /proc/[0-9]*/cmdline || exit 0; "
		"sleep 0.1; done; exit 1",
		20, NULL, err);
	return r > 0 ? err_set(err, -EBADMSG, "a probe's process is left") : r;
}

/* For as long as was asked for, then until what fails has been restarted, which may take longer. */
static int keep_probing(
	struct kubelet *k, struct probe *failing, struct probe *hanging, struct err *err)
{
	uint64_t enough = now_ms() + k->node->count * PROBE_MS, last = enough + RESTARTED_MS;
	bool restarted = false;
	int r = 0;
	while (r == 0 && (now_ms() < enough || (!restarted && now_ms() < last))) {
		r = pleg_wait_list(k->pleg, err);
		restarted = atomic_load(&failing->restarts) && atomic_load(&hanging->restarts);
	}
	return r;
}

int scenario_probes(struct kubelet *k, struct err *err)
{
	static const struct {
		const char *name, *script;
		int expected;
	} kinds[PROBES] = {
		{"ready", "test $(cat /proc/1/comm)", 0},
		{"lively", "true", 0},
		{"failing", "exit 7", 7},
		{"hanging", "sleep 4242", -ETIMEDOUT},
	};
	struct pod pod = pod_named("probes");
	struct probe probes[PROBES];
	size_t n = 0;
	int r = pod_run(k->node, &pod, err);
	for (size_t i = 0; i < PROBES && r == 0; i++) {
		probes[i] = (struct probe){.k = k,
			.c = {.pod = &pod, .name = kinds[i].name, .script = "exec sleep 1000000"},
			.script = kinds[i].script,
			.expected = kinds[i].expected};
		probes[i].worker = (struct worker){.what = "probe",
			.period_ms = PROBE_MS,
			.turn = probe_once,
			.userdata = &probes[i]};
		r = container_run(k->node, &probes[i].c, err);
	}
	for (; n < PROBES && r == 0; n++)
		r = worker_start(&probes[n].worker, err);
	if (r == 0)
		r = keep_probing(k, &probes[2], &probes[3], err);
	while (n--) {
		struct err own = ERR_INIT;
		if (worker_stop(&probes[n].worker, r < 0 ? &own : err) < 0 && r == 0)
			r = err->code;
	}
	if (r == 0 && (!atomic_load(&probes[2].restarts) || !atomic_load(&probes[3].restarts)))
		r = err_set(err, -EBADMSG, "what fails has not been restarted");
	if (r == 0)
		r = check_nothing_hangs(k, &probes[3].c, err);
	return r < 0 ? r : pod_delete(k->node, pod.id, err);
}

/* ---- resizing ---- */

/* The status and the guest's cgroup have the limit. */
static int check_limit(struct kubelet *k, const struct container *c, struct err *err)
{
	_cleanup_message_ Runtime__V1__ContainerStatusResponse *answer = NULL;
	_cleanup_free_ char *in_guest = NULL;
	int r = container_status(k->node, c->id, &answer, err);
	if (r < 0)
		return r;
	const Runtime__V1__ContainerResources *told = answer->status->resources;
	if (!told || !told->linux ||
		(uint64_t)told->linux->memory_limit_in_bytes != c->memory_bytes)
		return err_set(err, -EBADMSG, "%s: the status does not have the limit", c->name);
	r = container_probe(k->node, c->id, "cat /sys/fs/cgroup/memory.max", 20, &in_guest, err);
	if (r == 0 && strtoull(in_guest, NULL, 10) != c->memory_bytes)
		r = err_set(err, -EBADMSG, "%s: its limit in the guest is %s", c->name, in_guest);
	return r;
}

/* Up: the pod first. Down: the containers first. */
static int resize(struct kubelet *k, struct pod *pod, struct container *c, size_t n, uint64_t bytes,
	struct err *err)
{
	bool up = n * bytes > pod->memory_bytes;
	int r = up ? pod_resize(k->node, pod, n * bytes, err) : 0;
	for (size_t i = 0; i < n && r == 0; i++)
		r = container_resize(k->node, &c[i], bytes, err);
	if (r == 0 && !up)
		r = pod_resize(k->node, pod, n * bytes, err);
	for (size_t i = 0; i < n && r == 0; i++)
		r = check_limit(k, &c[i], err);
	return r;
}

int scenario_resize(struct kubelet *k, struct err *err)
{
	struct pod pod = pod_named("resize");
	struct container c[2] = {
		{.pod = &pod, .name = "one", .script = "exec sleep 1000000"},
		{.pod = &pod, .name = "two", .script = "exec sleep 1000000"},
	};
	int r;
	pod.memory_bytes = MIB(64);
	r = pod_run(k->node, &pod, err);
	for (size_t i = 0; i < ARRAY_SIZE(c) && r == 0; i++) {
		c[i].memory_bytes = MIB(32);
		r = container_run(k->node, &c[i], err);
	}
	if (r == 0)
		r = resize(k, &pod, c, ARRAY_SIZE(c), MIB(96), err);
	if (r == 0)
		r = resize(k, &pod, c, ARRAY_SIZE(c), MIB(40), err);
	/* One that is restarted has the limit as it is now. */
	if (r == 0)
		r = container_stop(k->node, c[0].id, 0, err);
	c[0].attempt++;
	if (r == 0)
		r = container_run(k->node, &c[0], err);
	if (r == 0)
		r = check_limit(k, &c[0], err);
	return r < 0 ? r : pod_delete(k->node, pod.id, err);
}

/* ---- rotation ---- */

#define LOGS      4
#define LINES     4000
#define PARTS_MAX 200

struct rotation {
	struct kubelet *k;
	struct container c[LOGS];
	unsigned parts[LOGS];
};

static char *part_name(const char *log, unsigned n)
{
	return str_printf("%s.%u", log, n);
}

/* As the kubelet: where the runtime refuses, because the container has ended, the name goes back.
 */
static int rotate_one(struct rotation *rot, size_t i, struct err *err)
{
	struct container *c = &rot->c[i];
	_cleanup_free_ char *log = container_log(rot->k->node, c);
	_cleanup_free_ char *part = log ? part_name(log, rot->parts[i]) : NULL;
	struct err own = ERR_INIT;
	if (!part)
		return err_nomem(err);
	if (pleg_state(rot->k->pleg, c->id) != CONTAINER_RUNNING || rot->parts[i] == PARTS_MAX)
		return 0;
	if (rename(log, part) < 0) /* there is none yet where it is being started */
		return errno == ENOENT && rot->parts[i] == 0 ? 0 : err_errno(err, "rename %s", log);
	if (container_reopen_log(rot->k->node, c->id, &own) == 0) {
		rot->parts[i]++;
		return access(log, F_OK) == 0 ? 0
					      : err_errno(err, "after it was reopened: %s", log);
	}
	if (rename(part, log) < 0)
		return err_errno(err, "rename %s back", part);
	int r = pleg_wait(rot->k->pleg, c->id, CONTAINER_EXITED, err);
	return r < 0 ? err_wrap(err, "refused, though it runs: %s", own.msg) : 0;
}

static int rotate(void *userdata, struct err *err)
{
	struct rotation *rot = userdata;
	int r = 0;
	for (size_t i = 0; i < LOGS && r == 0; i++)
		r = rotate_one(rot, i, err);
	return r;
}

/* Goes on with the count; each line of the file must be the next number. */
static int count_lines(const char *path, unsigned *next, struct err *err)
{
	FILE *file = fopen(path, "re");
	char line[256];
	int r = 0;
	if (!file)
		return err_errno(err, "open %s", path);
	while (r == 0 && fgets(line, sizeof(line), file)) {
		unsigned n;
		if (sscanf(line, "%*s stdout F %u", &n) != 1 || n != *next)
			r = err_set(
				err, -EBADMSG, "%s: instead of %u there is: %s", path, *next, line);
		(*next)++;
	}
	fclose(file);
	return r;
}

static int check_parts(struct rotation *rot, size_t i, struct err *err)
{
	_cleanup_free_ char *log = container_log(rot->k->node, &rot->c[i]);
	unsigned next = 1;
	int r = log ? 0 : err_nomem(err);
	for (unsigned n = 0; n < rot->parts[i] && r == 0; n++) {
		_cleanup_free_ char *part = part_name(log, n);
		r = part ? count_lines(part, &next, err) : err_nomem(err);
	}
	if (r == 0)
		r = count_lines(log, &next, err);
	if (r == 0 && next != LINES + 1)
		r = err_set(err, -EBADMSG, "%s: %u lines in all", log, next - 1);
	if (r == 0 && rot->parts[i] == 0)
		r = err_set(err, -EBADMSG, "%s was not rotated", log);
	return r;
}

int scenario_rotation(struct kubelet *k, struct err *err)
{
	static const char *const names[LOGS] = {"a", "b", "c", "d"};
	static const char script[] = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; "
				     "[ $((i % 400)) != 0 ] || sleep 0.1; done";
	struct pod pod = pod_named("rotation");
	struct rotation rot = {.k = k};
	struct worker worker = {
		.what = "rotation", .period_ms = 100, .turn = rotate, .userdata = &rot};
	int r = pod_run(k->node, &pod, err);
	for (size_t i = 0; i < LOGS && r == 0; i++) {
		rot.c[i] = (struct container){.pod = &pod, .name = names[i], .script = script};
		r = container_create(k->node, &rot.c[i], err);
	}
	/* Before the first of them may have ended. */
	if (r == 0)
		r = worker_start(&worker, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < LOGS && r == 0; i++)
		r = container_start(k->node, rot.c[i].id, err);
	for (size_t i = 0; i < LOGS && r == 0; i++)
		r = pleg_wait(k->pleg, rot.c[i].id, CONTAINER_EXITED, err);
	struct err own = ERR_INIT;
	if (worker_stop(&worker, r < 0 ? &own : err) < 0 && r == 0)
		r = err->code;
	for (size_t i = 0; i < LOGS && r == 0; i++)
		r = check_parts(&rot, i, err);
	return r < 0 ? r : pod_delete(k->node, pod.id, err);
}
