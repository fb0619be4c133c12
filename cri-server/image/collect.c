/*
 * Garbage and usage. Garbage is what no image names and no holder needs: layers (their file and
 * record) and blobs. Nothing is collected while a pull is in progress, whose blobs no image names
 * yet; its end collects.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/image/internal.h"

static bool names(char *const *list, size_t n, const char *prefix, const char *hex)
{
	size_t skip = strlen(prefix);
	for (size_t i = 0; i < n; i++)
		if (strncmp(list[i], prefix, skip) == 0 && strcmp(list[i] + skip, hex) == 0)
			return true;
	return false;
}

static bool layer_needed(struct img *img, const char *hex)
{
	struct image_entry *entry;
	struct holder *holder;
	TAILQ_FOREACH(entry, &img->images, link)
		if (names(entry->record->layers, entry->record->n_layers, "sha256:", hex))
			return true;
	TAILQ_FOREACH(holder, &img->holders, link)
		if (names(holder->layers, holder->n, "sha256:", hex))
			return true;
	return false;
}

static bool blob_needed(struct img *img, const char *hex)
{
	struct image_entry *entry;
	TAILQ_FOREACH(entry, &img->images, link)
		if (names(entry->record->blobs, entry->record->n_blobs, "sha256:", hex))
			return true;
	return false;
}

/* The record goes first: a file without one is found again by its name, the reverse would be a
 * broken layer. */
static int remove_layer(
	struct img *img, const char *hex, int dir_fd, const char *file, struct err *err)
{
	_cleanup_free_ char *diff_id = str_printf("sha256:%s", hex);
	if (!diff_id)
		return err_nomem(err);
	int r = store_delete(img->store, STORE_LAYER, diff_id, err);
	if (r == 0 && unlinkat(dir_fd, file, 0) < 0 && errno != ENOENT)
		r = err_errno(err, "remove layer %s", file);
	return r;
}

static int collect_layers(struct img *img, struct err *err)
{
	DIR *dir = opendir(img->layers);
	int r = 0;
	if (!dir)
		return err_errno(err, "open %s", img->layers);
	for (struct dirent *entry; r == 0 && (entry = readdir(dir));) {
		char hex[65];
		if (strlen(entry->d_name) != 64 + strlen(".erofs"))
			continue;
		snprintf(hex, sizeof(hex), "%.64s", entry->d_name);
		if (!layer_needed(img, hex))
			r = remove_layer(img, hex, dirfd(dir), entry->d_name, err);
	}
	closedir(dir);
	return r;
}

static int collect_blobs(struct img *img, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/sha256", img->blobs);
	if (!path)
		return err_nomem(err);
	DIR *dir = opendir(path);
	int r = 0;
	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, "open %s", path);
	for (struct dirent *entry; r == 0 && (entry = readdir(dir));) {
		if (entry->d_name[0] == '.' || blob_needed(img, entry->d_name))
			continue;
		if (unlinkat(dirfd(dir), entry->d_name, 0) < 0 && errno != ENOENT)
			r = err_errno(err, "remove blob %s", entry->d_name);
	}
	closedir(dir);
	return r;
}

int img_collect(struct img *img, struct err *err)
{
	pthread_mutex_lock(&img->lock);
	int r = 0;
	if (!img->pulls) {
		r = collect_layers(img, err);
		if (r == 0)
			r = collect_blobs(img, err);
	}
	pthread_mutex_unlock(&img->lock);
	return r;
}

static void add_usage(int dir_fd, const char *name, uint64_t *bytes, uint64_t *inodes)
{
	struct stat st;
	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return; /* gone meanwhile */
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
			add_usage(dirfd(dir), entry->d_name, bytes, inodes);
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

int img_directory_usage(const char *path, uint64_t *ret_bytes, uint64_t *ret_inodes,
	char **ret_mountpoint, struct err *err)
{
	char *mountpoint = mountpoint_of(path);
	if (!mountpoint)
		return err_errno(err, "find the file system of %s", path);
	*ret_bytes = *ret_inodes = 0;
	add_usage(AT_FDCWD, path, ret_bytes, ret_inodes);
	*ret_mountpoint = mountpoint;
	return 0;
}

const char *img_directory(const struct img *img)
{
	return img->config.dir;
}
