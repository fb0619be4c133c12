/*
 * The node's images: references, pulls, layers as EROFS files, garbage, usage.
 *
 * An image is known by its id, "sha256:" and the digest of its config. It has tags and digests
 * (names that lead to it) and layers, by diff id, each one read-only EROFS file in <dir>/layers
 * that any number of images share. Blobs lie in <dir>/blobs (one OCI layout's shared blob
 * directory). Records are in the store. A file lives as long as an image, a holder or a pull in
 * progress needs it, and goes at once when none does; what a crash left, img_collect() removes.
 *
 * Threads: any. Callers that want one reference with the same credentials share one pull; pulls
 * share blobs that are on their way, and conversions, of which as many run as there are cores. A
 * struct img_image that was returned never changes; a change makes another.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/log.h"
#include "cri-server/store/records.pb-c.h"
#include "cri-server/store/store.h"

struct img;

struct img_config {
	const char *dir; /* /var/lib/bulkhead/images; made when missing */
	const char
		*registries_conf; /* containers-registries.conf(5) for skopeo; NULL: the system's */
	const char *policy; /* containers-policy.json(5); NULL: the system's, or accept-anything
			       when there is none */
	const char *unpack_helper; /* path of bulkhead-unpack */
	uint64_t image_bytes_max; /* of one image, compressed and unpacked, 0: no limit; error names
				     it */
	uint64_t layer_bytes_max; /* unpacked size of one layer; error names the limit */
	uint64_t layer_files_max;
	uint64_t pull_timeout_ms; /* for which a registry may be silent; 0: for ever */
	char *const *pinned; /* references, or patterns with '*' for whole names; may be NULL */
	size_t n_pinned;
	const struct log *log; /* NULL: none */
};

/* Credentials of one pull; never on a command line, in a log or in a record. All may be NULL. */
struct img_auth {
	const char *username;
	const char *password;
	const char *auth;           /* base64 of user:password */
	const char *server_address; /* the registry they are for; another one does not get them */
	const char *identity_token;
	const char *registry_token; /* not used, as in containerd */
};

struct img_image {
	char *id; /* "sha256:…" */
	Bulkhead__Store__Image *record;
	atomic_uint users; /* image/ only */
};
/* Gives it back; NULL is allowed. Returns NULL. */
struct img_image *img_image_unref(struct img_image *image);

/* The name of the image's, completed, that the text stands for; NULL: none. Valid as long as the
 * image. */
const char *img_image_name(const struct img_image *image, const char *text);

int img_open(
	const struct img_config *config, struct store *store, struct img **ret, struct err *err);
struct img *img_close(struct img *img);

/*
 * Pulls what reference names: a registry reference as everywhere in the ecosystem, or
 * `oci:DIR[:tag]`, `oci-archive:FILE[:tag]`, `docker-archive:FILE[:ref]` with an absolute path.
 * cancel_fd becomes readable when the caller goes away (negative: none), which cancels the pull
 * when nobody else waits for it. Returns the image's id. Errors: -EINVAL reference; -ENOENT no such
 * image in the registry; -EACCES credentials; -EHOSTUNREACH … registry down; -EBADMSG malformed
 * image; -ENOSPC; -ECANCELED; -EFBIG a limit, named.
 */
int img_pull(struct img *img, const char *reference, const struct img_auth *auth, int cancel_fd,
	char **ret_id, struct err *err);

/* Of a pull that runs. */
struct img_pull_progress {
	char *reference;
	unsigned callers;
	int64_t started_ns;
	uint64_t bytes_total;  /* of all layers' blobs; 0 while not known */
	uint64_t bytes_done;   /* of them on this node */
	uint64_t bytes_reused; /* of them there before */
	uint64_t elapsed_ms;   /* since the download began */
	unsigned layers, layers_done, layers_converted;
};
/* All that run, a new array; free with img_pulls_free(). */
int img_pulls(struct img *img, struct img_pull_progress **ret, size_t *ret_n, struct err *err);
void img_pulls_free(struct img_pull_progress *list, size_t n);

/*
 * By tag, digest (a tag beside it does not matter), id ("sha256:…" or hex) or, where no name fits,
 * the unique beginning of an id. 0; positive 1: none. -EINVAL: it is no name. Give it back.
 */
int img_find(struct img *img, const char *reference, struct img_image **ret, struct err *err);

/* All images, by id, a new array; free with img_list_free(). */
int img_list(struct img *img, struct img_image ***ret, size_t *ret_n, struct err *err);
void img_list_free(struct img_image **images, size_t n);
/* Another number after each change of the list: a list asked for later than this is as new. */
uint64_t img_generation(const struct img *img);

/* Whether one of its names is pinned by the configuration. */
bool img_is_pinned(const struct img *img, const struct img_image *image);

/*
 * Keeps, as opaque bytes, how the image was last asked for: record->spec from then on. An image
 * that has gone meanwhile is success.
 */
int img_note_spec(struct img *img, const char *id, const void *spec, size_t len, struct err *err);

/*
 * By id: removes the image with all its names. By name: removes the name, and the image when it was
 * the last. The last tag in a repository takes the digests in it along, a digest the tags. Layers
 * and blobs that nothing else needs are freed at once, those in use by a container when it is
 * removed (img_release()). None: success.
 */
int img_remove(struct img *img, const char *reference, struct err *err);

/*
 * Protects the layers from removal on behalf of a container; again for the same holder changes
 * nothing. In memory only: at start-up the runtime holds again for the containers it finds, then
 * calls img_collect().
 */
int img_hold(struct img *img, const char *holder, char *const *layers, size_t n, struct err *err);
void img_release(struct img *img, const char *holder);
/* Removes every layer and blob that nothing needs. */
int img_collect(struct img *img, struct err *err);

/*
 * Begins to make again, beside all else, layers that the start did not find as they should be.
 * After img_collect(): an image whose blobs turn out to be damaged goes.
 */
int img_remake_layers(struct img *img, struct err *err);

/* The path of a layer's EROFS file; the caller frees. -ENOENT when the store has no such layer,
 * -EAGAIN while such are being made again. */
int img_layer_path(struct img *img, const char *diff_id, char **ret_path, struct err *err);

struct img_usage {
	uint64_t bytes; /* allocated on the disk */
	uint64_t inodes;
	char *mountpoint; /* the caller frees */
};
/* What the store takes, files of pulls in progress included. Looks only at these. */
int img_usage(struct img *img, struct img_usage *ret, struct err *err);
/* What lies below a directory; walks it. */
int img_directory_usage(const char *path, struct img_usage *ret, struct err *err);
