/*
 * The names that lead to images: tags and digests, which move, join and go; and ids.
 */
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/fd.h"
#include "cri-server/image/internal.h"
#include "cri-server/image/reference.h"
#include "cri-server/message.h"

/* ---- look up ---- */

static const char *in_list(char *const *list, size_t n, const char *text)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i], text) == 0)
			return list[i];
	return NULL;
}

static bool begins(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

/* An id whole, or its unique beginning, with "sha256:" or without. */
static bool by_id(const struct img *img, const char *text, size_t *ret_at)
{
	if (begins(text, "sha256:"))
		text += strlen("sha256:");
	size_t len = strlen(text);
	if (!len || len > 64 || strspn(text, "0123456789abcdef") != len)
		return false;
	char start[72];
	snprintf(start, sizeof(start), "sha256:%s", text);
	size_t at = img_list_place(img, start);
	if (at >= img->n_images || !begins(img->images[at]->id, start) ||
		(at + 1 < img->n_images && begins(img->images[at + 1]->id, start)))
		return false;
	*ret_at = at;
	return true;
}

static bool by_name(const struct img *img, const char *name, size_t *ret_at)
{
	for (size_t i = 0; i < img->n_images; i++) {
		const Bulkhead__Store__Image *record = img->images[i]->record;
		if (in_list(record->tags, record->n_tags, name) ||
			in_list(record->digests, record->n_digests, name)) {
			*ret_at = i;
			return true;
		}
	}
	return false;
}

/* "busybox" → "docker.io/library/busybox:latest"; a digest leaves no tag. The caller frees. */
static int complete_name(const char *text, char **ret, struct err *err)
{
	struct reference ref;
	int r = reference_parse(text, &ref, err);
	if (r < 0)
		return r;
	char *name = ref.digest ? str_printf("%s@%s", ref.name, ref.digest)
				: str_printf("%s:%s", ref.name, ref.tag);
	reference_done(&ref);
	if (!name)
		return err_nomem(err);
	*ret = name;
	return 0;
}

const char *img_image_name(const struct img_image *image, const char *text)
{
	const Bulkhead__Store__Image *record = image->record;
	const char *found = in_list(record->tags, record->n_tags, text);
	_cleanup_free_ char *name = NULL;
	if (found || complete_name(text, &name, NULL) < 0)
		return found;
	found = in_list(record->tags, record->n_tags, name);
	return found ? found : in_list(record->digests, record->n_digests, name);
}

int img_look_up(struct img *img, const char *text, size_t *ret_at, char **ret_name, struct err *err)
{
	/* "oci:…" stands as it was pulled. */
	_cleanup_free_ char *name = img_source_is_local(text) ? strdup(text) : NULL;
	int r = 0;
	if (!name && !reference_is_digest(text))
		r = complete_name(text, &name, err);
	if (r == -ENOMEM)
		return r;
	if (name && by_name(img, name, ret_at)) {
		*ret_name = TAKE_PTR(name);
		return 0;
	}
	/* A name goes first: 'cafe' must not turn out as another image because its digest begins
	 * so. */
	if (by_id(img, text, ret_at)) {
		*ret_name = NULL;
		return 0;
	}
	/* 64 digits are no name, but an id that may well be gone. */
	return r == 0 || reference_is_hex(text) ? 1 : r;
}

/* ---- pinned ---- */

int img_load_pinned(struct img *img, struct err *err)
{
	const struct img_config *config = &img->config;
	img->pinned = calloc(config->n_pinned + 1, sizeof(char *));
	if (!img->pinned)
		return err_nomem(err);
	for (size_t i = 0; i < config->n_pinned; i++) {
		const char *text = config->pinned[i];
		char *name = NULL;
		int r = 0;
		if (strchr(text, '*') || img_source_is_local(text) || reference_is_digest(text))
			name = strdup(text);
		else
			r = complete_name(text, &name, err);
		if (r < 0)
			return err_wrap(err, "images.pinned");
		if (!name)
			return err_nomem(err);
		img->pinned[img->n_pinned++] = name;
	}
	return 0;
}

static bool matches(const char *pattern, const char *name)
{
	return strcmp(pattern, name) == 0 ||
	       (strchr(pattern, '*') && fnmatch(pattern, name, 0) == 0);
}

static bool any_matches(char *const *names, size_t n, const char *pattern)
{
	for (size_t i = 0; i < n; i++)
		if (matches(pattern, names[i]))
			return true;
	return false;
}

bool img_is_pinned(const struct img *img, const struct img_image *image)
{
	const Bulkhead__Store__Image *record = image->record;
	for (size_t i = 0; i < img->n_pinned; i++)
		if (matches(img->pinned[i], image->id) ||
			any_matches(record->tags, record->n_tags, img->pinned[i]) ||
			any_matches(record->digests, record->n_digests, img->pinned[i]))
			return true;
	return false;
}

/* ---- names of a record ---- */

static void drop_at(char **list, size_t *n, size_t at)
{
	free(list[at]);
	list[at] = list[--*n];
}

static bool drop_from_list(char **list, size_t *n, const char *text)
{
	for (size_t i = 0; i < *n; i++)
		if (strcmp(list[i], text) == 0) {
			drop_at(list, n, i);
			return true;
		}
	return false;
}

static int add_to_list(char ***list, size_t *n, const char *text, struct err *err)
{
	if (in_list(*list, *n, text))
		return 0;
	char **longer = realloc(*list, (*n + 1) * sizeof(*longer));
	if (!longer)
		return err_nomem(err);
	*list = longer;
	longer[*n] = strdup(text);
	if (!longer[*n])
		return err_nomem(err);
	(*n)++;
	return 0;
}

static int set_spec(Bulkhead__Store__Image *record, const void *spec, size_t len, struct err *err)
{
	uint8_t *copy = malloc(len ? len : 1);
	if (!copy)
		return err_nomem(err);
	memcpy(copy, spec, len);
	free(record->spec.data);
	record->spec = (ProtobufCBinaryData){.data = copy, .len = len};
	return 0;
}

/* The same image again: what was known of its names, and how it was asked for, stays. */
static int merge_names(
	Bulkhead__Store__Image *record, const Bulkhead__Store__Image *old, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < old->n_tags && r == 0; i++)
		r = add_to_list(&record->tags, &record->n_tags, old->tags[i], err);
	for (size_t i = 0; i < old->n_digests && r == 0; i++)
		r = add_to_list(&record->digests, &record->n_digests, old->digests[i], err);
	if (r == 0 && old->spec.len && !record->spec.len)
		r = set_spec(record, old->spec.data, old->spec.len, err);
	return r;
}

/* "docker.io/library/busybox" of a tag or digest in it. */
static size_t repository_length(const char *name)
{
	const char *slash = strrchr(name, '/');
	const char *path = slash ? slash : name;
	return (size_t)(path - name) + strcspn(path, ":@");
}

static bool in_repository(const char *name, const char *repository, size_t len)
{
	return strncmp(name, repository, len) == 0 && (name[len] == ':' || name[len] == '@');
}

static bool drop_repository(char **list, size_t *n, const char *name)
{
	size_t len = repository_length(name), before = *n;
	for (size_t i = *n; i-- > 0;)
		if (in_repository(list[i], name, len))
			drop_at(list, n, i);
	return *n != before;
}

/*
 * A tag goes alone as long as its repository has another one for the image. The last takes the
 * repository's digests along, a digest the repository's tags: neither stands for anything else.
 */
static void drop_name(Bulkhead__Store__Image *record, const char *name)
{
	size_t len = repository_length(name);
	if (drop_from_list(record->tags, &record->n_tags, name))
		for (size_t i = 0; i < record->n_tags; i++)
			if (in_repository(record->tags[i], name, len))
				return;
	drop_repository(record->tags, &record->n_tags, name);
	drop_repository(record->digests, &record->n_digests, name);
}

/* ---- add ---- */

static Bulkhead__Store__Image *copy_record(const struct img_image *image)
{
	return (Bulkhead__Store__Image *)message_copy(&image->record->base);
}

/*
 * Other images as they are without the tags that the new one takes: written, and in ret_changed for
 * the list, at most one for each tag.
 */
static int take_tags(struct img *img, const struct img_image *taker, struct img_image **changed,
	size_t *n_changed, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < taker->record->n_tags && r == 0; i++) {
		const char *tag = taker->record->tags[i];
		size_t at;
		if (!by_name(img, tag, &at) || strcmp(img->images[at]->id, taker->id) == 0)
			continue;
		struct img_image *other = NULL;
		for (size_t k = 0; k < *n_changed; k++)
			if (strcmp(changed[k]->id, img->images[at]->id) == 0)
				other = changed[k];
		if (!other) {
			Bulkhead__Store__Image *record = copy_record(img->images[at]);
			other = record ? img_image_new(img->images[at]->id, record) : NULL;
			if (!other)
				return err_nomem(err);
			changed[(*n_changed)++] = other;
		}
		drop_from_list(other->record->tags, &other->record->n_tags, tag);
		r = store_put(img->store, STORE_IMAGE, other->id, &other->record->base, err);
	}
	return r;
}

static int add_sizes(struct img *img, enum img_kind kind, char *const *digests, size_t n,
	uint64_t *sum, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < n && r == 0; i++) {
		uint64_t bytes = 0;
		if (in_list(digests, i, digests[i]))
			continue; /* one file, named twice */
		r = img_file_measure(img, kind, digests[i], &bytes, err);
		*sum += bytes;
	}
	return r;
}

static int need_files(struct img *img, Bulkhead__Store__Image *record, struct err *err)
{
	int r = img_needs_add(img, IMG_BLOB, record->blobs, record->n_blobs, err);
	if (r < 0)
		return r;
	r = img_needs_add(img, IMG_LAYER, record->layers, record->n_layers, err);
	if (r < 0)
		img_needs_release(img, IMG_BLOB, record->blobs, record->n_blobs);
	return r;
}

static void release_files(struct img *img, const Bulkhead__Store__Image *record)
{
	img_needs_release(img, IMG_BLOB, record->blobs, record->n_blobs);
	img_needs_release(img, IMG_LAYER, record->layers, record->n_layers);
}

static int write_all(struct img *img, const struct img_image *image, struct img_image **changed,
	size_t *n_changed, struct err *err)
{
	int r = store_begin(img->store, err);
	if (r < 0)
		return r;
	r = take_tags(img, image, changed, n_changed, err);
	if (r == 0)
		r = store_put(img->store, STORE_IMAGE, image->id, &image->record->base, err);
	if (r == 0)
		r = store_commit(img->store, err);
	if (r < 0)
		store_rollback(img->store);
	return r;
}

/* The image's files are needed; takes it on success. */
static int add_needed(struct img *img, struct img_image *image, struct err *err)
{
	Bulkhead__Store__Image *record = image->record;
	size_t at = img_list_place(img, image->id), n_changed = 0;
	bool known = at < img->n_images && strcmp(img->images[at]->id, image->id) == 0;
	record->size = 0;
	int r = known ? merge_names(record, img->images[at]->record, err) : 0;
	if (r == 0)
		r = add_sizes(img, IMG_BLOB, record->blobs, record->n_blobs, &record->size, err);
	if (r == 0)
		r = add_sizes(img, IMG_LAYER, record->layers, record->n_layers, &record->size, err);
	if (r == 0)
		r = img_list_reserve(img, err);
	if (r < 0)
		return r;
	struct img_image **changed = calloc(record->n_tags + 1, sizeof(struct img_image *));
	r = changed ? write_all(img, image, changed, &n_changed, err) : err_nomem(err);
	for (size_t i = 0; i < n_changed; i++) {
		if (r == 0)
			img_list_put(img, changed[i]);
		else
			img_image_unref(changed[i]);
	}
	free(changed);
	if (r < 0)
		return r;
	if (known)
		release_files(img, img->images[at]->record);
	img_list_put(img, image);
	return 0;
}

int img_add(struct img *img, const char *id, Bulkhead__Store__Image *record, struct err *err)
{
	struct img_image *image = img_image_new(id, record);
	if (!image)
		return err_nomem(err);
	pthread_mutex_lock(&img->lock);
	int r = need_files(img, record, err);
	if (r == 0) {
		r = add_needed(img, image, err);
		if (r < 0)
			release_files(img, record);
	}
	img_unlock(img);
	if (r < 0)
		img_image_unref(image);
	return r;
}

/* ---- how it was asked for ---- */

static int replace_spec(
	struct img *img, const struct img_image *old, const void *spec, size_t len, struct err *err)
{
	Bulkhead__Store__Image *record = copy_record(old);
	struct img_image *image = record ? img_image_new(old->id, record) : NULL;
	if (!image)
		return err_nomem(err);
	int r = set_spec(record, spec, len, err);
	if (r == 0)
		r = store_put(img->store, STORE_IMAGE, image->id, &record->base, err);
	if (r == 0)
		img_list_put(img, image);
	else
		img_image_unref(image);
	return r;
}

int img_note_spec(struct img *img, const char *id, const void *spec, size_t len, struct err *err)
{
	int r = 0;
	pthread_mutex_lock(&img->lock);
	size_t at = img_list_place(img, id);
	if (at < img->n_images && strcmp(img->images[at]->id, id) == 0) {
		const ProtobufCBinaryData *old = &img->images[at]->record->spec;
		if (old->len != len || (len && memcmp(old->data, spec, len) != 0))
			r = replace_spec(img, img->images[at], spec, len, err);
	}
	img_unlock(img);
	return r;
}

/* ---- remove ---- */

static int remove_image(struct img *img, size_t at, struct err *err)
{
	FAULT_POINT("RemoveImage", "record");
	int r = store_delete(img->store, STORE_IMAGE, img->images[at]->id, err);
	if (r < 0)
		return r;
	FAULT_POINT("RemoveImage", "files");
	release_files(img, img->images[at]->record);
	img_list_remove(img, at);
	return 0;
}

static int remove_name(struct img *img, size_t at, const char *name, struct err *err)
{
	Bulkhead__Store__Image *record = copy_record(img->images[at]);
	struct img_image *image = record ? img_image_new(img->images[at]->id, record) : NULL;
	if (!image)
		return err_nomem(err);
	drop_name(record, name);
	bool named = record->n_tags || record->n_digests;
	int r = named ? store_put(img->store, STORE_IMAGE, image->id, &record->base, err)
		      : remove_image(img, at, err);
	if (named && r == 0)
		img_list_put(img, image);
	else
		img_image_unref(image);
	return r;
}

int img_remove(struct img *img, const char *reference, struct err *err)
{
	_cleanup_free_ char *name = NULL;
	size_t at;
	pthread_mutex_lock(&img->lock);
	int r = img_look_up(img, reference, &at, &name, err);
	if (r == 0)
		r = name ? remove_name(img, at, name, err) : remove_image(img, at, err);
	FAULT_POINT("RemoveImage", "space");
	img_unlock(img);
	FAULT_POINT("RemoveImage", "done");
	return r < 0 ? r : 0;
}
