/*
 * Layers that a start does not find as they should be: a file is cut short or missing, or another
 * build of bulkhead has made it in a form that is no longer ours. They are made again from their
 * blobs, beside all else: of a node's images that takes as long as their pulls did.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/image/pull.h"

/* What the image's configuration says that each of its layers' blobs holds. */
static int read_diff_ids(
	const struct img *img, const Bulkhead__Store__Image *record, char **ret, struct err *err)
{
	_cleanup_free_ char *path = img_blob_path(img, record->blobs[1]);
	_cleanup_free_ char *text = NULL;
	Bulkhead__Store__ImageConfig *config = NULL;
	size_t len = 0;
	int r = path ? fd_read_file(path, CONFIG_BYTES_MAX, &text, &len, err) : err_nomem(err);
	if (r == 0)
		r = manifest_parse_config(text, len, record->n_blobs - 2, &config, ret, err);
	if (config)
		bulkhead__store__image_config__free_unpacked(config, NULL);
	return r;
}

static bool has_layer(const Bulkhead__Store__Image *record, const char *diff_id)
{
	for (size_t i = 0; i < record->n_layers; i++)
		if (strcmp(record->layers[i], diff_id) == 0)
			return true;
	return false;
}

static int wait_converted(struct img *img, struct conversion *c, struct err *err)
{
	uint64_t bytes;
	int r;
	pthread_mutex_lock(&img->lock);
	while ((r = conversion_result(c, &bytes, err)) > 0 && !img->closing)
		pthread_cond_wait(&img->changed, &img->lock);
	pthread_mutex_unlock(&img->lock);
	conversion_put(img, c);
	return r > 0 ? err_set(err, -ECANCELED, "the store is closed") : r;
}

/* Makes from their blobs the layers that are not there. */
static int convert_again(struct img *img, const Bulkhead__Store__Image *record, struct err *err)
{
	struct conversion *conversions[MANIFEST_LAYERS_MAX] = {0};
	char *diff_ids[MANIFEST_LAYERS_MAX] = {0};
	size_t n = record->n_blobs > 2 ? record->n_blobs - 2 : 0;
	if (n > MANIFEST_LAYERS_MAX)
		return err_set(err, -EBADMSG, "%zu layers", n);
	int r = n ? read_diff_ids(img, record, diff_ids, err) : 0;
	for (size_t i = 0; i < n && r == 0; i++)
		if (has_layer(record, diff_ids[i]))
			r = conversion_get(
				img, record->blobs[i + 2], diff_ids[i], &conversions[i], err);
	for (size_t i = 0; i < n; i++) {
		struct err why = ERR_INIT;
		int one = conversions[i] ? wait_converted(img, conversions[i], &why) : 0;
		if (one < 0 && r == 0) {
			r = one;
			*err = why;
		}
		free(diff_ids[i]);
	}
	return r;
}

static bool same_blobs(const Bulkhead__Store__Image *one, const Bulkhead__Store__Image *other)
{
	bool same = one->n_blobs == other->n_blobs;
	for (size_t i = 0; same && i < one->n_blobs; i++)
		same = strcmp(one->blobs[i], other->blobs[i]) == 0;
	return same;
}

/* What failed may be `why`; or the image was removed meanwhile, or pulled: one of other blobs has
 * its layers of these. */
static void settle(struct img *img, const struct img_image *image, const struct err *why)
{
	struct err now = ERR_INIT;
	size_t at = img_list_place(img, image->id);
	if (at == img->n_images || strcmp(img->images[at]->id, image->id) != 0)
		return;
	if (!same_blobs(img->images[at]->record, image->record))
		return;
	if (img_look_at_files(img, image->record, &now) != 0)
		(void)img_give_up(img, at, why->code ? why : &now, NULL);
	else if (img->config.log)
		log_event(img->config.log, LOG_LEVEL_INFO, "layers converted again", "image",
			image->id, NULL);
}

static void remake(struct img *img, const struct img_image *image)
{
	struct err why = ERR_INIT;
	pthread_mutex_lock(&img->lock);
	bool missing = !img->closing && img_look_at_files(img, image->record, NULL) > 0;
	pthread_mutex_unlock(&img->lock);
	if (!missing)
		return;
	(void)convert_again(img, image->record, &why);
	pthread_mutex_lock(&img->lock);
	if (!img->closing)
		settle(img, image, &why);
	img_unlock(img);
}

static void *remake_all(void *userdata)
{
	struct img *img = userdata;
	struct img_image **images;
	size_t n;
	pthread_setname_np(pthread_self(), "remake");
	if (img_list(img, &images, &n, NULL) == 0) {
		for (size_t i = 0; i < n; i++)
			remake(img, images[i]);
		img_list_free(images, n);
	}
	pthread_mutex_lock(&img->lock);
	img->remaking = false;
	pthread_cond_broadcast(&img->changed);
	pthread_mutex_unlock(&img->lock);
	return NULL;
}

int img_remake_layers(struct img *img, struct err *err)
{
	pthread_mutex_lock(&img->lock);
	int r = img->incomplete ? img_start_thread(remake_all, img, err) : 0;
	img->remaking = img->incomplete && r == 0;
	pthread_mutex_unlock(&img->lock);
	return r;
}
