/*
 * The user of a machine: QEMU's and its helpers', picked when it is made. libvirt keeps it, in the
 * machine's XML. Of a machine that a build before this made it is what all had then.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "hypervisor/internal.h"

static void closedirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* Each machine has this socket, which was given to it, for as long as its directory. */
static int is_machines(int machines, const char *id, uid_t uid, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/console.sock", id);
	struct stat st;

	if (!path)
		return err_nomem(err);
	return fstatat(machines, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_uid == uid;
}

int vm_user_is_taken(const struct hv *hv, uid_t uid, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/vm", hv->config.run_dir);
	_cleanup_(closedirp) DIR *dir = path ? opendir(path) : NULL;
	const struct dirent *entry;
	int r = 0;

	if (!path)
		return err_nomem(err);
	if (!dir)
		return err_errno(err, "Open %s", path);
	while (r == 0 && (entry = readdir(dir)))
		r = is_machines(dirfd(dir), entry->d_name, uid, err);
	return r;
}

/* Two that are made at the same moment are kept apart by chance: some hundred million to one. */
int vm_user_pick(struct hv_vm *vm, struct err *err)
{
	uid_t uid;
	int r;

	if (!vm->hv->qemu_user.name[0] || geteuid() != 0)
		return 0;
	do {
		uid = user_pick();
		r = vm_user_is_taken(vm->hv, uid, err);
	} while (r > 0);
	if (r == 0)
		vm->uid = uid;
	return r;
}

void vm_user_take(struct hv_vm *vm, uid_t uid)
{
	if (geteuid() == 0)
		vm->uid = uid ? uid : vm->hv->qemu_user.uid;
}

const char *vm_user_text(const struct hv_vm *vm, char text[VM_USER_TEXT])
{
	if (!vm->uid)
		return NULL;
	snprintf(text, VM_USER_TEXT, "%u:%u", vm->uid, vm->hv->qemu_user.gid);
	return text;
}

/* Its group, which is all machines', gets nothing. */
int vm_user_give(const struct hv_vm *vm, const char *path, struct err *err)
{
	if (vm->uid && lchown(path, vm->uid, (gid_t)-1) < 0)
		return err_errno(err, "Give %s to user %u", path, vm->uid);
	return 0;
}

/*
 * The directory of its monitor's socket, to which libvirt connects again after we were started
 * anew: QEMU could put a link to another machine's there, and has no need of it once it runs.
 */
int vm_user_fence(const struct hv_vm *vm, struct err *err)
{
	_cleanup_free_ char *path = str_printf(
		"%s/domain-%u-bh-%.17s", vm->hv->lib_dir, virDomainGetID(vm->domain), vm->id);

	if (!path)
		return err_nomem(err);
	if (vm->uid && lchown(path, 0, 0) < 0 && errno != ENOENT)
		return err_errno(err, "Take %s from user %u", path, vm->uid);
	return 0;
}
