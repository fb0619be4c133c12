/*
 * What is found at start-up: the records of images, and whether their files are there. A blob that
 * is not makes the record worthless; a layer can be made again: remake.c.
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

int img_look_at_files(struct img *img, const Bulkhead__Store__Image *record, struct err *err)
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

int img_give_up(struct img *img, size_t at, const struct err *why, struct err *err)
{
	const struct img_image *image = img->images[at];
	const Bulkhead__Store__Image *record = image->record;
	complain(img, image, why);
	if (!is_lost(why->code))
		return 1;
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
	for (size_t at = 0; at < img->n_images && r >= 0;) {
		struct err why = ERR_INIT;
		r = img_look_at_files(img, img->images[at]->record, &why);
		img->incomplete |= r > 0;
		r = r < 0 ? img_give_up(img, at, &why, err) : 1;
		at += r > 0;
	}
	img->loading = false;
	return r < 0 ? r : 0;
}

int img_load(struct img *img, struct err *err)
{
	int r = store_each(img->store, STORE_IMAGE, load_image, img, err);
	return r < 0 ? r : drop_lost(img, err);
}
