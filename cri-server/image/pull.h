/*
 * A pull as an object, shared by the files that do its work: pull.c (callers, order of work),
 * skopeo.c (transport), resolve.c (documents), download.c (blobs and conversions), entry.c
 *(record).
 *
 *	pull.c makes it for the first caller → its thread runs → done, with a result → freed by the
 *	last of callers and thread
 *
 * A pull belongs to its callers: each joins a running one of the same reference with the same
 * credentials; one that goes away leaves it to the others; the last one cancels it. What stands
 * under "lock" is protected by img->lock, whose condition `changed` tells of each change that
 * somebody may wait for. All else is the pull's thread's.
 */
#pragma once

#include "common/buf.h"
#include "cri-server/image/internal.h"

struct conversion;

/* One use of skopeo's: the private directory, with the credentials' file in it, of one pull. */
struct transport {
	struct img *img;
	char *dir;       /* removed at the end */
	char *layout;    /* skopeo's destination, in dir */
	char *auth_file; /* NULL: none */
	int cancel_fd;
	bool tls_optional; /* a registry on this host, which containerd too asks without TLS */
};

struct pull_layer {
	bool present;                  /* its blob is whole */
	bool lent;                     /* to the copy, which need not bring it */
	struct conversion *conversion; /* NULL: not begun */
};

enum copy_state {
	COPY_NONE,
	COPY_RUNS,
	COPY_DONE,
};

struct pull {
	TAILQ_ENTRY(pull) link;
	struct img *img;
	char *source;
	struct img_auth auth; /* our copies; "" for NULL */
	char manifest_digest[72];
	char repo_digest[72]; /* "" for a local source */
	char *pinned;         /* the manifest by its digest, or the local source */
	char *copied;         /* what skopeo copies, and asks the policy about: the reference */
	bool chosen_here;     /* of an index, of which skopeo may choose another, or nothing */
	struct transport transport;
	struct manifest manifest;
	char *diff_ids[MANIFEST_LAYERS_MAX];
	struct pull_layer layers[MANIFEST_LAYERS_MAX];
	struct img_need *need;
	Bulkhead__Store__Image *record;
	int cancel_fd; /* eventfd: readable when cancelled */
	int done_fd;   /* eventfd: readable when done */

	/* lock */
	unsigned callers, refs;
	bool cancelled, done;
	int result;
	struct err err;
	char *id;
	enum copy_state copy;
	int copy_result;
	struct err copy_err;
	uint64_t moved_ms; /* when bytes last came */
	uint64_t copy_began_ms;
	struct img_pull_progress progress;
};

/* ---- skopeo.c ---- */
/* `name` is the reference's ("registry/path"), NULL for a local source. */
int transport_open(struct transport *t, struct img *img, const char *name,
	const struct img_auth *auth, int cancel_fd, struct err *err);
void transport_close(struct transport *t);
/* Whether the reference names a registry on this host, by its name or a loopback address. */
bool transport_is_local(const char *name);
/* The raw manifest, or with `config` the raw configuration, that a source ("docker://…") has; into
 * out, which has its bound. */
int transport_inspect(
	struct transport *t, const char *source, bool config, struct buf *out, struct err *err);
/* Blobs and index.json into the layout; blobs that are there are not asked for. Blocks for as long
 * as it takes. */
int transport_copy(struct transport *t, const char *source, struct err *err);
/* Whether the host's signature policy says more than that anything is accepted. */
bool transport_has_policy(const struct transport *t);
/* Where a blob is in the layout, or will be. The caller frees. */
char *transport_blob_path(const struct transport *t, const char *digest);
/* skopeo's authentication file, NULL where nothing is to be said; as containerd understands
 * AuthConfig. The caller frees. */
int transport_auth_json(const char *name, const struct img_auth *auth, char **ret, struct err *err);

/* ---- resolve.c ---- */
/* What the reference stands for: manifest and configuration of this node's platform, verified by
 * their digests, stored as blobs and parsed. */
int pull_resolve(struct pull *p, struct err *err);
/* The same for a local source, which has been copied, from the layout. */
int pull_read_layout(struct pull *p, struct err *err);
/* The manifest that skopeo wrote, which names layers that it compressed by new digests. */
int pull_read_copied(struct pull *p, struct manifest *ret, struct err *err);
/* What the host's policy has accepted, which is what skopeo copied, must be what was resolved: a
 * registry may say one thing first and another then. -EAGAIN: it is not. */
int pull_check_copied(struct pull *p, struct err *err);

/* ---- download.c ---- */
/* Copies, unless that is done, and converts each layer as soon as its blob is whole. */
int pull_download(struct pull *p, struct err *err);

/* ---- entry.c ---- */
int pull_fill_record(struct pull *p, struct err *err);

/* ---- convert.c ---- */
/*
 * Conversions of all pulls: at most as many at a time as there are cores, one per layer however
 * many want it, in the order in which they were asked for. Whoever has one gives it back; the last
 * one cancels what is not done.
 */
int conversion_get(struct img *img, const char *blob_digest, const char *diff_id,
	struct conversion **ret, struct err *err);
/* With the lock held: positive 1 while it is not done, else its result, and what the layer takes of
 * the disk. */
int conversion_result(const struct conversion *conversion, uint64_t *ret_bytes, struct err *err);
void conversion_put(struct img *img, struct conversion *conversion);
