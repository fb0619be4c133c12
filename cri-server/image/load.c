/*
 * What is found at start-up: the records of images, and whether their files are there. A blob that
 * is not makes the record worthless. A layer is made again from its blob: its file is cut short or
 * missing, or another build of bulkhead has made it in a form that is no longer ours.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/image/pull.h"
#include "cri-server/image/reference.h"
#include "cri-server/message.h"

static bool all_digests(char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!reference_is_digest(list[i]))
			return false;
	return true;
}

static int load_image(void *userdata, const char *id, const ProtobufCMessage *record)
{
	struct img *img = userdata;
	Bulkhead__Store__Image *copy = (Bulkhead__Store__Image *)message_copy(record);
	struct img_image *image = copy ? img_image_new(id, copy) : NULL;
	if (!image)
		return -ENOMEM;
	if (!reference_is_digest(id) || !copy->config || !all_digests(copy->blobs, copy->n_blobs) ||
		!all_digests(copy->layers, copy->n_layers)) {
		img_image_unref(image);
		return -EBADMSG;
	}
	int r = img_list_reserve(img, NULL);
	if (r < 0) {
		img_image_unref(image);
		return r;
	}
	img_list_put(img, image);
	r = img_needs_add(img, IMG_BLOB, copy->blobs, copy->n_blobs, NULL);
	return r < 0 ? r : img_needs_add(img, IMG_LAYER, copy->layers, copy->n_layers, NULL);
}

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
	while ((r = conversion_result(c, &bytes, err)) > 0)
		pthread_cond_wait(&img->changed, &img->lock);
	pthread_mutex_unlock(&img->lock);
	conversion_put(img, c);
	return r;
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

/* Positive 1: blobs are there and whole, layers not all. */
static int look_at_files(struct img *img, const Bulkhead__Store__Image *record, struct err *err)
{
	int r = 0;
	uint64_t bytes;
	bool opaque;
	for (size_t i = 0; i < record->n_blobs && r == 0; i++)
		r = img_file_measure(img, IMG_BLOB, record->blobs[i], &bytes, err);
	for (size_t i = 0; i < record->n_layers && r == 0; i++) {
		r = img_layer_is_opaque(img, record->layers[i], &opaque, err);
		if (r == -ENOENT)
			return 1;
		if (r == 0)
			r = img_file_measure(img, IMG_LAYER, record->layers[i], &bytes, err);
	}
	return r;
}

/* All its files are there and whole, or can be made so. */
static int check_image(struct img *img, const struct img_image *image, struct err *err)
{
	int r = look_at_files(img, image->record, err);
	if (r <= 0)
		return r;
	r = convert_again(img, image->record, err);
	if (r == 0 && img->config.log)
		log_event(img->config.log, LOG_LEVEL_INFO, "layers converted again", "image",
			image->id, NULL);
	if (r == 0)
		r = look_at_files(img, image->record, err);
	return r > 0 ? err->code : r;
}

/* Of blobs that are gone or no longer what they were; else the host lacks something. */
static bool is_lost(int code)
{
	return code == -ENOENT || code == -EBADMSG || code == -EFBIG;
}

static void complain(struct img *img, const struct img_image *image, const struct err *why)
{
	const Bulkhead__Store__Image *record = image->record;
	if (img->config.log)
		log_event(img->config.log, LOG_LEVEL_WARNING,
			is_lost(why->code)
				? "image dropped: a file of it is missing; pull it again"
				: "an image's layers could not be made; the next start tries "
				  "again, as does a pull",
			"image", image->id, "name", record->n_tags ? record->tags[0] : NULL, "err",
			why->msg, NULL);
}

static int drop(struct img *img, size_t at, struct err *err)
{
	const struct img_image *image = img->images[at];
	const Bulkhead__Store__Image *record = image->record;
	int r = store_delete(img->store, STORE_IMAGE, image->id, err);
	img_needs_release(img, IMG_BLOB, record->blobs, record->n_blobs);
	img_needs_release(img, IMG_LAYER, record->layers, record->n_layers);
	img_list_remove(img, at);
	return r;
}

/* A record whose files are gone would promise what no container can have; a pull brings all again.
 * The files that are left stay until img_collect(): containers may hold them. */
static int drop_lost(struct img *img, struct err *err)
{
	int r = 0;
	img->loading = true;
	for (size_t at = 0; at < img->n_images && r == 0;) {
		struct err why = ERR_INIT;
		int one = check_image(img, img->images[at], &why);
		if (one < 0)
			complain(img, img->images[at], &why);
		if (is_lost(one))
			r = drop(img, at, err);
		else
			at++;
	}
	img->loading = false;
	return r;
}

int img_load(struct img *img, struct err *err)
{
	int r = store_each(img->store, STORE_IMAGE, load_image, img, err);
	return r < 0 ? r : drop_lost(img, err);
}
