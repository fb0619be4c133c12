/*
 * The embedded driver's root: what libvirt's QEMU driver finds there when it starts in our process.
 *
 * The driver does not change the owner of files (dynamic_ownership): layers are shared by machines
 * that come and go, and the few files that belong to one machine are given to its user by vm.c.
 * Confinement is by user, namespaces, cgroup and QEMU's seccomp filter; security drivers are off,
 * for AppArmor's and SELinux's policies know libvirtd's paths, not ours.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/fd.h"
#include "common/threads.h"
#include "hypervisor/domain_xml.h"
#include "hypervisor/internal.h"

#define CONF_BYTES_MAX 4096
#define EMBED_PREFIX   "qemu:///embed?root="
/* A note is written anew beside the old one, and may have become longer. */
#define NOTE_GROWTH_BYTES   8192
#define THREADS_PER_MACHINE 2 /* one looks for it, one then serves its monitor */
#define THREADS_BESIDE      8

/* As libvirtd's sysctl.d file has it. QEMU takes 1024 for a machine whose disks bypass the cache.
 */
#define AIO_REQUESTS (1 << 20)

/*
 * libvirt calls the C library's unshare(2) in the child that becomes QEMU, for a mount namespace,
 * and has no setting for others. This one takes its place: the program's functions come before its
 * libraries'. Nobody else in this process asks for a mount namespace. By then the child has its
 * taps open, and its helpers' sockets are found by their paths, in whatever namespace.
 */
int unshare(int flags)
{
	if (flags == CLONE_NEWNS)
		flags |= CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
	return (int)syscall(SYS_unshare, flags);
}

static int write_conf(const struct hv *hv, const char *root, struct err *err)
{
	_cleanup_free_ char *dir = str_printf("%s/etc", root);
	_cleanup_free_ char *path = str_printf("%s/etc/qemu.conf", root);
	_cleanup_(buf_done) struct buf conf = buf_init(CONF_BYTES_MAX);
	_cleanup_free_ char *old = NULL;
	size_t len;
	int r;

	if (!dir || !path)
		return err_nomem(err);
	r = fd_mkdir_all(dir, 0755, err);
	if (r < 0)
		return err_wrap(err, "Prepare libvirt's root (libvirt_uri in the configuration)");
	buf_printf(&conf, "# Written at every start; changes are lost.\n"
			  "stdio_handler = \"file\"\n"
			  "security_driver = \"none\"\n"
			  "seccomp_sandbox = 1\n"
			  "dynamic_ownership = 0\n"
			  "remember_owner = 0\n"
			  /* The rest is ours to bound (cgroup.h). */
			  "cgroup_controllers = [ \"devices\" ]\n");
	if (hv->qemu_user.name[0])
		buf_printf(&conf, "user = \"%s\"\ngroup = \"%s\"\n", hv->qemu_user.name,
			hv->qemu_user.group);
	/* Under TCG QEMU has no business with the kernel's hypervisor. */
	r = buf_printf(&conf,
		"cgroup_device_acl = [ \"/dev/null\", \"/dev/full\", \"/dev/zero\", "
		"\"/dev/random\", "
		"\"/dev/urandom\", \"/dev/ptmx\"%s ]\n",
		hv->kvm ? ", \"/dev/kvm\"" : "");
	if (r < 0)
		return err_nomem(err);
	/* Most often it is there already, and a full disk has no room for another. */
	if (fd_read_file(path, CONF_BYTES_MAX, &old, &len, NULL) == 0 && len == conf.len &&
		memcmp(old, conf.data, len) == 0)
		return 0;
	return fd_write_file(path, conf.data, conf.len, 0644, err);
}

/*
 * libvirt asks QEMU once whether it can use /dev/kvm, with more rights than QEMU's user has, and on
 * every use of the answer asks again, as that user. Where the two differ it takes the answer for
 * outdated and probes QEMU anew, 4 s each, about fifteen times per machine. udev gives the device
 * to the group kvm; where udev has not run (the device is still root's alone) we do the same.
 */
static void open_kvm_to_group(const struct hv *hv)
{
	const struct group *group;
	struct stat st;

	if (stat("/dev/kvm", &st) < 0 || st.st_uid != 0 || st.st_gid != 0 || (st.st_mode & 0077))
		return;
	group = getgrnam("kvm");
	if (!group || chown("/dev/kvm", 0, group->gr_gid) < 0 || chmod("/dev/kvm", 0660) < 0)
		return;
	log_event(hv->log, LOG_LEVEL_DEBUG, "gave /dev/kvm to the group kvm, as udev does", NULL);
}

/*
 * The kernel's default is enough for the disks of 64 machines. Where there is systemd a file of
 * libvirt's raises it at the boot; it is a bound alone, no memory is set aside.
 */
static void raise_aio_limit(const struct hv *hv)
{
	static const char path[] = "/proc/sys/fs/aio-max-nr";
	_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
	char text[32] = "";

	if (fd >= 0 && pread(fd, text, sizeof(text) - 1, 0) > 0 &&
		strtoull(text, NULL, 10) >= AIO_REQUESTS)
		return;
	if (fd < 0 || dprintf(fd, "%d\n", AIO_REQUESTS) < 0)
		log_event(hv->log, LOG_LEVEL_WARNING,
			"cannot raise the bound of asynchronous requests: a machine takes 1024",
			"path", path, "is", text, "err", strerror(errno), NULL);
	else
		log_event(hv->log, LOG_LEVEL_DEBUG, "raised the bound of asynchronous requests",
			"path", path, NULL);
}

static int check_path(const struct hv *hv, const char *path, const char *what, struct err *err)
{
	if (access(path, R_OK) < 0)
		return err_errno(err, "Find the %s %s", what, path);
	if (!user_machine_can(&hv->qemu_user, path, R_OK))
		return err_set(err, -EACCES,
			"The %s %s is not readable by every machine's user: make it readable by "
			"all (chmod o+r), and move it where every directory on its path can be "
			"entered by all (chmod o+x)",
			what, path);
	return 0;
}

static int check_paths(const struct hv *hv, struct err *err)
{
	int r = check_path(hv, hv->config.kernel, "guest kernel", err);

	if (r == 0)
		r = check_path(hv, hv->config.initramfs, "guest initramfs", err);
	if (r == 0 && access(hv->config.virtiofsd, X_OK) < 0)
		r = err_errno(err,
			"Find virtiofsd, which serves volumes, at %s (Debian: apt install "
			"qemu-system-common)",
			hv->config.virtiofsd);
	if (r == 0 && !user_machine_can(&hv->qemu_user, hv->config.run_dir, X_OK))
		r = err_set(err, -EACCES, "Machines' users cannot enter %s: chmod o+x",
			hv->config.run_dir);
	return r;
}

int driver_prepare(struct hv *hv, struct err *err)
{
	const char *root;
	int r;

	user_find_qemu(&hv->qemu_user);
	r = check_paths(hv, err);
	if (r < 0)
		return r;
	open_kvm_to_group(hv);
	raise_aio_limit(hv);
	hv->libvirtd = strncmp(hv->config.libvirt_uri, EMBED_PREFIX, strlen(EMBED_PREFIX)) != 0;
	if (hv->libvirtd) {
		hv->state_dir = strdup("/run/libvirt/qemu");
		hv->log_dir = strdup("/var/log/libvirt/qemu");
		hv->lib_dir = strdup("/var/lib/libvirt/qemu");
		return hv->state_dir && hv->log_dir && hv->lib_dir ? 0 : err_nomem(err);
	}
	root = hv->config.libvirt_uri + strlen(EMBED_PREFIX);
	if (root[0] != '/' || strpbrk(root, "%&#"))
		return err_set(err, -EINVAL,
			"libvirt_uri: the root '%s' is to be an absolute path without %%, & and #",
			root);
	hv->state_dir = str_printf("%s/run/qemu", root);
	hv->log_dir = str_printf("%s/log/qemu", root);
	hv->lib_dir = str_printf("%s/lib/qemu", root);
	if (!hv->state_dir || !hv->log_dir || !hv->lib_dir)
		return err_nomem(err);
	return 0;
}

/* What libvirt has noted down of machines that live. */
struct notes {
	size_t n;
	uint64_t bytes;
};

static bool is_note(const char *name)
{
	size_t len = strlen(name);

	return len >= 4 && strcmp(name + len - 4, ".xml") == 0;
}

/* Whether a file of the state directory is the record of a machine without a process. */
static bool is_unborn(const char *dir, const char *name)
{
	_cleanup_free_ char *path = NULL, *text = NULL;

	if (!is_note(name))
		return false;
	path = str_printf("%s/%s", dir, name);
	return path && fd_read_file(path, 1 << 20, &text, NULL, NULL) == 0 &&
	       domain_xml_never_ran(text);
}

/*
 * libvirt records a machine before it has started QEMU, which does not get to run its program when
 * libvirt dies then. Of such a record with process 0 a new libvirt makes a machine that it waits
 * for (30 s), can never destroy and finds again at every start; so it is not to see it.
 */
static int forget_unborn(const struct hv *hv, struct notes *ret, struct err *err)
{
	struct notes notes = {0};
	const struct dirent *entry;
	struct stat st;
	int r = 0;

	DIR *dir = opendir(hv->state_dir);
	if (!dir && errno != ENOENT)
		return err_errno(err, "Open directory %s", hv->state_dir);
	while (dir && r == 0 && (entry = readdir(dir))) {
		bool unborn = is_unborn(hv->state_dir, entry->d_name);

		if (unborn && unlinkat(dirfd(dir), entry->d_name, 0) < 0)
			r = err_errno(err, "Remove %s/%s", hv->state_dir, entry->d_name);
		if (unborn || !is_note(entry->d_name))
			continue;
		notes.n++;
		if (fstatat(dirfd(dir), entry->d_name, &st, 0) == 0)
			notes.bytes += (uint64_t)st.st_size + NOTE_GROWTH_BYTES;
	}
	if (dir)
		closedir(dir);
	*ret = notes;
	return r;
}

/*
 * The notes are of no use after a boot, so they lie below run_dir: on the file system of state_dir,
 * which guests and images fill, there may be no room to renew them. Those of machines that a
 * bulkheadd before us started elsewhere stay where they are.
 */
static int place_notes(const struct hv *hv, const char *root, struct err *err)
{
	_cleanup_free_ char *link = str_printf("%s/run", root);
	_cleanup_free_ char *dir = str_printf("%s/libvirt", hv->config.run_dir);
	char target[PATH_MAX];
	ssize_t len;
	int r;

	if (!link || !dir)
		return err_nomem(err);
	r = fd_mkdir_all(dir, 0711, err);
	if (r < 0)
		return r;
	len = readlink(link, target, sizeof(target));
	if (len == (ssize_t)strlen(dir) && memcmp(target, dir, strlen(dir)) == 0)
		return 0;
	r = fd_remove_tree(link, err);
	if (r == 0 && symlink(dir, link) < 0)
		r = err_errno(err, "Make %s", link);
	return r;
}

static int check_room(const struct hv *hv, const struct notes *notes, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/room", hv->state_dir);
	_cleanup_close_ int fd = -EBADF;
	int r;

	if (!path)
		return err_nomem(err);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	r = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)notes->bytes);
	unlink(path);
	return r ? err_set(err, -r,
			   "%s: %s: %llu KiB must be free there for libvirt's notes of %zu "
			   "machines, which go on meanwhile",
			   hv->state_dir, strerror(r), (unsigned long long)notes->bytes >> 10,
			   notes->n)
		 : 0;
}

static int check_threads(const struct notes *notes, struct err *err)
{
	char why[96];

	snprintf(why, sizeof(why), "for libvirt to look after %zu machines, which go on meanwhile",
		notes->n);
	return threads_check(notes->n * THREADS_PER_MACHINE + THREADS_BESIDE, why, err);
}

/*
 * Where libvirt, as it starts, cannot renew its note of a machine, or start the thread that looks
 * for it, it ends the machine. So it is not started without.
 */
static int check_means(const struct hv *hv, const struct notes *notes, struct err *err)
{
	int r = check_room(hv, notes, err);

	return r < 0 ? r : check_threads(notes, err);
}

int driver_configure(const struct hv *hv, struct err *err)
{
	const char *root = hv->config.libvirt_uri + strlen(EMBED_PREFIX);
	struct notes notes;
	int r;

	if (hv->libvirtd)
		return 0;
	r = forget_unborn(hv, &notes, err);
	if (r == 0)
		r = write_conf(hv, root, err);
	if (r < 0)
		return r;
	return notes.n ? check_means(hv, &notes, err) : place_notes(hv, root, err);
}

/* The place of D-Bus displays, of which we have none: libvirt lets machines' group write there. */
void driver_fence(const struct hv *hv)
{
	_cleanup_free_ char *path = str_printf("%s/dbus", hv->state_dir);

	if (!hv->libvirtd && path)
		(void)chmod(path, 0700);
}
