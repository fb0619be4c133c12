/*
 * image_check DATABASE IMAGES: whether records and files of an image store in which nothing is in
 * motion are each other's: every record's files are there and whole, every file is of a record.
 * DATABASE is a copy; IMAGES the directory. Each fault is a line; the exit code is then 1.
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/evp.h>

#include "common/fd.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/store.h"

#define NAMES_MAX      4096
#define BLOB_BYTES_MAX (64u << 20)

struct check {
	const char *dir;
	struct {
		char name[96];
		uint64_t bytes;
		bool layer, needed;
	} files[NAMES_MAX]; /* all that the directories hold, relative to dir */
	size_t n;
	size_t images;
	int faults;
};

static void fault(struct check *c, const char *what, const char *name)
{
	printf("%s: %s\n", what, name);
	c->faults++;
}

static void read_names(struct check *c, const char *sub, bool layer)
{
	_cleanup_free_ char *path = str_printf("%s/%s", c->dir, sub);
	DIR *dir = opendir(path);
	struct stat st;
	if (!dir)
		return;
	for (struct dirent *e; (e = readdir(dir)) && c->n < NAMES_MAX;) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		snprintf(c->files[c->n].name, sizeof(c->files[0].name), "%s/%.80s", sub, e->d_name);
		c->files[c->n].bytes =
			fstatat(dirfd(dir), e->d_name, &st, 0) < 0 ? 0 : (uint64_t)st.st_size;
		c->files[c->n++].layer = layer;
	}
	closedir(dir);
}

static bool digest_holds(const char *path, const char *digest)
{
	_cleanup_free_ char *data = NULL;
	size_t len;
	unsigned char sum[32];
	char text[72] = "sha256:";
	if (fd_read_file(path, BLOB_BYTES_MAX, &data, &len, NULL) < 0)
		return false;
	EVP_Digest(data, len, sum, NULL, EVP_sha256(), NULL);
	str_hex(text + 7, sum, sizeof(sum));
	return strcmp(text, digest) == 0;
}

static void need(struct check *c, const char *name)
{
	for (size_t i = 0; i < c->n; i++)
		if (strcmp(c->files[i].name, name) == 0) {
			c->files[i].needed = true;
			return;
		}
	fault(c, "missing", name);
}

static int check_image(void *userdata, const char *id, const ProtobufCMessage *message)
{
	const Bulkhead__Store__Image *record = (const Bulkhead__Store__Image *)message;
	struct check *c = userdata;
	c->images++;
	if (!record->n_blobs || !record->n_layers)
		fault(c, "an image of nothing", id);
	for (size_t i = 0; i < record->n_blobs; i++) {
		char name[96];
		snprintf(name, sizeof(name), "blobs/sha256/%.64s", record->blobs[i] + 7);
		_cleanup_free_ char *path = str_printf("%s/%s", c->dir, name);
		need(c, name);
		if (!digest_holds(path, record->blobs[i]))
			fault(c, "damaged", name);
	}
	for (size_t i = 0; i < record->n_layers; i++) {
		char name[96];
		snprintf(name, sizeof(name), "layers/%.64s.erofs", record->layers[i] + 7);
		need(c, name);
	}
	return 0;
}

static int check_layer(void *userdata, const char *id, const ProtobufCMessage *message)
{
	const Bulkhead__Store__Layer *record = (const Bulkhead__Store__Layer *)message;
	struct check *c = userdata;
	for (size_t i = 0; i < c->n; i++)
		if (c->files[i].layer && c->files[i].needed &&
			strncmp(c->files[i].name + strlen("layers/"), id + 7, 64) == 0) {
			c->files[i].layer = false; /* seen */
			if (c->files[i].bytes != record->bytes)
				fault(c, "not as long as recorded", c->files[i].name);
			return 0;
		}
	fault(c, "a layer's record without need", id);
	return 0;
}

int main(int argc, char **argv)
{
	static struct check c;
	struct err err = ERR_INIT;
	struct store *store;
	if (argc != 3) {
		fprintf(stderr, "usage: image_check DATABASE IMAGES\n");
		return 2;
	}
	c.dir = argv[2];
	read_names(&c, "blobs/sha256", false);
	read_names(&c, "layers", true);
	read_names(&c, "tmp", false);
	int r = store_open(argv[1], &store, &err);
	if (r == 0)
		r = store_each(store, STORE_IMAGE, check_image, &c, &err);
	if (r == 0)
		r = store_each(store, STORE_LAYER, check_layer, &c, &err);
	if (r < 0) {
		printf("%s\n", err.msg);
		return 2;
	}
	store_close(store);
	for (size_t i = 0; i < c.n; i++) {
		if (!c.files[i].needed)
			fault(&c, "an orphan", c.files[i].name);
		else if (c.files[i].layer)
			fault(&c, "without a record", c.files[i].name);
	}
	printf("images: %zu\n", c.images);
	return c.faults ? 1 : 0;
}
