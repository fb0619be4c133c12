/*
 * OCI and Docker schema 2 image documents: index, manifest, configuration. All come from a
 * registry: every type, size and count is checked. Sources: OCI image-spec v1.0, Docker image
 * manifest V2 schema 2. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/err.h"
#include "cri-server/store/records.pb-c.h"

#define MANIFEST_BYTES_MAX (4u << 20)
#define CONFIG_BYTES_MAX   (4u << 20)
/* A byte of JSON can become a hundred in memory: at most so many values. */
#define MANIFEST_VALUES_MAX (128u << 10)
/* overlayfs's limit, and Docker's. */
#define MANIFEST_LAYERS_MAX 127

struct manifest_layer {
	char digest[72]; /* of the blob */
	uint64_t size;   /* of the blob, as the manifest says */
};

struct manifest {
	char config_digest[72];
	uint64_t config_size;
	struct manifest_layer *layers; /* lowest first */
	size_t n_layers;
};

/* The digest of the only manifest that an OCI layout's index.json names. -EBADMSG says what is
 * wrong, as below. */
int manifest_of_layout(const char *json, size_t len, char ret_digest[72], struct err *err);

/*
 * What a raw manifest of a registry is. 0: one image; positive 1: an index, with the digest of the
 * manifest for this node's platform (linux, its architecture, the best variant that it runs) in
 * ret_digest; 2: it is not of the first variant, and skopeo may see another one as this node's.
 * -EBADMSG also for what is neither, and for an index without this platform.
 */
int manifest_choose(const char *json, size_t len, char ret_digest[72], struct err *err);
/* This node's architecture in the ecosystem's words: "amd64", "arm64", …; "unknown" for one that is
 * not known. */
const char *manifest_architecture(void);

int manifest_parse(const char *json, size_t len, struct manifest *ret, struct err *err);
void manifest_done(struct manifest *manifest);

/* An object of bounded size in memory, for platform.c; NULL with the error. */
json_t *manifest_load(const char *what, const char *text, size_t len, struct err *err);

/*
 * The image's configuration into the record's form, and the layers' diff ids (n_layers of them or
 * it is -EBADMSG) into ret_diff_ids, each from malloc.
 */
int manifest_parse_config(const char *json, size_t len, size_t n_layers,
	Bulkhead__Store__ImageConfig **ret, char **ret_diff_ids, struct err *err);
