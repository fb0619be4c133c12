/*
 * A machine's disks: image layers, read-only, and block devices of the host. Each is attached once,
 * however many containers use it; which target it has is in the sandbox's record.

 */
#include <errno.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

/* What a disk is of: a layer, or a block device of the host. */
struct content {
	const char *layer;  /* "" for a device */
	const char *device; /* "" for a layer */
	bool read_only;     /* of a device; a layer is so anyway */
};

static Bulkhead__Store__Disk *find_disk(
	const struct sandbox *sandbox, const struct content *content)
{
	for (size_t i = 0; i < sandbox->record->n_disks; i++) {
		Bulkhead__Store__Disk *disk = sandbox->record->disks[i];
		if (strcmp(disk->layer, content->layer) == 0 &&
			strcmp(disk->device, content->device) == 0 &&
			(bool)disk->read_only == content->read_only)
			return disk;
	}
	return NULL;
}

/*
 * Each time the next one, round and round: the guest learns of a detached disk later, and not
 * surely before it learns of another that took the same target.
 */
static uint32_t free_target(struct sandbox *sandbox)
{
	for (uint32_t i = 0; i < HV_DISK_TARGET_MAX; i++) {
		uint32_t target = (sandbox->last_target + i) % HV_DISK_TARGET_MAX + 1;
		bool taken = false;
		for (size_t k = 0; k < sandbox->record->n_disks && !taken; k++)
			taken = sandbox->record->disks[k]->target == target;
		if (!taken) {
			sandbox->last_target = target;
			return target;
		}
	}
	return 0;
}

/* Records the disk before it exists, so that a crash leaves none unknown. */
static int record_disk(
	struct sandbox *sandbox, const struct content *content, uint32_t target, struct err *err)
{
	Bulkhead__Store__Sandbox *record = sandbox->record;
	Bulkhead__Store__Disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return err_nomem(err);
	bulkhead__store__disk__init(disk);
	disk->target = target;
	disk->read_only = content->read_only;
	int r = message_set_string(&disk->layer, content->layer, err);
	if (r == 0)
		r = message_set_string(&disk->device, content->device, err);
	if (r == 0) {
		pthread_mutex_lock(&sandbox->runtime->lock);
		Bulkhead__Store__Disk **disks =
			realloc(record->disks, (record->n_disks + 1) * sizeof(*disks));
		if (disks) {
			record->disks = disks;
			record->disks[record->n_disks++] = TAKE_PTR(disk);
			r = sandbox_save_locked(sandbox, err);
		} else {
			r = err_nomem(err);
		}
		pthread_mutex_unlock(&sandbox->runtime->lock);
	}
	if (disk)
		bulkhead__store__disk__free_unpacked(disk, NULL);
	return r;
}

static void forget_disk(struct sandbox *sandbox, size_t i)
{
	Bulkhead__Store__Sandbox *record = sandbox->record;
	pthread_mutex_lock(&sandbox->runtime->lock);
	bulkhead__store__disk__free_unpacked(record->disks[i], NULL);
	record->disks[i] = record->disks[--record->n_disks];
	sandbox_save_locked(sandbox, NULL);
	pthread_mutex_unlock(&sandbox->runtime->lock);
}

static int attach_content(struct sandbox *sandbox, struct machine *machine,
	const struct content *content, uint32_t target, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	if (content->device[0])
		return hv_vm_attach_device(
			machine->vm, target, content->device, content->read_only, err);
	int r = img_layer_path(sandbox->runtime->images, content->layer, &path, err);
	if (r == 0)
		r = hv_vm_attach_disk(machine->vm, target, path, err);
	return r < 0 ? err_wrap(err, "attach layer %s", content->layer) : 0;
}

static int attach(struct sandbox *sandbox, struct machine *machine, const struct content *content,
	uint32_t *ret_target, struct err *err)
{
	const Bulkhead__Store__Disk *disk = find_disk(sandbox, content);
	if (disk) {
		*ret_target = disk->target;
		return 0;
	}
	uint32_t target = free_target(sandbox);
	if (!target)
		return err_set(err, -ENOSPC,
			"the pod has %d image layers and block devices attached, which is the most",
			HV_DISK_TARGET_MAX);
	int r = record_disk(sandbox, content, target, err);
	if (r < 0)
		return r;
	r = attach_content(sandbox, machine, content, target, err);
	if (r < 0)
		forget_disk(sandbox, sandbox->record->n_disks - 1);
	else
		*ret_target = target;
	return r;
}

int disks_attach_device(struct sandbox *sandbox, struct machine *machine, const char *device,
	bool read_only, uint32_t *ret_target, struct err *err)
{
	const struct content content = {.layer = "", .device = device, .read_only = read_only};
	return attach(sandbox, machine, &content, ret_target, err);
}

int disks_attach(struct sandbox *sandbox, struct machine *machine, char *const *layers, size_t n,
	uint32_t *ret_targets, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		const struct content content = {.layer = layers[i], .device = ""};
		int r = attach(sandbox, machine, &content, &ret_targets[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* `runtime->lock` is held. */
static bool needs(const struct container *c, const Bulkhead__Store__Disk *disk)
{
	const Bulkhead__Store__Container *record = c->record;
	for (size_t i = 0; i < record->n_layers && disk->layer[0]; i++)
		if (strcmp(record->layers[i], disk->layer) == 0)
			return true;
	for (size_t i = 0; i < record->n_device_targets && disk->device[0]; i++)
		if (record->device_targets[i] == disk->target)
			return true;
	return false;
}

static bool disk_needed(
	struct sandbox *sandbox, const Bulkhead__Store__Disk *disk, const struct container *except)
{
	struct runtime *rt = sandbox->runtime;
	struct container *c;
	bool needed = false;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(c, &rt->containers, link) {
		if (c->sandbox == sandbox && c != except && !needed)
			needed = needs(c, disk);
	}
	pthread_mutex_unlock(&rt->lock);
	return needed;
}

void disks_release(struct sandbox *sandbox, struct machine *machine, const struct container *except)
{
	for (size_t i = sandbox->record->n_disks; i-- > 0;) {
		const Bulkhead__Store__Disk *disk = sandbox->record->disks[i];
		if (disk_needed(sandbox, disk, except))
			continue;
		struct err err = ERR_INIT;
		if (hv_vm_detach_disk(machine->vm, disk->target, &err) < 0) {
			/* The target stays taken; the machine's end frees it. */
			log_event(sandbox->runtime->log, LOG_LEVEL_WARNING, "disk stays attached",
				"pod", sandbox->id, "layer", disk->layer, "device", disk->device,
				"err", err.msg, NULL);
			continue;
		}
		forget_disk(sandbox, i);
	}
}
