/*
 * Image layers as read-only disks of a machine. A layer is attached once, however many containers
 * use it; which target it has is in the sandbox's record.
 */
#include <errno.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

static Bulkhead__Store__Disk *find_disk(const struct sandbox *sandbox, const char *layer)
{
	for (size_t i = 0; i < sandbox->record->n_disks; i++)
		if (strcmp(sandbox->record->disks[i]->layer, layer) == 0)
			return sandbox->record->disks[i];
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
static int record_disk(struct sandbox *sandbox, const char *layer, uint32_t target, struct err *err)
{
	Bulkhead__Store__Sandbox *record = sandbox->record;
	Bulkhead__Store__Disk *disk = calloc(1, sizeof(*disk));
	if (!disk)
		return err_nomem(err);
	bulkhead__store__disk__init(disk);
	disk->target = target;
	int r = message_set_string(&disk->layer, layer, err);
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

static int attach(struct sandbox *sandbox, struct machine *machine, const char *layer,
	uint32_t *ret_target, struct err *err)
{
	const Bulkhead__Store__Disk *disk = find_disk(sandbox, layer);
	if (disk) {
		*ret_target = disk->target;
		return 0;
	}
	uint32_t target = free_target(sandbox);
	if (!target)
		return err_set(err, -ENOSPC,
			"the pod has %d image layers attached, which is the most",
			HV_DISK_TARGET_MAX);
	_cleanup_free_ char *path = NULL;
	int r = img_layer_path(sandbox->runtime->images, layer, &path, err);
	if (r == 0)
		r = record_disk(sandbox, layer, target, err);
	if (r < 0)
		return r;
	r = hv_vm_attach_disk(machine->vm, target, path, err);
	if (r < 0) {
		forget_disk(sandbox, sandbox->record->n_disks - 1);
		return err_wrap(err, "attach layer %s", layer);
	}
	*ret_target = target;
	return 0;
}

int disks_attach(struct sandbox *sandbox, struct machine *machine, char *const *layers, size_t n,
	uint32_t *ret_targets, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		int r = attach(sandbox, machine, layers[i], &ret_targets[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool layer_needed(struct sandbox *sandbox, const char *layer, const struct container *except)
{
	struct runtime *rt = sandbox->runtime;
	struct container *c;
	bool needed = false;
	pthread_mutex_lock(&rt->lock);
	TAILQ_FOREACH(c, &rt->containers, link) {
		if (c->sandbox != sandbox || c == except)
			continue;
		for (size_t i = 0; i < c->record->n_layers && !needed; i++)
			needed = strcmp(c->record->layers[i], layer) == 0;
	}
	pthread_mutex_unlock(&rt->lock);
	return needed;
}

void disks_release(struct sandbox *sandbox, struct machine *machine, const struct container *except)
{
	for (size_t i = sandbox->record->n_disks; i-- > 0;) {
		const Bulkhead__Store__Disk *disk = sandbox->record->disks[i];
		if (layer_needed(sandbox, disk->layer, except))
			continue;
		struct err err = ERR_INIT;
		if (hv_vm_detach_disk(machine->vm, disk->target, &err) < 0) {
			/* The target stays taken; the machine's end frees it. */
			log_event(sandbox->runtime->log, LOG_LEVEL_WARNING, "layer stays attached",
				"pod", sandbox->id, "layer", disk->layer, "err", err.msg, NULL);
			continue;
		}
		forget_disk(sandbox, i);
	}
}
