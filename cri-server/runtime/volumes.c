/*
 * A container's CRI mounts, and the volumes of its pod that they lead to.
 *
 * A volume is what the machine sees of one directory or file of the host; all containers of the pod
 * that ask for it share it, so that they share its files, locks and memory maps as on a host. It is
 * in the sandbox's record from before it is made until after it is gone. Its name in the guest is
 * "v<id>"; ids are not given twice, so that what the guest still knows of an old one is never taken
 * for a new one's.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/mirror.h"
#include "cri-server/runtime/volume_source.h"

#define CALL_MS 10000

typedef Bulkhead__Store__Volume Volume;

static void volume_name(const Volume *volume, char name[16])
{
	snprintf(name, 16, "v%u", volume->id);
}

/* ---- the writable layer ---- */

/*
 * CRI has no field for it. A kubelet gives a sandbox its pod's annotations; a container's own come
 * from other clients, and count more.
 */
#define LAYER_LIMIT   "bulkhead.io/writable-layer-mib"
#define LAYER_MIB_MAX (UINT64_C(16) << 20)

static const char *layer_limit(const struct container *c)
{
	const Runtime__V1__ContainerConfig *own = c->config;
	const Runtime__V1__PodSandboxConfig *pod = c->sandbox->config;
	const char *limit = NULL;
	for (size_t i = 0; i < pod->n_annotations; i++)
		if (strcmp(pod->annotations[i]->key, LAYER_LIMIT) == 0)
			limit = pod->annotations[i]->value;
	for (size_t i = 0; i < own->n_annotations; i++)
		if (strcmp(own->annotations[i]->key, LAYER_LIMIT) == 0)
			limit = own->annotations[i]->value;
	return limit;
}

static int limit_layer(const struct container *c, Bulkhead__Agent__CreateContainerRequest *request,
	struct err *err)
{
	const char *text = layer_limit(c);
	if (!text)
		return 0;
	char *end;
	unsigned long long mib = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || mib == 0 || mib > LAYER_MIB_MAX)
		return err_set(err, -EINVAL, "annotation %s: '%.32s' is not 1 to %llu", LAYER_LIMIT,
			text, (unsigned long long)LAYER_MIB_MAX);
	request->writable_layer_bytes = mib << 20;
	return 0;
}

/* ---- what a mount may ask for ---- */

static bool is_image(const Runtime__V1__Mount *mount)
{
	return mount->image && mount->image->image[0];
}

static int check_mount(const Runtime__V1__Mount *mount, struct err *err)
{
	bool private = mount->propagation == RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_PRIVATE;
	if (!mount->container_path[0] || strcmp(mount->container_path, "/") == 0)
		return err_set(err, -EINVAL, "a mount needs a container path below /");
	if (mount->recursive_read_only && !mount->readonly)
		return err_set(err, -EINVAL, "recursive_read_only needs readonly");
	if (mount->recursive_read_only && !private)
		return err_set(err, -EINVAL, "recursive_read_only needs private propagation");
	if (mount->propagation == RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_BIDIRECTIONAL)
		return err_set(err, -EOPNOTSUPP,
			"bidirectional propagation: what is mounted in a pod that is a machine of "
			"its own cannot appear on the host");
	if (!private &&
		mount->propagation != RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_HOST_TO_CONTAINER)
		return err_set(err, -EINVAL, "unknown propagation %d", mount->propagation);
	if (is_image(mount) && !mount->readonly)
		return err_set(err, -EINVAL, "an image volume is read-only: readonly must be set");
	if (is_image(mount) && mount->host_path[0])
		return err_set(err, -EINVAL, "a mount has a host path or an image, not both");
	return 0;
}

/* How the host's side of a bind is made. */
static unsigned bind_flags(const Runtime__V1__Mount *mount, const struct volume_source *source)
{
	unsigned flags = mount->readonly ? HV_BIND_READ_ONLY : 0;
	if (mount->recursive_read_only)
		flags |= HV_BIND_READ_ONLY_BELOW;
	if (mount->propagation == RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_HOST_TO_CONTAINER)
		flags |= HV_BIND_FOLLOW;
	/* With nothing below there is no difference; one that may be written is a bind of its own
	 * only where something is. */
	if (!source->submounts)
		flags &= ~(unsigned)HV_BIND_READ_ONLY_BELOW;
	return flags;
}

/* ---- the pod's volumes ---- */

static bool same_volume(const Volume *volume, const struct volume_source *source, unsigned flags)
{
	unsigned fixed = HV_BIND_FOLLOW;
	if (source->submounts)
		fixed |= HV_BIND_READ_ONLY | HV_BIND_READ_ONLY_BELOW;
	if (volume->kind != source->kind || volume->device != source->st.st_dev ||
		volume->inode != source->st.st_ino || volume->mapped != source->mapped)
		return false;
	if (volume->kind != BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND)
		return true;
	return (volume->flags & fixed) == (flags & fixed) &&
	       (!source->submounts || strcmp(volume->source, source->path) == 0);
}

static Volume *find_volume(
	const struct sandbox *sandbox, const struct volume_source *source, unsigned flags)
{
	for (size_t i = 0; i < sandbox->record->n_volumes; i++)
		if (same_volume(sandbox->record->volumes[i], source, flags))
			return sandbox->record->volumes[i];
	return NULL;
}

/* Made for containers that only read it, now one writes: as it is by now. */
static int record_writable(struct sandbox *sandbox, Volume *volume, struct err *err)
{
	uint32_t flags = volume->flags;
	pthread_mutex_lock(&sandbox->runtime->lock);
	volume->writable = true;
	volume->flags &= ~(unsigned)HV_BIND_READ_ONLY;
	int r = sandbox_save_locked(sandbox, err);
	if (r < 0) {
		volume->writable = false;
		volume->flags = flags;
	}
	pthread_mutex_unlock(&sandbox->runtime->lock);
	return r;
}

static void forget_volume(struct sandbox *sandbox, Volume *volume)
{
	Bulkhead__Store__Sandbox *record = sandbox->record;
	pthread_mutex_lock(&sandbox->runtime->lock);
	for (size_t i = 0; i < record->n_volumes; i++)
		if (record->volumes[i] == volume) {
			bulkhead__store__volume__free_unpacked(volume, NULL);
			record->volumes[i] = record->volumes[--record->n_volumes];
			sandbox_save_locked(sandbox, NULL);
			break;
		}
	pthread_mutex_unlock(&sandbox->runtime->lock);
}

/* Records the volume before it exists, so that a crash leaves none unknown. */
static int record_volume(struct sandbox *sandbox, const struct volume_source *source,
	unsigned flags, Volume **ret, struct err *err)
{
	Bulkhead__Store__Sandbox *record = sandbox->record;
	Volume *volume = calloc(1, sizeof(*volume));
	if (!volume)
		return err_nomem(err);
	bulkhead__store__volume__init(volume);
	volume->kind = source->kind;
	volume->device = source->st.st_dev;
	volume->inode = source->st.st_ino;
	volume->flags = flags;
	volume->mapped = source->mapped;
	volume->writable = !(flags & HV_BIND_READ_ONLY);
	int r = message_set_string(&volume->source, source->path, err);
	pthread_mutex_lock(&sandbox->runtime->lock);
	Volume **volumes =
		r < 0 ? NULL : realloc(record->volumes, (record->n_volumes + 1) * sizeof(Volume *));
	if (volumes) {
		volume->id = ++record->last_volume;
		record->volumes = volumes;
		record->volumes[record->n_volumes++] = volume;
		r = sandbox_save_locked(sandbox, err);
		/* It is not made then, and must not be found. */
		if (r < 0)
			record->n_volumes--;
		else
			*ret = TAKE_PTR(volume);
	} else if (r == 0) {
		r = err_nomem(err);
	}
	pthread_mutex_unlock(&sandbox->runtime->lock);
	if (volume)
		bulkhead__store__volume__free_unpacked(volume, NULL);
	return r;
}

/* A file system in the guest's memory; size 0: the share's directory of the name. map: or NULL. */
static int make_in_guest(struct machine *machine, const struct volume_source *source,
	const struct userns_map *map, const char *name, uint64_t size_bytes, struct err *err)
{
	const struct stat *st = &source->st;
	Bulkhead__Agent__MakeVolumeRequest request = BULKHEAD__AGENT__MAKE_VOLUME_REQUEST__INIT;
	request.name = (char *)name;
	request.size_bytes = size_bytes;
	request.mode = st->st_mode & 07777;
	request.uid = map ? userns_uid(map, st->st_uid) : st->st_uid;
	request.gid = map ? userns_gid(map, st->st_gid) : st->st_gid;
	return agent_call(machine->agent, "MakeVolume", &request.base, CALL_MS, NULL, err);
}

static int make_volume(struct sandbox *sandbox, struct machine *machine, const Volume *volume,
	const struct volume_source *source, struct err *err)
{
	char name[16];
	struct userns_map pods;
	const struct userns_map *map =
		volume->mapped && userns_of_pod(sandbox->config, &pods) ? &pods : NULL;
	volume_name(volume, name);
	switch (volume->kind) {
	case BULKHEAD__STORE__VOLUME_KIND__VOLUME_MEMORY:
		return make_in_guest(machine, source, map, name, source->size_bytes, err);
	case BULKHEAD__STORE__VOLUME_KIND__VOLUME_MIRROR: {
		int r = make_in_guest(machine, source, map, name, MIRROR_FS_BYTES, err);
		return r < 0 ? r : mirror_add(sandbox->mirror, name, volume->source, map, err);
	}
	default: {
		int r = hv_vm_bind(machine->vm, name, source->fd, volume->flags, map, err);
		return r < 0 || !S_ISDIR(source->st.st_mode)
			       ? r
			       : make_in_guest(machine, source, NULL, name, 0, err);
	}
	}
}

/* In the guest and on the host; for one that was made in part, or not at all, too. */
static int unmake_volume(
	struct sandbox *sandbox, struct machine *machine, const Volume *volume, struct err *err)
{
	char name[16], *names[] = {name};
	volume_name(volume, name);
	mirror_remove(sandbox->mirror, name);
	int r = hv_vm_unbind(machine->vm, name, err);
	if (r < 0)
		return r;
	Bulkhead__Agent__RemoveVolumesRequest request =
		BULKHEAD__AGENT__REMOVE_VOLUMES_REQUEST__INIT;
	request.names = names;
	request.n_names = 1;
	return agent_call(machine->agent, "RemoveVolumes", &request.base, CALL_MS, NULL, err);
}

static bool volume_needed(struct sandbox *sandbox, uint32_t id, const struct container *except)
{
	struct runtime *rt = sandbox->runtime;
	struct container *c;
	bool needed = false;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(c, &rt->containers, link)
		for (size_t i = 0;
			c->sandbox == sandbox && c != except && i < c->record->n_volumes && !needed;
			i++)
			needed = c->record->volumes[i] == id;
	pthread_mutex_unlock(&rt->lock);
	return needed;
}

static int drop_volume(struct sandbox *sandbox, struct machine *machine, Volume *volume)
{
	struct err err = ERR_INIT;
	int r = unmake_volume(sandbox, machine, volume, &err);
	if (r < 0)
		/* It stays recorded and is tried again; the machine's end ends it anyway. */
		log_event(sandbox->runtime->log, LOG_LEVEL_WARNING, "volume stays in its machine",
			"pod", sandbox->id, "volume", volume->source, "err", err.msg, NULL);
	else
		forget_volume(sandbox, volume);
	return r;
}

/* One that is there, for who may have to write it. */
static int use_volume(struct sandbox *sandbox, struct machine *machine,
	const struct volume_source *source, unsigned flags, Volume *volume, struct err *err)
{
	char name[16];
	volume_name(volume, name);
	if (volume->writable || (flags & HV_BIND_READ_ONLY))
		return 0;
	int r = 0;
	/* Before it is recorded: what is on record as writable is not made so again. */
	if (volume->kind == BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND && !source->read_only)
		r = hv_vm_bind_writable(machine->vm, name, err);
	return r < 0 ? r : record_writable(sandbox, volume, err);
}

/*
 * One that no container needs was not made, or not taken away, as far as we know: the guest may
 * have done either since. What is in memory stays while nobody needs it, and is made only where it
 * is not; any other goes. 1: it went.
 */
static int settle_volume(struct sandbox *sandbox, struct machine *machine,
	const struct volume_source *source, Volume *volume, struct err *err)
{
	if (volume_needed(sandbox, volume->id, NULL))
		return 0;
	if (volume->kind == BULKHEAD__STORE__VOLUME_KIND__VOLUME_MEMORY)
		return make_volume(sandbox, machine, volume, source, err);
	int r = unmake_volume(sandbox, machine, volume, err);
	if (r < 0)
		return err_wrap(err, "remove what is left of it in the machine");
	forget_volume(sandbox, volume);
	return 1;
}

/* Finds or makes the volume; *ret is the record's. */
static int get_volume(struct sandbox *sandbox, struct machine *machine,
	struct volume_source *source, unsigned flags, Volume **ret, struct err *err)
{
	Volume *volume = find_volume(sandbox, source, flags);
	if (volume) {
		int r = settle_volume(sandbox, machine, source, volume, err);
		if (r == 0)
			r = use_volume(sandbox, machine, source, flags, volume, err);
		*ret = volume;
		if (r <= 0)
			return r;
	}
	int r = record_volume(sandbox, source, flags, &volume, err);
	if (r < 0)
		return r;
	r = make_volume(sandbox, machine, volume, source, err);
	if (r < 0)
		drop_volume(sandbox, machine, volume);
	else
		*ret = volume;
	return r;
}

/* ---- a container's ---- */

static int find_image(
	const struct container *c, const char *name, struct img_image **ret, struct err *err)
{
	int r = img_find(c->runtime->images, name, ret, err);
	return r > 0 ? err_set(err, -ENOENT, "image '%s' is not on this node; pull it first", name)
		     : r;
}

int volumes_note_images(struct container *c, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < c->config->n_mounts && r == 0; i++) {
		Runtime__V1__Mount *mount = c->config->mounts[i];
		struct img_image *image;
		if (!is_image(mount))
			continue;
		r = find_image(c, mount->image->image, &image, err);
		if (r < 0)
			return r;
		/* What PullImage answered: critest compares the two. */
		r = message_set_string(&mount->image->image_ref, image->id, err);
		if (r == 0)
			r = container_add_layers(c, image->record, err);
		img_image_unref(image);
	}
	return r;
}

/* The image that was noted, whose layers are attached: this finds where. A pull may have given its
 * name to another one meanwhile. */
static int add_image(struct container *c, struct machine *machine, const Runtime__V1__Mount *from,
	Bulkhead__Agent__Mount *mount, struct err *err)
{
	struct img_image *image;
	int r = find_image(c, from->image->image_ref, &image, err);
	if (r < 0)
		return r;
	size_t n = image->record->n_layers;
	mount->from = BULKHEAD__AGENT__MOUNT_FROM__MOUNT_FROM_IMAGE;
	mount->read_only = true;
	mount->layer_targets = calloc(n + 1, sizeof(uint32_t));
	mount->n_layer_targets = mount->layer_targets ? n : 0;
	r = mount->layer_targets ? disks_attach(c->sandbox, machine, image->record->layers, n,
					   mount->layer_targets, err)
				 : err_nomem(err);
	img_image_unref(image);
	if (r == 0)
		r = message_set_string(&mount->destination, from->container_path, err);
	return r < 0 ? r : message_set_string(&mount->sub_path, from->image_sub_path, err);
}

static int record_use(struct container *c, uint32_t id, struct err *err)
{
	Bulkhead__Store__Container *record = c->record;
	pthread_mutex_lock(&c->runtime->lock);
	uint32_t *ids = realloc(record->volumes, (record->n_volumes + 1) * sizeof(*ids));
	if (ids) {
		record->volumes = ids;
		ids[record->n_volumes++] = id;
	}
	int r = ids ? container_save_locked(c, err) : err_nomem(err);
	pthread_mutex_unlock(&c->runtime->lock);
	return r;
}

static int fill_mount(Bulkhead__Agent__Mount *mount, const Runtime__V1__Mount *from,
	const Volume *volume, const struct volume_source *source, struct err *err)
{
	char name[16];
	volume_name(volume, name);
	mount->from = volume->kind == BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND
			      ? BULKHEAD__AGENT__MOUNT_FROM__MOUNT_FROM_SHARE
			      : BULKHEAD__AGENT__MOUNT_FROM__MOUNT_FROM_VOLUME;
	mount->directory = source->directory;
	/* What the guest mounts below a mount that is read-only is so too; where only the topmost
	 * one is to be, the host sees to it. */
	mount->read_only = from->readonly && (!source->submounts || from->recursive_read_only);
	int r = message_set_string(&mount->destination, from->container_path, err);
	if (r == 0)
		r = message_set_string(&mount->source, name, err);
	return r < 0 || !source->sub_path
		       ? r
		       : message_set_string(&mount->sub_path, source->sub_path, err);
}

static int fill_device(Bulkhead__Agent__Mount *mount, const Runtime__V1__Mount *from,
	const char *device, struct err *err)
{
	mount->from = BULKHEAD__AGENT__MOUNT_FROM__MOUNT_FROM_DEVICE;
	mount->read_only = from->readonly;
	int r = message_set_string(&mount->destination, from->container_path, err);
	return r < 0 ? r : message_set_string(&mount->source, device, err);
}

static int attach_mount(struct container *c, struct machine *machine,
	const Runtime__V1__Mount *mount, Bulkhead__Agent__Mount *to, struct err *err)
{
	_cleanup_(volume_source_done) struct volume_source source = VOLUME_SOURCE_INIT;
	Volume *volume = NULL;
	int r = check_mount(mount, err);
	if (r == 0)
		r = userns_check_mount(c->sandbox->config, mount, &source.mapped, err);
	if (r == 0 && is_image(mount))
		return add_image(c, machine, mount, to, err);
	if (r == 0)
		r = volume_source_find(mount->host_path, &source, err);
	if (r < 0)
		return r;
	if (source.device)
		return fill_device(to, mount, source.device, err);
	unsigned flags = bind_flags(mount, &source);
	if ((flags & HV_BIND_FOLLOW) && !source.follows)
		return err_set(err, -EINVAL,
			"host-to-container propagation: '%s' is on a mount that is neither shared "
			"nor a slave (mount --make-shared)",
			source.path);

	r = get_volume(c->sandbox, machine, &source, flags, &volume, err);
	if (r == -EFBIG && source.kind == BULKHEAD__STORE__VOLUME_KIND__VOLUME_MIRROR) {
		/* Too big for the guest's memory: served like any other, without events. */
		source.kind = BULKHEAD__STORE__VOLUME_KIND__VOLUME_BIND;
		r = get_volume(c->sandbox, machine, &source, flags, &volume, err);
	}
	if (r == 0)
		r = record_use(c, volume->id, err);
	return r < 0 ? r : fill_mount(to, mount, volume, &source, err);
}

int volumes_attach(struct container *c, struct machine *machine,
	Bulkhead__Agent__CreateContainerRequest *request, struct rpc_call *call, struct err *err)
{
	const Runtime__V1__ContainerConfig *config = c->config;
	if (limit_layer(c, request, err) < 0)
		return err->code;
	request->mounts = calloc(config->n_mounts + 1, sizeof(*request->mounts));
	if (!request->mounts)
		return err_nomem(err);
	for (size_t i = 0; i < config->n_mounts; i++) {
		if (call && rpc_call_cancelled(call))
			return err_set(err, -ECANCELED, "the caller went away before mount '%s'",
				config->mounts[i]->container_path);
		Bulkhead__Agent__Mount *mount = calloc(1, sizeof(*mount));
		if (!mount)
			return err_nomem(err);
		bulkhead__agent__mount__init(mount);
		request->mounts[request->n_mounts++] = mount;
		int r = attach_mount(c, machine, config->mounts[i], mount, err);
		if (r < 0)
			return err_wrap(err, "mount '%s'", config->mounts[i]->container_path);
	}
	return 0;
}

void volumes_release(
	struct sandbox *sandbox, struct machine *machine, const struct container *except)
{
	for (size_t i = sandbox->record->n_volumes; i-- > 0;) {
		Volume *volume = sandbox->record->volumes[i];
		/* What is in memory lives as long as the pod: a container that starts again finds
		 * it. */
		if (volume->kind != BULKHEAD__STORE__VOLUME_KIND__VOLUME_MEMORY &&
			!volume_needed(sandbox, volume->id, except) &&
			drop_volume(sandbox, machine, volume) == -ETIMEDOUT)
			/* Each of the others would take as long. */
			break;
	}
}

/* ---- after a restart ---- */

struct unknown {
	struct sandbox *sandbox;
	struct machine *machine;
};

static int unbind_unknown(void *userdata, const char *name)
{
	const struct unknown *unknown = userdata;
	char known[16];
	for (size_t i = 0; i < unknown->sandbox->record->n_volumes; i++) {
		volume_name(unknown->sandbox->record->volumes[i], known);
		if (strcmp(known, name) == 0)
			return 0;
	}
	hv_vm_unbind(unknown->machine->vm, name, NULL);
	return 0;
}

int volumes_resume(struct sandbox *sandbox, struct machine *machine, struct err *err)
{
	struct unknown unknown = {sandbox, machine};
	int r = mirror_new(sandbox, machine, &sandbox->mirror, err);
	if (r == 0)
		r = hv_vm_each_bind(machine->vm, unbind_unknown, &unknown, err);
	for (size_t i = 0; r == 0 && i < sandbox->record->n_volumes; i++) {
		const Volume *volume = sandbox->record->volumes[i];
		struct err failure = ERR_INIT;
		struct userns_map pods;
		const struct userns_map *map =
			volume->mapped && userns_of_pod(sandbox->config, &pods) ? &pods : NULL;
		char name[16];
		volume_name(volume, name);
		if (volume->kind == BULKHEAD__STORE__VOLUME_KIND__VOLUME_MIRROR &&
			mirror_resume(sandbox->mirror, name, volume->source, map, &failure) < 0)
			log_event(sandbox->runtime->log, LOG_LEVEL_WARNING,
				"volume not watched any more", "pod", sandbox->id, "volume",
				volume->source, "err", failure.msg, NULL);
	}
	if (r == 0)
		mirror_settle(sandbox->mirror);
	return r;
}
