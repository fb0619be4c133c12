/*
 * The store's files, each known by a digest, and how many need it: images, holders, and pulls that
 * have no image yet. What nobody needs any more goes at once. Under the lock a file only loses its
 * name; its bytes are given back after, so that nobody waits for a large file's end.
 */
#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/image/internal.h"

struct file {
	const char *digest; /* the key */
	unsigned users;
	bool measured; /* its bytes are in the sum */
	uint64_t bytes;
	char digest_text[];
};

struct gone {
	TAILQ_ENTRY(gone) link;
	char *path;
};

/* What the file takes. A blob whose place the file system has not chosen yet takes its length; a
 * layer is on the disk when it appears, without its holes. */
static uint64_t disk_bytes(enum img_kind kind, const struct stat *st)
{
	uint64_t allocated = (uint64_t)st->st_blocks * 512, length = (uint64_t)st->st_size;
	return kind == IMG_LAYER || allocated > length ? allocated : length;
}

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct file *)a)->digest, ((const struct file *)b)->digest);
}

static struct file *find_file(struct img *img, enum img_kind kind, const char *digest)
{
	const struct file key = {.digest = digest};
	struct file **node = tfind(&key, &img->files[kind], compare);
	return node ? *node : NULL;
}

static struct file *make_file(struct img *img, enum img_kind kind, const char *digest)
{
	size_t size = strlen(digest) + 1;
	struct file *file = calloc(1, sizeof(*file) + size);
	if (!file)
		return NULL;
	file->digest = memcpy(file->digest_text, digest, size);
	if (tsearch(file, &img->files[kind], compare))
		return file;
	free(file);
	return NULL;
}

static char *path_of(const struct img *img, enum img_kind kind, const char *digest)
{
	return kind == IMG_BLOB ? img_blob_path(img, digest) : img_layer_file(img, digest);
}

bool img_file_is_needed(struct img *img, enum img_kind kind, const char *digest)
{
	return find_file(img, kind, digest);
}

int img_file_need(struct img *img, enum img_kind kind, const char *digest, struct err *err)
{
	struct file *file = find_file(img, kind, digest);
	if (!file)
		file = make_file(img, kind, digest);
	if (!file)
		return err_nomem(err);
	file->users++;
	return 0;
}

/* ---- sizes ---- */

static void forget_size(struct img *img, struct file *file)
{
	if (!file->measured)
		return;
	img->usage.bytes -= file->bytes;
	img->usage.inodes--;
	file->measured = false;
}

int img_file_measure(struct img *img, enum img_kind kind, const char *digest, uint64_t *ret_bytes,
	struct err *err)
{
	_cleanup_free_ char *path = path_of(img, kind, digest);
	struct file *file = find_file(img, kind, digest);
	struct stat st;
	if (!path)
		return err_nomem(err);
	if (stat(path, &st) < 0)
		return err_errno(err, "%s", path);
	*ret_bytes = disk_bytes(kind, &st);
	if (file) {
		forget_size(img, file);
		file->measured = true;
		file->bytes = *ret_bytes;
		img->usage.bytes += file->bytes;
		img->usage.inodes++;
	}
	return 0;
}

struct unmeasured {
	struct img *img;
	enum img_kind kind;
	struct img_usage *usage;
};

static void add_unmeasured(const void *node, VISIT visit, void *closure)
{
	const struct file *file = *(struct file *const *)node;
	struct unmeasured *u = closure;
	struct stat st;
	if ((visit != postorder && visit != leaf) || file->measured)
		return;
	_cleanup_free_ char *path = path_of(u->img, u->kind, file->digest);
	if (!path || stat(path, &st) < 0)
		return; /* still to come */
	u->usage->bytes += disk_bytes(u->kind, &st);
	u->usage->inodes++;
}

struct img_usage img_files_usage(struct img *img)
{
	struct img_usage usage = img->usage;
	for (int kind = 0; kind < IMG_KINDS; kind++) {
		struct unmeasured u = {.img = img, .kind = kind, .usage = &usage};
		twalk_r(img->files[kind], add_unmeasured, &u);
	}
	return usage;
}

/* ---- the end of a file ---- */

void img_file_discard(struct img *img, enum img_kind kind, const char *digest)
{
	struct gone *gone = calloc(1, sizeof(*gone));
	_cleanup_free_ char *path = path_of(img, kind, digest);
	/* First: a file without a record is found again by its name, the reverse would be a broken
	 * layer. */
	if (kind == IMG_LAYER)
		store_delete(img->store, STORE_LAYER, digest, NULL);
	if (gone)
		gone->path = str_printf("%s/gone-%llu", img->tmp, img->gone_number++);
	if (path && gone && gone->path && rename(path, gone->path) == 0) {
		TAILQ_INSERT_TAIL(&img->gone, gone, link);
		return;
	}
	if (path)
		unlink(path); /* mostly it never came */
	if (gone)
		free(gone->path);
	free(gone);
}

void img_file_release(struct img *img, enum img_kind kind, const char *digest)
{
	struct file *file = find_file(img, kind, digest);
	if (!file || --file->users)
		return;
	forget_size(img, file);
	tdelete(file, &img->files[kind], compare);
	if (!img->loading) /* else the sweep comes that looks for it */
		img_file_discard(img, kind, digest);
	free(file);
}

void img_unlock(struct img *img)
{
	TAILQ_HEAD(, gone) all = TAILQ_HEAD_INITIALIZER(all);
	struct gone *gone;
	TAILQ_CONCAT(&all, &img->gone, link);
	pthread_mutex_unlock(&img->lock);
	while ((gone = TAILQ_FIRST(&all))) {
		TAILQ_REMOVE(&all, gone, link);
		unlink(gone->path);
		free(gone->path);
		free(gone);
	}
}

void img_files_done(struct img *img)
{
	for (int kind = 0; kind < IMG_KINDS; kind++)
		tdestroy(img->files[kind], free);
}
