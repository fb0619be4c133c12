#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "cri-server/fsck/internal.h"
#include "cri-server/message.h"

/* ---- the report ---- */

static void finding_done(struct fsck_finding *finding)
{
	free(finding->id);
	free(finding->problem);
}

struct fsck_report *fsck_report_free(struct fsck_report *report)
{
	if (!report)
		return NULL;
	for (size_t i = 0; i < report->n_findings; i++)
		finding_done(&report->findings[i]);
	free(report->findings);
	free(report);
	return NULL;
}

void fsck_find(struct fsck *fsck, size_t kind, const char *id, const char *fmt, ...)
{
	static const char *const kinds[] = {"pod", "container", "image", "layer", "host"};
	struct fsck_report *report = fsck->report;
	struct fsck_finding finding = {.kind = kinds[kind], .id = strdup(id)};
	va_list ap;
	va_start(ap, fmt);
	if (vasprintf(&finding.problem, fmt, ap) < 0)
		finding.problem = NULL;
	va_end(ap);
	struct fsck_finding *findings =
		reallocarray(report->findings, report->n_findings + 1, sizeof(*findings));
	if (findings)
		report->findings = findings;
	if (!findings || !finding.id || !finding.problem) {
		finding_done(&finding);
		fsck->failure = -ENOMEM;
		return;
	}
	findings[report->n_findings++] = finding;
}

static bool has_finding(const struct fsck_report *report, const struct fsck_finding *wanted)
{
	for (size_t i = 0; i < report->n_findings; i++)
		if (strcmp(report->findings[i].id, wanted->id) == 0 &&
			strcmp(report->findings[i].problem, wanted->problem) == 0)
			return true;
	return false;
}

void fsck_keep_common(struct fsck_report *report, const struct fsck_report *other)
{
	size_t n = 0;
	for (size_t i = 0; i < report->n_findings; i++)
		if (has_finding(other, &report->findings[i]))
			report->findings[n++] = report->findings[i];
		else
			finding_done(&report->findings[i]);
	report->n_findings = n;
}

/* ---- what the looks have in common ---- */

struct fsck_record *fsck_record(struct fsck *fsck, enum store_kind kind, const char *id)
{
	for (size_t i = 0; i < fsck->report->n[kind]; i++)
		if (strncmp(fsck->records[kind][i].id, id, strlen(id)) == 0)
			return &fsck->records[kind][i];
	return NULL;
}

bool fsck_pod_runs(const struct fsck_record *pod)
{
	return pod->pod->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_READY;
}

bool fsck_allows(const struct fsck_record *pod, enum fsck_need need)
{
	if (!pod)
		return false;
	if (pod->moving || fsck_pod_runs(pod) || need == FSCK_DISK)
		return true;
	return need == FSCK_NETWORK && !pod->pod->network_released;
}

bool fsck_id_in(const char *name, char id[FSCK_ID_LEN + 1])
{
	while (*name) {
		size_t len = strspn(name, "0123456789abcdef");
		if (len >= FSCK_ID_PART && len <= FSCK_ID_LEN) {
			snprintf(id, FSCK_ID_LEN + 1, "%.*s", (int)len, name);
			return true;
		}
		name += len ? len : 1;
	}
	return false;
}

int fsck_each_entry(struct fsck *fsck, const char *path,
	void (*fn)(struct fsck *fsck, const char *name, void *userdata), void *userdata,
	struct err *err)
{
	DIR *dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, "open %s", path);
	for (const struct dirent *entry; (entry = readdir(dir));)
		if (entry->d_name[0] != '.')
			fn(fsck, entry->d_name, userdata);
	closedir(dir);
	return 0;
}

/* ---- the records, as they are now ---- */

struct loading {
	struct fsck *fsck;
	enum store_kind kind;
};

static int load(void *userdata, const char *id, const ProtobufCMessage *message)
{
	const struct loading *loading = userdata;
	struct fsck *fsck = loading->fsck;
	size_t *n = &fsck->report->n[loading->kind];
	struct fsck_record **all = &fsck->records[loading->kind];
	struct fsck_record *longer = reallocarray(*all, *n + 1, sizeof(**all));
	if (!longer)
		return -ENOMEM;
	*all = longer;
	struct fsck_record *record = &longer[(*n)++];
	*record = (struct fsck_record){.id = strdup(id), .message = message_copy(message)};
	return record->id && record->message ? 0 : -ENOMEM;
}

static void done(struct fsck *fsck)
{
	for (size_t kind = 0; kind < FSCK_KINDS; kind++) {
		for (size_t i = 0; i < fsck->report->n[kind]; i++) {
			free(fsck->records[kind][i].id);
			if (fsck->records[kind][i].message)
				protobuf_c_message_free_unpacked(
					fsck->records[kind][i].message, NULL);
		}
		free(fsck->records[kind]);
	}
}

/* All kinds at one moment. */
static int read_records(struct fsck *fsck, struct store *store, struct err *err)
{
	int r = store_begin_read(store, err);
	for (enum store_kind kind = 0; kind < FSCK_KINDS && r == 0; kind++)
		r = store_each(store, kind, load, &(struct loading){fsck, kind}, err);
	store_rollback(store);
	return r;
}

/* The lock's file says which process has the records, and since when: it is written at its start.
 */
static int find_server(struct fsck *fsck, const char *database, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s.lock", database);
	_cleanup_free_ char *text = NULL;
	struct stat st;
	if (!path)
		return err_nomem(err);
	int r = fd_read_file(path, 64, &text, NULL, err);
	if (r < 0)
		return r;
	if (stat(path, &st) < 0)
		return err_errno(err, "examine %s", path);
	_cleanup_free_ char *name_path = str_printf("/proc/%d/comm", atoi(text));
	_cleanup_free_ char *name = NULL;
	if (!name_path)
		return err_nomem(err);
	fsck->report->serving = fd_read_file(name_path, 64, &name, NULL, NULL) == 0 &&
				strcmp(name, "bulkheadd\n") == 0;
	fsck->serving_since_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
	return 0;
}

static int load_records(struct fsck *fsck, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/state.db", fsck->config->state_dir);
	if (!path)
		return err_nomem(err);
	int r = find_server(fsck, path, err);
	if (r < 0)
		return err_wrap(err,
			"find out who has the records (is state_dir right, has a bulkheadd run "
			"here, are you root?)");
	struct store *store = NULL;
	r = store_open_read(path, &store, err);
	if (r == 0)
		r = read_records(fsck, store, err);
	store_close(store);
	return r;
}

/* What is half-made is in motion only where the process that makes it still lives. */
static bool is_being_made(const struct fsck *fsck, int64_t created_ns)
{
	return fsck->report->serving && created_ns >= fsck->serving_since_ns;
}

static const char unfinished[] =
	"is half-made or half-removed: the next start of bulkheadd, or its removal, undoes it";

static void settle_pods(struct fsck *fsck)
{
	for (size_t i = 0; i < fsck->report->n[STORE_SANDBOX]; i++) {
		struct fsck_record *pod = &fsck->records[STORE_SANDBOX][i];
		bool making = pod->pod->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_CREATING;
		pod->moving = making && is_being_made(fsck, pod->pod->created_ns);
		if (pod->pod->state == BULKHEAD__STORE__SANDBOX_STATE__SANDBOX_REMOVING ||
			(making && !pod->moving))
			fsck_find(fsck, STORE_SANDBOX, pod->id, "%s", unfinished);
	}
}

static void settle_container(struct fsck *fsck, struct fsck_record *c)
{
	Bulkhead__Store__ContainerState state = c->container->state;
	const struct fsck_record *pod = fsck_record(fsck, STORE_SANDBOX, c->container->sandbox_id);
	bool making = state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_CREATING;
	c->moving = making && is_being_made(fsck, c->container->created_ns);
	if (!pod || !c->container->sandbox_id[0])
		fsck_find(fsck, STORE_CONTAINER, c->id, "its pod %s has no record",
			c->container->sandbox_id);
	else if (state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_RUNNING &&
		 !fsck_pod_runs(pod))
		fsck_find(fsck, STORE_CONTAINER, c->id,
			"is recorded as running, and its pod %s is not", pod->id);
	if (state == BULKHEAD__STORE__CONTAINER_STATE__CONTAINER_REMOVING || (making && !c->moving))
		fsck_find(fsck, STORE_CONTAINER, c->id, "%s", unfinished);
}

int fsck_look(const struct config *config, struct fsck_guests *guests, struct fsck_report **ret,
	struct err *err)
{
	struct fsck fsck = {.config = config, .report = calloc(1, sizeof(*fsck.report))};
	if (!fsck.report)
		return err_nomem(err);
	int r = load_records(&fsck, err);
	if (r == 0) {
		settle_pods(&fsck);
		for (size_t i = 0; i < fsck.report->n[STORE_CONTAINER]; i++)
			settle_container(&fsck, &fsck.records[STORE_CONTAINER][i]);
		r = fsck_places(&fsck, err);
	}
	if (r == 0)
		r = fsck_processes(&fsck, err);
	if (r == 0)
		r = fsck_cgroups(&fsck, err);
	if (r == 0)
		r = fsck_volumes(&fsck, err);
	if (r == 0)
		r = fsck_networks(&fsck, err);
	if (r == 0)
		r = fsck_leases(&fsck, err);
	if (r == 0)
		r = fsck_images(&fsck, err);
	if (r == 0 && guests)
		r = fsck_look_into_guests(&fsck, guests, err);
	if (r == 0 && fsck.failure)
		r = err_nomem(err);
	done(&fsck);
	if (r < 0)
		fsck_report_free(fsck.report);
	else
		*ret = fsck.report;
	return r;
}
