/*
 * fill_images STATE_DIR COUNT: makes so many images in a state directory that no bulkheadd uses
 * yet, as that many pulls would leave them: a tag, a digest, a manifest, the specification that a
 * kubelet gave, a configuration of common size, and two layers that all share.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/store.h"

#define LAYERS 2
#define ENV    12
#define LABELS 10
#define DIGEST 72

static int write_file(const char *dir, const char *kind, const char *digest, const char *suffix,
	const char *text, struct err *err)
{
	_cleanup_free_ char *path =
		str_printf("%s/images/%s/%s%s", dir, kind, digest + strlen("sha256:"), suffix);
	if (!path)
		return err_nomem(err);
	FILE *file = fopen(path, "we"); /* two thousand need not reach the disk one by one */
	if (!file)
		return err_errno(err, "make %s", path);
	fputs(text, file);
	return fclose(file) == 0 ? 0 : err_errno(err, "write %s", path);
}

static void digest_of(char kind, unsigned number, char ret[DIGEST])
{
	snprintf(ret, DIGEST, "sha256:%063x%c", number, kind);
}

static int add_layers(struct store *store, const char *dir, struct err *err)
{
	int r = 0;
	for (unsigned i = 0; i < LAYERS && r == 0; i++) {
		char layer[DIGEST], blob[DIGEST];
		digest_of('a', i, layer);
		digest_of('b', i, blob);
		Bulkhead__Store__Layer record = BULKHEAD__STORE__LAYER__INIT;
		record.bytes = strlen("layer");
		r = write_file(dir, "layers", layer, ".erofs", "layer", err);
		if (r == 0)
			r = write_file(dir, "blobs/sha256", blob, "", "blob", err);
		if (r == 0)
			r = store_put(store, STORE_LAYER, layer, &record.base, err);
	}
	return r;
}

#define SPEC_MAX 1024

static size_t pack_spec(char *image, uint8_t ret[SPEC_MAX])
{
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	Runtime__V1__ImageSpec__AnnotationsEntry entry =
		RUNTIME__V1__IMAGE_SPEC__ANNOTATIONS_ENTRY__INIT;
	Runtime__V1__ImageSpec__AnnotationsEntry *entries[] = {&entry};
	entry.key = (char *)"kubernetes.io/config.seen";
	entry.value = (char *)"2024-01-01T00:00:00.000000000Z";
	spec.image = spec.user_specified_image = image;
	spec.annotations = entries;
	spec.n_annotations = ARRAY_SIZE(entries);
	return protobuf_c_message_pack(&spec.base, ret);
}

static int add_image(struct store *store, const char *dir, unsigned number, struct err *err)
{
	static char env_text[] = "SOME_VARIABLE_OF_THE_IMAGE=/usr/local/sbin:/usr/local/bin:/usr";
	static char *env[ENV];
	static Bulkhead__Store__Label label = BULKHEAD__STORE__LABEL__INIT;
	static Bulkhead__Store__Label *labels[LABELS];
	char files[2 + 2 * LAYERS][DIGEST], tag[96], name[160], *tags[] = {tag}, *names[] = {name};
	uint8_t spec[SPEC_MAX];
	char *blobs[2 + LAYERS], *layers[LAYERS], **id = &blobs[1];
	Bulkhead__Store__Image record = BULKHEAD__STORE__IMAGE__INIT;
	Bulkhead__Store__ImageConfig config = BULKHEAD__STORE__IMAGE_CONFIG__INIT;
	label.key = (char *)"org.opencontainers.image.source";
	label.value = (char *)"https://example.org/a/repository/of/sources";
	for (size_t i = 0; i < ENV; i++)
		env[i] = env_text;
	for (size_t i = 0; i < LABELS; i++)
		labels[i] = &label;
	digest_of('c', number, files[0]);
	digest_of('d', number, files[1]);
	for (unsigned i = 0; i < LAYERS; i++) {
		digest_of('b', i, files[2 + i]);
		digest_of('a', i, files[2 + LAYERS + i]);
		layers[i] = files[2 + LAYERS + i];
	}
	for (size_t i = 0; i < ARRAY_SIZE(blobs); i++)
		blobs[i] = files[i];
	snprintf(tag, sizeof(tag), "registry.example.org/team/service-%u:v1.2.3", number);
	snprintf(name, sizeof(name), "registry.example.org/team/service-%u@%s", number, files[0]);
	record.tags = tags;
	record.digests = names;
	record.n_tags = record.n_digests = 1;
	record.size = 100000000;
	record.blobs = blobs;
	record.n_blobs = ARRAY_SIZE(blobs);
	record.layers = layers;
	record.n_layers = LAYERS;
	record.config = &config;
	record.spec = (ProtobufCBinaryData){.len = pack_spec(tag, spec), .data = spec};
	config.env = env;
	config.n_env = ENV;
	config.labels = labels;
	config.n_labels = LABELS;
	int r = write_file(dir, "blobs/sha256", blobs[0], "", "manifest", err);
	if (r == 0)
		r = write_file(dir, "blobs/sha256", *id, "", "configuration", err);
	return r < 0 ? r : store_put(store, STORE_IMAGE, *id, &record.base, err);
}

static int fill(const char *dir, unsigned count, struct err *err)
{
	_cleanup_free_ char *database = str_printf("%s/state.db", dir);
	_cleanup_free_ char *blobs = str_printf("%s/images/blobs/sha256", dir);
	_cleanup_free_ char *layers = str_printf("%s/images/layers", dir);
	struct store *store = NULL;
	if (!database || !blobs || !layers)
		return err_nomem(err);
	int r = fd_mkdir_all(blobs, 0711, err);
	if (r == 0)
		r = fd_mkdir_all(layers, 0711, err);
	if (r == 0)
		r = store_open(database, &store, err);
	if (r < 0)
		return r;
	r = store_begin(store, err);
	if (r == 0)
		r = add_layers(store, dir, err);
	for (unsigned i = 0; i < count && r == 0; i++)
		r = add_image(store, dir, i, err);
	if (r == 0)
		r = store_commit(store, err);
	store_rollback(store);
	store_close(store);
	return r;
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	if (argc != 3) {
		fprintf(stderr, "usage: fill_images STATE_DIR COUNT\n");
		return 2;
	}
	if (fill(argv[1], (unsigned)strtoul(argv[2], NULL, 10), &err) < 0) {
		fprintf(stderr, "fill_images: %s\n", err.msg);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
