/*
 * Names on the host that carry the id of a pod or container. One table says where they are, how
 * much of the pod they belong to, and which a pod that runs must have.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "cri-server/fsck/internal.h"

enum root {
	RUN_DIR,
	STATE_DIR,
	LIBVIRT, /* the embedded driver's; none otherwise */
};

struct place {
	const char *what;
	enum root root;
	const char *dir;
	const char *prefix; /* of the names that count */
	enum fsck_need need;
	bool must; /* a pod that runs has one */
};

static const struct place places[] = {
	{"machine's directory", RUN_DIR, "vm", "", FSCK_MACHINE, true},
	{"network namespace", RUN_DIR, "netns", "bh-", FSCK_NETWORK, true},
	{"CNI attachment", STATE_DIR, "cni", "", FSCK_NETWORK, true},
	{"scratch disk", STATE_DIR, "scratch", "", FSCK_DISK, true},
	{"libvirt's note of its machine", LIBVIRT, "run/qemu", "bh-", FSCK_MACHINE, false},
	{"QEMU's log", LIBVIRT, "log/qemu", "bh-", FSCK_MACHINE, false},
	{"libvirt's directory", LIBVIRT, "lib/qemu", "domain-", FSCK_MACHINE, false},
	{"libvirt's directory for memory", LIBVIRT, "lib/qemu/ram", "", FSCK_MACHINE, false},
};

struct look {
	const char *path;
	size_t place;
};

static void look_at(struct fsck *fsck, const char *name, void *userdata)
{
	const struct look *look = userdata;
	const struct place *place = &places[look->place];
	char id[FSCK_ID_LEN + 1];
	if (strncmp(name, place->prefix, strlen(place->prefix)) != 0 || !fsck_id_in(name, id))
		return;
	struct fsck_record *pod = fsck_record(fsck, STORE_SANDBOX, id);
	_cleanup_free_ char *path = str_printf("%s/%s", look->path, name);
	if (pod)
		pod->places[look->place] = true;
	if (!pod)
		fsck_find(fsck, FSCK_KINDS, path ? path : name, "%s of a pod that has no record",
			place->what);
	else if (!fsck_allows(pod, place->need))
		fsck_find(fsck, STORE_SANDBOX, pod->id, "does not run, and still has its %s %s",
			place->what, path ? path : name);
}

static void look_at_offsets(struct fsck *fsck, const char *name, void *userdata)
{
	char id[FSCK_ID_LEN + 1];
	const char *dir = userdata;
	if (!fsck_id_in(name, id) || fsck_record(fsck, STORE_CONTAINER, id))
		return;
	_cleanup_free_ char *path = str_printf("%s/%s", dir, name);
	fsck_find(fsck, FSCK_KINDS, path ? path : name,
		"log offsets of a container that has no record");
}

static void find_missing(struct fsck *fsck, const struct fsck_record *pod)
{
	if (!fsck_pod_runs(pod))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		if (places[i].must && !pod->places[i])
			fsck_find(fsck, STORE_SANDBOX, pod->id,
				"is recorded as running, and has no %s", places[i].what);
}

static const char *root_dir(const struct fsck *fsck, enum root root)
{
	const struct config *config = fsck->config;
	return root == RUN_DIR     ? config->run_dir
	       : root == STATE_DIR ? config->state_dir
				   : fsck_libvirt_root(config);
}

int fsck_places(struct fsck *fsck, struct err *err)
{
	_Static_assert(ARRAY_SIZE(places) <= FSCK_PLACES, "room for each place");
	_cleanup_free_ char *logs = str_printf("%s/logs", fsck->config->state_dir);
	int r = logs ? fsck_each_entry(fsck, logs, look_at_offsets, logs, err) : err_nomem(err);
	for (size_t i = 0; i < ARRAY_SIZE(places) && r == 0; i++) {
		const char *root = root_dir(fsck, places[i].root);
		_cleanup_free_ char *path = str_printf("%s/%s", root ? root : "", places[i].dir);
		if (!path)
			r = err_nomem(err);
		else if (root)
			r = fsck_each_entry(fsck, path, look_at, &(struct look){path, i}, err);
	}
	for (size_t i = 0; i < fsck->report->n[STORE_SANDBOX] && r == 0; i++)
		find_missing(fsck, &fsck->records[STORE_SANDBOX][i]);
	return r;
}

/* ---- volumes ---- */

struct volumes {
	struct fsck_record *pod;
	bool *seen; /* by the volume's place in the record */
};

static void look_at_volume(struct fsck *fsck, const char *name, void *userdata)
{
	const struct volumes *volumes = userdata;
	const Bulkhead__Store__Sandbox *record = volumes->pod->pod;
	for (size_t i = 0; i < record->n_volumes; i++) {
		char own[16];
		snprintf(own, sizeof(own), "v%u", record->volumes[i]->id);
		if (strcmp(own, name) == 0) {
			volumes->seen[i] = true;
			return;
		}
	}
	fsck_find(fsck, STORE_SANDBOX, volumes->pod->id,
		"its share has '%s', which is no volume of its record", name);
}

static int look_at_share(struct fsck *fsck, struct fsck_record *pod, struct err *err)
{
	const Bulkhead__Store__Sandbox *record = pod->pod;
	_cleanup_free_ char *path = str_printf("%s/vm/%s/share", fsck->config->run_dir, pod->id);
	_cleanup_free_ bool *seen = calloc(record->n_volumes + 1, sizeof(bool));
	if (!path || !seen)
		return err_nomem(err);
	int r = fsck_each_entry(fsck, path, look_at_volume, &(struct volumes){pod, seen}, err);
	for (size_t i = 0; i < record->n_volumes && r == 0; i++)
		if (record->volumes[i]->kind == BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND &&
			!seen[i])
			fsck_find(fsck, STORE_SANDBOX, pod->id,
				"its volume v%u is not in its share", record->volumes[i]->id);
	return r;
}

int fsck_volumes(struct fsck *fsck, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < fsck->report->n[STORE_SANDBOX] && r == 0; i++)
		if (fsck_pod_runs(&fsck->records[STORE_SANDBOX][i]))
			r = look_at_share(fsck, &fsck->records[STORE_SANDBOX][i], err);
	return r;
}
