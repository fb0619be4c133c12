/*
 * What the image file system and other directories take. Of the store's files the sum is kept; only
 * what pulls in progress write is looked at.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/image/internal.h"

/* With `linked`, also files that have other names. */
static void add_usage(int dir_fd, const char *name, bool linked, uint64_t *bytes, uint64_t *inodes)
{
	struct stat st;
	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return; /* gone meanwhile */
	if (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && !linked)
		return;
	*bytes += (uint64_t)st.st_blocks * 512;
	(*inodes)++;
	if (!S_ISDIR(st.st_mode))
		return;
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		fd_close(fd);
		return;
	}
	for (struct dirent *entry; (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			add_usage(dirfd(dir), entry->d_name, linked, bytes, inodes);
	closedir(dir);
}

/* The mount point: the highest directory above path on the same device. */
static char *mountpoint_of(const char *path)
{
	char *work = realpath(path, NULL);
	struct stat here, above;
	if (!work || stat(work, &here) < 0)
		return work;
	for (char *slash; (slash = strrchr(work, '/')) && slash != work;) {
		*slash = '\0';
		if (stat(work, &above) < 0 || above.st_dev != here.st_dev) {
			*slash = '/';
			return work;
		}
	}
	if (stat("/", &above) == 0 && above.st_dev == here.st_dev)
		work[1] = '\0'; /* it begins with a slash */
	return work;
}

int img_directory_usage(const char *path, struct img_usage *ret, struct err *err)
{
	struct img_usage usage = {.mountpoint = mountpoint_of(path)};
	if (!usage.mountpoint)
		return err_errno(err, "find the file system of %s", path);
	add_usage(AT_FDCWD, path, true, &usage.bytes, &usage.inodes);
	*ret = usage;
	return 0;
}

static void add_directory(const char *path, struct img_usage *usage)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return;
	usage->bytes += (uint64_t)st.st_blocks * 512;
	usage->inodes++;
}

int img_usage(struct img *img, struct img_usage *ret, struct err *err)
{
	char *mountpoint = mountpoint_of(img->config.dir);
	_cleanup_free_ char *blobs = str_printf("%s/sha256", img->blobs);
	if (!mountpoint || !blobs) {
		free(mountpoint);
		return err_errno(err, "find the file system of %s", img->config.dir);
	}
	pthread_mutex_lock(&img->lock);
	struct img_usage usage = img_files_usage(img);
	img_unlock(img);
	const char *const directories[] = {img->config.dir, img->blobs, blobs, img->layers};
	for (size_t i = 0; i < ARRAY_SIZE(directories); i++)
		add_directory(directories[i], &usage);
	/* Blobs that are lent to pulls, or were taken from them, are in the account. */
	add_usage(AT_FDCWD, img->tmp, false, &usage.bytes, &usage.inodes);
	usage.mountpoint = mountpoint;
	*ret = usage;
	return 0;
}
