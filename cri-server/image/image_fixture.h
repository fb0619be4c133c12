/*
 * For the tests of the image store: a store in a directory of its own, and an OCI layout beside it
 * that real pulls (skopeo, bulkhead-unpack) take images from. Needs root and these
 * programs: begin() skips without.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/image/internal.h"

#define LAYERS_MAX 4
/* Of an image in the store: manifest, configuration and layers. */
#define BLOBS(layers) ((layers) + 2)

struct place {
	char dir[32];
	char helper[PATH_MAX];
	char script[64]; /* "" or what stands before the helper */
	char source[64]; /* oci:… of the layout */
	struct img_config config;
	struct store *store;
	struct img *img;
	struct err err;
};

int place_setup(void **state);
int place_teardown(void **state);
#define image_test(f) cmocka_unit_test_setup_teardown(f, place_setup, place_teardown)

/* The test's store, opened. */
struct place *begin(void **state);
void open_images(struct place *p);
void close_images(struct place *p);
/* From the next open_images() on layers are converted by a script, whose "$0.real" does it. */
void use_script(struct place *p, const char *text);

/* Layers of one small file each; the last hides all below it. */
extern const char *const one[], *const two[], *const hiding[];

struct layout_options {
	const char *const *layers[LAYERS_MAX]; /* paths of each; ended by NULL */
	const char *architecture;              /* NULL: amd64 */
	const char *diff_id;                   /* NULL: the right one */
	const char *raw_layer;                 /* instead of a tar */
	const char *raw_config;                /* instead of a configuration */
	const char *env;
	bool gzip; /* the layers are */
};

/* The layout then leads to this image; blobs of earlier ones stay in it. */
void make_layout(const struct place *p, const struct layout_options *o);

/* So many files are in the store, and nothing is in tmp. */
void holds(const struct place *p, size_t blobs, size_t layers);
/* Bytes of all of them. */
uint64_t file_bytes(const struct place *p);

void pull(struct place *p, char ret_id[72]);
struct img_image *find(struct place *p, const char *name);
bool leads_to(struct place *p, const char *name, const char *id);

/* A record without files, as a pull would leave it: for what is about names only. NULL ends names.
 */
void add_named(struct place *p, unsigned number, const char *const *tags,
	const char *const *digests, char ret_id[72]);
