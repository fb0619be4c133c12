/*
 * What the files of image/ share.
 *
 * `lock` protects the list of images, the holders and `pulls`; records are written holding it. Work
 * that takes long (a pull, a conversion) runs without it, under a key in `busy`: whoever wants the
 * same key waits for its end and then finds the work done. Keys: "pull:<reference>", "layer:<diff
 * id>".
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "cri-server/image/image.h"
#include "cri-server/image/manifest.h"

struct image_entry {
	TAILQ_ENTRY(image_entry) link;
	char *id;
	Bulkhead__Store__Image *record;
};

struct holder {
	TAILQ_ENTRY(holder) link;
	char *name;
	char **layers;
	size_t n;
};

struct busy {
	TAILQ_ENTRY(busy) link;
	char *key;
};

struct img {
	struct img_config config; /* strings are ours */
	char *blobs, *layers, *tmp;
	struct store *store;
	pthread_mutex_t lock;
	TAILQ_HEAD(, image_entry) images;
	TAILQ_HEAD(, holder) holders;
	TAILQ_HEAD(, busy) busy;
	pthread_cond_t busy_changed;
	unsigned pulls; /* in progress: their blobs have no record yet, so nothing is collected */
};

/* busy.c */
/* Waits for whoever does the same; -ECANCELED. */
int img_busy_enter(
	struct img *img, const char *kind, const char *key, int cancel_fd, struct err *err);
void img_busy_leave(struct img *img, const char *kind, const char *key);

/* image.c */
/* Puts a pulled image into records and list: its names move to it from others, all or nothing.
 * Takes the record. */
int img_add(struct img *img, const char *id, Bulkhead__Store__Image *record, struct err *err);

/* layer.c */
/* Converts a blob to the layer's EROFS file, unless it is there; verifies the diff id. */
int img_convert_layer(struct img *img, const char *blob_digest, const char *diff_id, int cancel_fd,
	struct err *err);
/* Whether the layer, which must be there, hides all below it. */
int img_layer_is_opaque(struct img *img, const char *diff_id, bool *ret, struct err *err);
char *img_blob_path(const struct img *img, const char *digest);
char *img_layer_file(const struct img *img, const char *diff_id);

/* fetch.c */
/* "oci:/…" and the like: files of this host. Without the slash they are references: whoever may
 * name an image in a pod may not thereby read files. */
bool img_source_is_local(const char *source);
/* Brings manifest, configuration and layers into the blobs; ret_digest: the manifest's,
 * ret_repo_digest: what the reference stands for in the registry (an index's digest where it is
 * one), "" for a local source. */
int img_fetch(struct img *img, const char *source, const struct img_auth *auth, int cancel_fd,
	char ret_digest[72], char ret_repo_digest[72], struct err *err);
