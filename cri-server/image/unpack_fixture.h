/*
 * For the tests of unpacking: a layer made with libarchive, and what the kernel sees in the image
 * that is made of it. Needs root, to mount images: begin() skips without.
 */
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/image/unpack.h"

struct layer {
	char dir[32];
	char blob[48], image[48], tree[48];
	bool mounted;
	struct archive *tar;
	struct unpack_limits limits;
	struct unpack_result result;
	struct err err;
};

int layer_setup(void **state);
int layer_teardown(void **state);
#define layer_test(f) cmocka_unit_test_setup_teardown(f, layer_setup, layer_teardown)

/* The test's layer with a new archive, to which filters may be added before open_blob(). */
struct layer *begin(void **state);
void open_blob(struct layer *l);
/* Both, without a filter. */
struct layer *plain(void **state);

/* Entries; put() frees its entry. All are of time 1000. */
struct archive_entry *entry(const char *path, mode_t mode);
void put(struct layer *l, struct archive_entry *e, const char *data);
void put_file(struct layer *l, const char *path, const char *data);
void put_dir(struct layer *l, const char *path);
void put_symlink(struct layer *l, const char *path, const char *target);
void put_hardlink(struct layer *l, const char *path, const char *target);

/* The archive's end; unpack() fills result and err. */
void finish(struct layer *l);
int unpack(struct layer *l);
/* Both, with what is expected. */
void unpacks(struct layer *l);
void is_refused(struct layer *l, int code, const char *words);

/* What was unpacked, and the image mounted at `tree`. */
const char *at(const struct layer *l, const char *path);
struct stat look(const struct layer *l, const char *path);
/* Of the disk. */
uint64_t image_bytes(const struct layer *l);
bool absent(const struct layer *l, const char *path);
void holds(const struct layer *l, const char *path, const char *text);
bool is_whiteout(const struct layer *l, const char *path);
bool is_opaque(const struct layer *l, const char *path);
