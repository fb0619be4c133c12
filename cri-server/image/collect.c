/*
 * Needs of pulls and holders, and the sweep: files that nobody needs, and whose end nobody saw
 * because it came with a crash.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/image/internal.h"
#include "cri-server/image/reference.h"

/* ---- lists of needs ---- */

void img_needs_release(struct img *img, enum img_kind kind, char *const *digests, size_t n)
{
	for (size_t i = 0; i < n; i++)
		img_file_release(img, kind, digests[i]);
}

int img_needs_add(
	struct img *img, enum img_kind kind, char *const *digests, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		int r = img_file_need(img, kind, digests[i], err);
		if (r < 0) {
			img_needs_release(img, kind, digests, i);
			return r;
		}
	}
	return 0;
}

/* ---- the sweep ---- */

/* "<hex><suffix>" → the digest; false for any other name. */
static bool digest_of_name(const char *name, const char *suffix, char ret[72])
{
	size_t len = strlen(name), end = strlen(suffix);
	if (len != 64 + end || strcmp(name + 64, suffix) != 0)
		return false;
	snprintf(ret, 72, "sha256:%.64s", name);
	return reference_is_digest(ret);
}

static int sweep_directory(
	struct img *img, enum img_kind kind, const char *path, const char *suffix, struct err *err)
{
	DIR *dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, "open %s", path);
	for (struct dirent *entry; (entry = readdir(dir));) {
		char digest[72];
		if (!digest_of_name(entry->d_name, suffix, digest)) {
			if (entry->d_name[0] != '.')
				unlinkat(dirfd(dir), entry->d_name, 0);
		} else if (!img_file_is_needed(img, kind, digest)) {
			img_file_discard(img, kind, digest);
		}
	}
	closedir(dir);
	return 0;
}

struct stray_layers {
	struct img *img;
	char **digests;
	size_t n;
};

static int note_stray_layer(void *userdata, const char *id, const ProtobufCMessage *record)
{
	struct stray_layers *strays = userdata;
	(void)record;
	if (img_file_is_needed(strays->img, IMG_LAYER, id))
		return 0;
	char **longer = realloc(strays->digests, (strays->n + 1) * sizeof(char *));
	if (!longer)
		return -ENOMEM;
	strays->digests = longer;
	longer[strays->n] = strdup(id);
	return longer[strays->n++] ? 0 : -ENOMEM;
}

/* Records of layers that nobody needs, whether their files are there or not. */
static int sweep_records(struct img *img, struct err *err)
{
	struct stray_layers strays = {.img = img};
	int r = store_each(img->store, STORE_LAYER, note_stray_layer, &strays, err);
	for (size_t i = 0; i < strays.n; i++) {
		if (r == 0)
			r = store_delete(img->store, STORE_LAYER, strays.digests[i], err);
		free(strays.digests[i]);
	}
	free(strays.digests);
	return r;
}

static int sweep(struct img *img, struct err *err)
{
	_cleanup_free_ char *blobs = str_printf("%s/sha256", img->blobs);
	if (!blobs)
		return err_nomem(err);
	int r = sweep_records(img, err);
	if (r == 0)
		r = sweep_directory(img, IMG_LAYER, img->layers, ".erofs", err);
	if (r == 0)
		r = sweep_directory(img, IMG_BLOB, blobs, "", err);
	return r;
}

int img_collect(struct img *img, struct err *err)
{
	pthread_mutex_lock(&img->lock);
	int r = sweep(img, err);
	img_unlock(img);
	return r;
}

/* ---- what pulls need ---- */

struct img_need {
	struct img *img;
	struct {
		char **digests;
		size_t n;
	} files[IMG_KINDS];
};

struct img_need *img_need_new(struct img *img)
{
	struct img_need *need = calloc(1, sizeof(*need));
	if (!need)
		return NULL;
	need->img = img;
	return need;
}

int img_need_file(struct img_need *need, enum img_kind kind, const char *digest, struct err *err)
{
	char **longer =
		realloc(need->files[kind].digests, (need->files[kind].n + 1) * sizeof(*longer));
	if (!longer)
		return err_nomem(err);
	need->files[kind].digests = longer;
	char *copy = strdup(digest);
	if (!copy)
		return err_nomem(err);
	pthread_mutex_lock(&need->img->lock);
	int r = img_file_need(need->img, kind, digest, err);
	img_unlock(need->img);
	if (r < 0)
		free(copy);
	else
		longer[need->files[kind].n++] = copy;
	return r;
}

struct img_need *img_need_free(struct img_need *need)
{
	if (!need)
		return NULL;
	struct img *img = need->img;
	pthread_mutex_lock(&img->lock);
	for (int kind = 0; kind < IMG_KINDS; kind++)
		img_needs_release(img, kind, need->files[kind].digests, need->files[kind].n);
	img_unlock(img);
	for (int kind = 0; kind < IMG_KINDS; kind++) {
		for (size_t i = 0; i < need->files[kind].n; i++)
			free(need->files[kind].digests[i]);
		free(need->files[kind].digests);
	}
	free(need);
	return NULL;
}
