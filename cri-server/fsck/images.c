/* The image store's files: each that a record names is there, and each that is there has one. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/fsck/internal.h"

static const char *hex_of(const char *digest)
{
	return strncmp(digest, "sha256:", 7) == 0 ? digest + 7 : digest;
}

static void need_layers(
	struct fsck *fsck, enum store_kind kind, const char *id, char *const *layers, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct fsck_record *layer = fsck_record(fsck, STORE_LAYER, layers[i]);
		if (layer)
			layer->needed = true;
		else
			fsck_find(fsck, kind, id, "its layer %s has no record", layers[i]);
	}
}

static bool is_file(const char *path)
{
	struct stat st;
	return path && lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

static void look_at_records(struct fsck *fsck, const char *dir)
{
	for (size_t i = 0; i < fsck->report->n[STORE_IMAGE]; i++) {
		const struct fsck_record *image = &fsck->records[STORE_IMAGE][i];
		need_layers(
			fsck, STORE_IMAGE, image->id, image->image->layers, image->image->n_layers);
		for (size_t k = 0; k < image->image->n_blobs; k++) {
			const char *blob = image->image->blobs[k];
			_cleanup_free_ char *path =
				str_printf("%s/blobs/sha256/%s", dir, hex_of(blob));
			if (!is_file(path))
				fsck_find(fsck, STORE_IMAGE, image->id, "its blob %s is missing",
					blob);
		}
	}
	for (size_t i = 0; i < fsck->report->n[STORE_CONTAINER]; i++) {
		const struct fsck_record *c = &fsck->records[STORE_CONTAINER][i];
		need_layers(
			fsck, STORE_CONTAINER, c->id, c->container->layers, c->container->n_layers);
	}
	for (size_t i = 0; i < fsck->report->n[STORE_LAYER]; i++) {
		const char *id = fsck->records[STORE_LAYER][i].id;
		_cleanup_free_ char *path = str_printf("%s/layers/%s.erofs", dir, hex_of(id));
		if (!is_file(path))
			fsck_find(
				fsck, STORE_LAYER, id, "its file %s is missing", path ? path : "");
	}
}

static void look_at_layer_file(struct fsck *fsck, const char *name, void *userdata)
{
	_cleanup_free_ char *digest = str_printf("sha256:%.*s", (int)strcspn(name, "."), name);
	_cleanup_free_ char *path = str_printf("%s/%s", (const char *)userdata, name);
	if (digest && path && !fsck_record(fsck, STORE_LAYER, digest))
		fsck_find(fsck, FSCK_KINDS, path, "file of a layer that has no record");
}

static bool has_blob(const struct fsck *fsck, const char *hex)
{
	for (size_t i = 0; i < fsck->report->n[STORE_IMAGE]; i++) {
		const Bulkhead__Store__Image *image = fsck->records[STORE_IMAGE][i].image;
		for (size_t k = 0; k < image->n_blobs; k++)
			if (strcmp(hex_of(image->blobs[k]), hex) == 0)
				return true;
	}
	return false;
}

static void look_at_blob(struct fsck *fsck, const char *name, void *userdata)
{
	_cleanup_free_ char *path = str_printf("%s/%s", (const char *)userdata, name);
	if (path && !has_blob(fsck, name))
		fsck_find(fsck, FSCK_KINDS, path, "blob that no image has");
}

static void count(struct fsck *fsck, const char *name, void *userdata)
{
	(void)fsck;
	(void)name;
	(*(size_t *)userdata)++;
}

/* What nobody needs, unless a pull may be about to: each has a directory in tmp/ until its end. */
static int look_for_strays(struct fsck *fsck, const char *dir, struct err *err)
{
	_cleanup_free_ char *tmp = str_printf("%s/tmp", dir);
	_cleanup_free_ char *layers = str_printf("%s/layers", dir);
	_cleanup_free_ char *blobs = str_printf("%s/blobs/sha256", dir);
	size_t pulls = 0;
	if (!tmp || !layers || !blobs)
		return err_nomem(err);
	int r = fsck_each_entry(fsck, tmp, count, &pulls, err);
	if (r < 0 || (pulls && fsck->report->serving))
		return r;
	for (size_t i = 0; i < fsck->report->n[STORE_LAYER]; i++)
		if (!fsck->records[STORE_LAYER][i].needed)
			fsck_find(fsck, STORE_LAYER, fsck->records[STORE_LAYER][i].id,
				"no image and no container needs it");
	r = fsck_each_entry(fsck, layers, look_at_layer_file, layers, err);
	return r < 0 ? r : fsck_each_entry(fsck, blobs, look_at_blob, blobs, err);
}

int fsck_images(struct fsck *fsck, struct err *err)
{
	_cleanup_free_ char *dir = str_printf("%s/images", fsck->config->state_dir);
	if (!dir)
		return err_nomem(err);
	look_at_records(fsck, dir);
	return look_for_strays(fsck, dir, err);
}
