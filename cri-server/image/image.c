#include "cri-server/image/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"
#include "cri-server/image/pull.h"

/* ---- one image ---- */

struct img_image *img_image_new(const char *id, Bulkhead__Store__Image *record)
{
	struct img_image *image = calloc(1, sizeof(*image));
	char *copy = strdup(id);
	if (!image || !copy) {
		free(image);
		free(copy);
		bulkhead__store__image__free_unpacked(record, NULL);
		return NULL;
	}
	image->id = copy;
	image->record = record;
	atomic_init(&image->users, 1);
	return image;
}

static struct img_image *image_ref(struct img_image *image)
{
	atomic_fetch_add(&image->users, 1);
	return image;
}

struct img_image *img_image_unref(struct img_image *image)
{
	if (!image || atomic_fetch_sub(&image->users, 1) > 1)
		return NULL;
	free(image->id);
	bulkhead__store__image__free_unpacked(image->record, NULL);
	free(image);
	return NULL;
}

/* ---- the list ---- */

size_t img_list_place(const struct img *img, const char *id)
{
	size_t low = 0, high = img->n_images;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(img->images[middle]->id, id) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

int img_list_reserve(struct img *img, struct err *err)
{
	struct img_image **longer =
		realloc(img->images, (img->n_images + 1) * sizeof(struct img_image *));
	if (!longer)
		return err_nomem(err);
	img->images = longer;
	return 0;
}

void img_list_put(struct img *img, struct img_image *image)
{
	atomic_fetch_add(&img->generation, 1);
	size_t at = img_list_place(img, image->id);
	if (at < img->n_images && strcmp(img->images[at]->id, image->id) == 0) {
		img_image_unref(img->images[at]);
		img->images[at] = image;
		return;
	}
	memmove(img->images + at + 1, img->images + at,
		(img->n_images - at) * sizeof(struct img_image *));
	img->images[at] = image;
	img->n_images++;
}

void img_list_remove(struct img *img, size_t at)
{
	atomic_fetch_add(&img->generation, 1);
	img_image_unref(img->images[at]);
	img->n_images--;
	memmove(img->images + at, img->images + at + 1,
		(img->n_images - at) * sizeof(struct img_image *));
}

int img_find(struct img *img, const char *reference, struct img_image **ret, struct err *err)
{
	_cleanup_free_ char *name = NULL;
	size_t at;
	pthread_mutex_lock(&img->lock);
	int r = img_look_up(img, reference, &at, &name, err);
	if (r == 0)
		*ret = image_ref(img->images[at]);
	img_unlock(img);
	return r;
}

void img_list_free(struct img_image **images, size_t n)
{
	for (size_t i = 0; i < n; i++)
		img_image_unref(images[i]);
	free(images);
}

int img_list(struct img *img, struct img_image ***ret, size_t *ret_n, struct err *err)
{
	pthread_mutex_lock(&img->lock);
	size_t n = img->n_images;
	struct img_image **images = calloc(n + 1, sizeof(*images));
	for (size_t i = 0; images && i < n; i++)
		images[i] = image_ref(img->images[i]);
	img_unlock(img);
	if (!images)
		return err_nomem(err);
	*ret = images;
	*ret_n = n;
	return 0;
}

uint64_t img_generation(const struct img *img)
{
	return atomic_load(&img->generation);
}

/* ---- open and close ---- */

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
	ev_cond_init(&img->changed);
	TAILQ_INIT(&img->holders);
	TAILQ_INIT(&img->pulls);
	TAILQ_INIT(&img->conversions);
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	img->cores = cores > 0 ? (unsigned)cores : 1;
	TAILQ_INIT(&img->gone);
	int r = img->config.dir ? make_directories(img, err) : err_nomem(err);
	if (r == 0)
		r = img_load_pinned(img, err);
	if (r == 0)
		r = img_load(img, err);
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
	img_end_pulls(img);
	struct holder *holder;
	while ((holder = TAILQ_FIRST(&img->holders))) {
		TAILQ_REMOVE(&img->holders, holder, link);
		free_holder(holder);
	}
	img_list_free(img->images, img->n_images);
	img_files_done(img);
	pthread_cond_destroy(&img->changed);
	pthread_mutex_destroy(&img->lock);
	free((char *)img->config.dir);
	free((char *)img->config.registries_conf);
	free((char *)img->config.policy);
	free((char *)img->config.unpack_helper);
	for (size_t i = 0; i < img->n_pinned; i++)
		free(img->pinned[i]);
	free(img->pinned);
	free(img->blobs);
	free(img->layers);
	free(img->tmp);
	free(img);
	return NULL;
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

static struct holder *new_holder(const char *name, char *const *layers, size_t n)
{
	struct holder *holder = calloc(1, sizeof(*holder));
	if (!holder)
		return NULL;
	holder->name = strdup(name);
	holder->layers = calloc(n + 1, sizeof(char *));
	bool ok = holder->name && holder->layers;
	for (size_t i = 0; ok && i < n; i++) {
		ok = (holder->layers[i] = strdup(layers[i]));
		holder->n += ok;
	}
	if (ok)
		return holder;
	free_holder(holder);
	return NULL;
}

int img_hold(struct img *img, const char *name, char *const *layers, size_t n, struct err *err)
{
	struct holder *holder = new_holder(name, layers, n);
	if (!holder)
		return err_nomem(err);
	pthread_mutex_lock(&img->lock);
	bool known = find_holder(img, name);
	int r = known ? 0 : img_needs_add(img, IMG_LAYER, holder->layers, n, err);
	bool taken = !known && r == 0;
	if (taken)
		TAILQ_INSERT_TAIL(&img->holders, holder, link);
	img_unlock(img);
	if (!taken)
		free_holder(holder);
	return r;
}

void img_release(struct img *img, const char *name)
{
	pthread_mutex_lock(&img->lock);
	struct holder *holder = find_holder(img, name);
	if (holder) {
		TAILQ_REMOVE(&img->holders, holder, link);
		img_needs_release(img, IMG_LAYER, holder->layers, holder->n);
	}
	img_unlock(img);
	if (holder)
		free_holder(holder);
}
