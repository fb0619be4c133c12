/*
 * What the files of image/ share.
 *
 * `lock` protects the images, the holders, the account of files and what pulls need; records are
 * written holding it, and img_unlock() gives it back. Work that takes long (a pull, a conversion)
 * runs without it, as an object that all who want the same share: pull.h.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "cri-server/image/image.h"
#include "cri-server/image/manifest.h"

/* The store's files: a blob by its digest, a layer's EROFS file by its diff id. */
enum img_kind {
	IMG_BLOB,
	IMG_LAYER,
	IMG_KINDS,
};

struct holder {
	TAILQ_ENTRY(holder) link;
	char *name;
	char **layers;
	size_t n;
};

struct img {
	struct img_config config; /* strings are ours */
	char *blobs, *layers, *tmp;
	char **pinned; /* whole names, or patterns */
	size_t n_pinned;
	struct store *store;
	pthread_mutex_t lock;
	struct img_image **images; /* ordered by id */
	size_t n_images;
	atomic_ullong generation; /* of the list; written with the lock held */
	TAILQ_HEAD(, holder) holders;
	TAILQ_HEAD(, pull) pulls;
	TAILQ_HEAD(, conversion) conversions;
	unsigned pull_threads; /* of pulls that are no longer in the list */
	unsigned converters, cores;
	pthread_cond_t changed;  /* a pull or a conversion came on; of CLOCK_MONOTONIC */
	void *files[IMG_KINDS];  /* files.c: a tree each */
	struct img_usage usage;  /* of the files that were measured */
	TAILQ_HEAD(, gone) gone; /* files.c */
	unsigned long long gone_number;
	bool loading;    /* who holds what is not known yet: nothing goes */
	bool incomplete; /* since the start; layers of images were not as they should be */
	bool remaking;   /* remake.c's thread is at it */
	bool closing;
};

/* pull.c */
/* Ends all pulls and waits for that. */
void img_end_pulls(struct img *img);
/* A thread that nobody waits for. */
int img_start_thread(void *(*fn)(void *), void *userdata, struct err *err);

/* files.c: all of it is called with the lock held. */
/* One more needs the file, be it there or still to come. */
int img_file_need(struct img *img, enum img_kind kind, const char *digest, struct err *err);
/* One less; without any the file goes, a layer's record with it. */
void img_file_release(struct img *img, enum img_kind kind, const char *digest);
bool img_file_is_needed(struct img *img, enum img_kind kind, const char *digest);
/* What the file takes, which from now on is in the sum. -ENOENT: it is not there. */
int img_file_measure(struct img *img, enum img_kind kind, const char *digest, uint64_t *ret_bytes,
	struct err *err);
void img_file_discard(struct img *img, enum img_kind kind, const char *digest);
struct img_usage img_files_usage(struct img *img);
/* Gives back the lock, then the space of files that went meanwhile. */
void img_unlock(struct img *img);
void img_files_done(struct img *img);

/* collect.c */
/* The same for lists, with the lock held; all or nothing. */
int img_needs_add(
	struct img *img, enum img_kind kind, char *const *digests, size_t n, struct err *err);
void img_needs_release(struct img *img, enum img_kind kind, char *const *digests, size_t n);

/*
 * What a pull in progress needs and no image names yet. Name a file before you look whether it is
 * there: from then on it stays. Freeing removes what nobody else needs.
 */
struct img_need;
struct img_need *img_need_new(struct img *img); /* NULL: no memory */
int img_need_file(struct img_need *need, enum img_kind kind, const char *digest, struct err *err);
struct img_need *img_need_free(struct img_need *need);

/* names.c */
/* Puts a pulled image, whose files are there, into records and list, with its size filled in: its
 * names move to it from others, all or nothing. Takes the record. */
int img_add(struct img *img, const char *id, Bulkhead__Store__Image *record, struct err *err);
/* The configuration's pinned images, completed. -EINVAL names the one that is no reference. */
int img_load_pinned(struct img *img, struct err *err);
/* With the lock held: 0 with the place of an image in the list, and the name by which it was found,
 * which the caller frees; NULL: by its id. Positive 1: none. */
int img_look_up(
	struct img *img, const char *text, size_t *ret_at, char **ret_name, struct err *err);

/* image.c */
/* Takes the record, on failure too; NULL: no memory. */
struct img_image *img_image_new(const char *id, Bulkhead__Store__Image *record);
/* With the lock held: in its place by id, instead of one with this id, or where img_list_reserve()
 * has made room. Takes the image. */
void img_list_put(struct img *img, struct img_image *image);
int img_list_reserve(struct img *img, struct err *err);
void img_list_remove(struct img *img, size_t at);
/* Where an image of this id is, or belongs. */
size_t img_list_place(const struct img *img, const char *id);

/* load.c */
/* The images of the records, before anything else runs; those of which a blob is gone are dropped.
 */
int img_load(struct img *img, struct err *err);
/* With the lock held: 0 when all are there and whole; positive 1: the blobs are, layers not all. */
int img_look_at_files(struct img *img, const Bulkhead__Store__Image *record, struct err *err);
/* The same: drops the image in this place if what failed tells that its blobs are worthless;
 * positive 1: it stays. */
int img_give_up(struct img *img, size_t at, const struct err *why, struct err *err);

/* layer.c */
/* Converts a blob to the layer's EROFS file, unless it is there; verifies the diff id. One at a
 * time for a layer: conversion_get(). */
int img_convert_layer(struct img *img, const char *blob_digest, const char *diff_id, int cancel_fd,
	struct err *err);
/* Whether the layer hides all below it. -ENOENT: there is none, whole and of this build's form. */
int img_layer_is_opaque(struct img *img, const char *diff_id, bool *ret, struct err *err);
char *img_blob_path(const struct img *img, const char *digest);
char *img_layer_file(const struct img *img, const char *diff_id);

/* skopeo.c */
/* "oci:/…" and the like: files of this host. Without the slash they are references: whoever may
 * name an image in a pod may not thereby read files. */
bool img_source_is_local(const char *source);
