#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/image/internal.h"
#include "cri-server/image/reference.h"
#include "cri-server/message.h"

struct img_image *img_image_free(struct img_image *image)
{
	if (!image)
		return NULL;
	free(image->id);
	if (image->record)
		bulkhead__store__image__free_unpacked(image->record, NULL);
	free(image);
	return NULL;
}

/* ---- open and close ---- */

static void free_entry(struct image_entry *entry)
{
	free(entry->id);
	if (entry->record)
		bulkhead__store__image__free_unpacked(entry->record, NULL);
	free(entry);
}

static int load_image(void *userdata, const char *id, const ProtobufCMessage *record)
{
	struct img *img = userdata;
	struct image_entry *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	entry->id = strdup(id);
	entry->record = (Bulkhead__Store__Image *)message_copy(record);
	if (!entry->id || !reference_is_digest(entry->id) || !entry->record ||
		!entry->record->config) {
		free_entry(entry);
		return -EBADMSG;
	}
	TAILQ_INSERT_TAIL(&img->images, entry, link);
	return 0;
}

static int make_directories(struct img *img, struct err *err)
{
	const struct {
		char **path;
		const char *name;
		mode_t mode;
	} dirs[] = {{&img->blobs, "blobs", 0700}, {&img->layers, "layers", 0711},
		{&img->tmp, "tmp", 0700}};
	int r = fd_mkdir_all(img->config.dir, 0711, err);
	for (size_t i = 0; i < ARRAY_SIZE(dirs) && r == 0; i++) {
		*dirs[i].path = str_printf("%s/%s", img->config.dir, dirs[i].name);
		if (!*dirs[i].path)
			return err_nomem(err);
		if (i == 2) /* what a pull that was killed left */
			r = fd_remove_tree(img->tmp, err);
		if (r == 0)
			r = fd_mkdir_all(*dirs[i].path, dirs[i].mode, err);
	}
	return r;
}

static char *copy_string(const char *text)
{
	return text ? strdup(text) : NULL;
}

int img_open(
	const struct img_config *config, struct store *store, struct img **ret, struct err *err)
{
	struct img *img = calloc(1, sizeof(*img));
	if (!img)
		return err_nomem(err);
	img->config = *config;
	img->config.dir = copy_string(config->dir);
	img->config.registries_conf = copy_string(config->registries_conf);
	img->config.policy = copy_string(config->policy);
	img->config.unpack_helper = copy_string(config->unpack_helper);
	img->store = store;
	pthread_mutex_init(&img->lock, NULL);
	pthread_cond_init(&img->busy_changed, NULL);
	TAILQ_INIT(&img->images);
	TAILQ_INIT(&img->holders);
	TAILQ_INIT(&img->busy);
	int r = img->config.dir ? make_directories(img, err) : err_nomem(err);
	if (r == 0)
		r = store_each(store, STORE_IMAGE, load_image, img, err);
	if (r < 0) {
		img_close(img);
		return err_wrap(err, "open the image store");
	}
	*ret = img;
	return 0;
}

static void free_holder(struct holder *holder)
{
	for (size_t i = 0; i < holder->n; i++)
		free(holder->layers[i]);
	free(holder->layers);
	free(holder->name);
	free(holder);
}

struct img *img_close(struct img *img)
{
	if (!img)
		return NULL;
	struct image_entry *entry;
	struct holder *holder;
	while ((entry = TAILQ_FIRST(&img->images))) {
		TAILQ_REMOVE(&img->images, entry, link);
		free_entry(entry);
	}
	while ((holder = TAILQ_FIRST(&img->holders))) {
		TAILQ_REMOVE(&img->holders, holder, link);
		free_holder(holder);
	}
	pthread_cond_destroy(&img->busy_changed);
	pthread_mutex_destroy(&img->lock);
	free((char *)img->config.dir);
	free((char *)img->config.registries_conf);
	free((char *)img->config.policy);
	free((char *)img->config.unpack_helper);
	free(img->blobs);
	free(img->layers);
	free(img->tmp);
	free(img);
	return NULL;
}

/* ---- names ---- */

static bool in_list(char *const *list, size_t n, const char *text)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i], text) == 0)
			return true;
	return false;
}

static void drop_from_list(char **list, size_t *n, const char *text)
{
	for (size_t i = 0; i < *n; i++)
		if (strcmp(list[i], text) == 0) {
			free(list[i]);
			list[i] = list[--*n];
			return;
		}
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

/* An id whole, or its unique beginning, with "sha256:" or without. */
static struct image_entry *by_id(struct img *img, const char *text)
{
	struct image_entry *entry, *found = NULL;
	if (strncmp(text, "sha256:", 7) == 0)
		text += 7;
	size_t len = strlen(text);
	if (!len || strspn(text, "0123456789abcdef") != len)
		return NULL;
	TAILQ_FOREACH(entry, &img->images, link)
		if (strncmp(entry->id + 7, text, len) == 0) {
			if (found)
				return NULL;
			found = entry;
		}
	return found;
}

static struct image_entry *by_name(struct img *img, const char *tag, const char *digest)
{
	struct image_entry *entry;
	TAILQ_FOREACH(entry, &img->images, link)
		if (digest ? in_list(entry->record->digests, entry->record->n_digests, digest)
			   : in_list(entry->record->tags, entry->record->n_tags, tag))
			return entry;
	return NULL;
}

static struct image_entry *by_reference(struct img *img, const struct reference *ref)
{
	_cleanup_free_ char *name = ref->digest ? str_printf("%s@%s", ref->name, ref->digest)
						: str_printf("%s:%s", ref->name, ref->tag);
	return name ? by_name(img, name, ref->digest ? name : NULL) : NULL;
}

/*
 * 0 with the entry, or positive 1. The lock is held. A name goes before the beginning of an id:
 * 'cafe' must not turn out as another image because its digest begins so.
 */
static int find_locked(struct img *img, const char *text, struct image_entry **ret, struct err *err)
{
	struct image_entry *entry = by_name(img, text, NULL); /* "oci:…" stands as it was pulled */
	int r = 0;
	if (!entry && !img_source_is_local(text) && !reference_is_digest(text)) {
		struct reference ref;
		r = reference_parse(text, &ref, err);
		if (r == 0) {
			entry = by_reference(img, &ref);
			reference_done(&ref);
		}
	}
	if (!entry)
		entry = by_id(img, text);
	*ret = entry;
	return entry ? 0 : r < 0 ? r : 1;
}

static struct img_image *snapshot(const struct image_entry *entry)
{
	struct img_image *image = calloc(1, sizeof(*image));
	if (!image)
		return NULL;
	image->id = strdup(entry->id);
	image->record = (Bulkhead__Store__Image *)message_copy(&entry->record->base);
	return image->id && image->record ? image : img_image_free(image);
}

int img_find(struct img *img, const char *reference, struct img_image **ret, struct err *err)
{
	struct image_entry *entry;
	pthread_mutex_lock(&img->lock);
	int r = find_locked(img, reference, &entry, err);
	if (r == 0) {
		struct img_image *image = snapshot(entry);
		if (image)
			*ret = image;
		else
			r = err_nomem(err);
	}
	pthread_mutex_unlock(&img->lock);
	return r;
}

void img_list_free(struct img_image **images, size_t n)
{
	for (size_t i = 0; i < n; i++)
		img_image_free(images[i]);
	free(images);
}

int img_list(struct img *img, struct img_image ***ret, size_t *ret_n, struct err *err)
{
	struct image_entry *entry;
	size_t n = 0, done = 0;
	pthread_mutex_lock(&img->lock);
	TAILQ_FOREACH(entry, &img->images, link)
		n++;
	struct img_image **images = calloc(n + 1, sizeof(*images));
	TAILQ_FOREACH(entry, &img->images, link)
		if (images && (images[done] = snapshot(entry)))
			done++;
	pthread_mutex_unlock(&img->lock);
	if (!images || done < n) {
		if (images)
			img_list_free(images, done);
		return err_nomem(err);
	}
	*ret = images;
	*ret_n = n;
	return 0;
}

/* ---- add and remove ---- */

static bool drop_tags(Bulkhead__Store__Image *from, const Bulkhead__Store__Image *taken)
{
	size_t before = from->n_tags;
	for (size_t i = 0; i < taken->n_tags; i++)
		drop_from_list(from->tags, &from->n_tags, taken->tags[i]);
	return from->n_tags != before;
}

/* The names leave whichever other image had them: a tag moved. In the records, not yet in memory.
 */
static int take_names(
	struct img *img, const char *id, const Bulkhead__Store__Image *record, struct err *err)
{
	struct image_entry *other;
	int r = 0;
	TAILQ_FOREACH(other, &img->images, link) {
		if (strcmp(other->id, id) == 0)
			continue;
		Bulkhead__Store__Image *copy =
			(Bulkhead__Store__Image *)message_copy(&other->record->base);
		if (!copy)
			return err_nomem(err);
		if (drop_tags(copy, record))
			r = store_put(img->store, STORE_IMAGE, other->id, &copy->base, err);
		bulkhead__store__image__free_unpacked(copy, NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The same image again: what was known of its names stays. */
static int merge_names(
	Bulkhead__Store__Image *record, const Bulkhead__Store__Image *old, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < old->n_tags && r == 0; i++)
		r = add_to_list(&record->tags, &record->n_tags, old->tags[i], err);
	for (size_t i = 0; i < old->n_digests && r == 0; i++)
		r = add_to_list(&record->digests, &record->n_digests, old->digests[i], err);
	return r;
}

static int add_locked(struct img *img, struct image_entry *entry, struct err *err)
{
	struct image_entry *old = by_id(img, entry->id);
	int r = old ? merge_names(entry->record, old->record, err) : 0;
	if (r == 0)
		r = store_begin(img->store, err);
	if (r < 0)
		return r;
	r = take_names(img, entry->id, entry->record, err);
	if (r == 0)
		r = store_put(img->store, STORE_IMAGE, entry->id, &entry->record->base, err);
	if (r == 0)
		r = store_commit(img->store, err);
	if (r < 0) {
		store_rollback(img->store);
		return r;
	}
	if (old) {
		TAILQ_REMOVE(&img->images, old, link);
		free_entry(old);
	}
	struct image_entry *other;
	TAILQ_FOREACH(other, &img->images, link)
		drop_tags(other->record, entry->record);
	TAILQ_INSERT_TAIL(&img->images, entry, link);
	return 0;
}

int img_add(struct img *img, const char *id, Bulkhead__Store__Image *record, struct err *err)
{
	struct image_entry *entry = calloc(1, sizeof(*entry));
	char *copy = strdup(id);
	if (!entry || !copy) {
		free(entry);
		free(copy);
		bulkhead__store__image__free_unpacked(record, NULL);
		return err_nomem(err);
	}
	entry->id = copy;
	entry->record = record;
	pthread_mutex_lock(&img->lock);
	int r = add_locked(img, entry, err);
	pthread_mutex_unlock(&img->lock);
	if (r < 0)
		free_entry(entry);
	return r;
}

int img_remove(struct img *img, const char *reference, struct err *err)
{
	struct image_entry *entry;
	pthread_mutex_lock(&img->lock);
	int r = find_locked(img, reference, &entry, err);
	if (r == 0) {
		r = store_delete(img->store, STORE_IMAGE, entry->id, err);
		if (r == 0) {
			TAILQ_REMOVE(&img->images, entry, link);
			free_entry(entry);
		}
	}
	pthread_mutex_unlock(&img->lock);
	if (r < 0)
		return r;
	return r == 0 ? img_collect(img, err) : 0;
}

/* ---- holders ---- */

static struct holder *find_holder(struct img *img, const char *name)
{
	struct holder *holder;
	TAILQ_FOREACH(holder, &img->holders, link)
		if (strcmp(holder->name, name) == 0)
			return holder;
	return NULL;
}

int img_hold(struct img *img, const char *name, char *const *layers, size_t n, struct err *err)
{
	struct holder *holder = calloc(1, sizeof(*holder));
	if (!holder)
		return err_nomem(err);
	holder->name = strdup(name);
	holder->layers = calloc(n + 1, sizeof(char *));
	bool ok = holder->name && holder->layers;
	for (size_t i = 0; ok && i < n; i++) {
		ok = (holder->layers[i] = strdup(layers[i]));
		holder->n += ok;
	}
	if (!ok) {
		free_holder(holder);
		return err_nomem(err);
	}
	pthread_mutex_lock(&img->lock);
	bool known = find_holder(img, name);
	if (!known)
		TAILQ_INSERT_TAIL(&img->holders, holder, link);
	pthread_mutex_unlock(&img->lock);
	if (known)
		free_holder(holder);
	return 0;
}

void img_release(struct img *img, const char *name)
{
	pthread_mutex_lock(&img->lock);
	struct holder *holder = find_holder(img, name);
	if (holder)
		TAILQ_REMOVE(&img->holders, holder, link);
	pthread_mutex_unlock(&img->lock);
	if (!holder)
		return;
	free_holder(holder);
	img_collect(img, NULL);
}
