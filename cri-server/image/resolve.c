/*
 * A pull's documents. What a reference stands for in its registry is asked first: that digest is
 * the image's repo digest; of an index, this node's platform is chosen. Manifest and configuration
 * are kept as the registry has them, not as skopeo rewrites them, so that the image's id, the
 * configuration's digest, is the one that everybody else knows.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "common/fd.h"
#include "cri-server/image/pull.h"
#include "cri-server/image/reference.h"

/* An index in an index is allowed, and seen; deeper is a mistake or malice. */
#define INDEX_DEPTH_MAX 4

static void digest_of(const struct buf *data, char ret[72])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned n;
	EVP_Digest(data->data, data->len, digest, &n, EVP_sha256(), NULL);
	memcpy(ret, "sha256:", sizeof("sha256:"));
	str_hex(ret + 7, digest, n);
}

static int check_digest(
	const struct buf *data, const char *wanted, const char *what, struct err *err)
{
	char digest[72];
	digest_of(data, digest);
	if (strcmp(digest, wanted) == 0)
		return 0;
	return err_set(
		err, -EBADMSG, "image %s: the registry sent %s for %s", what, digest, wanted);
}

/* Named before, so that it stays. */
static int store_blob(struct pull *p, const char *digest, const struct buf *data, struct err *err)
{
	_cleanup_free_ char *path = img_blob_path(p->img, digest);
	_cleanup_free_ char *tmp = str_printf("%s/document", p->transport.dir);
	_cleanup_free_ char *dir = str_printf("%s/sha256", p->img->blobs);
	struct stat st;
	if (!path || !tmp || !dir)
		return err_nomem(err);
	int r = img_need_file(p->need, IMG_BLOB, digest, err);
	if (r < 0 || (stat(path, &st) == 0 && (uint64_t)st.st_size == data->len))
		return r;
	r = fd_mkdir_all(dir, 0700, err);
	if (r == 0)
		r = fd_write_file(tmp, data->data, data->len, 0600, err);
	if (r == 0 && rename(tmp, path) < 0)
		r = err_errno(err, "rename %s to %s", tmp, path);
	return r;
}

static int check_platform(const struct pull *p, struct err *err)
{
	const Bulkhead__Store__ImageConfig *c = p->record->config;
	const char *machine = manifest_architecture();
	bool same = !c->architecture[0] || strcmp(c->architecture, machine) == 0;
	if ((!c->os[0] || strcmp(c->os, "linux") == 0) && same)
		return 0;
	return err_set(err, -EBADMSG, "the image is for %.32s/%.32s; this node runs linux/%s",
		c->os, c->architecture, machine);
}

static int check_sizes(const struct pull *p, struct err *err)
{
	const struct manifest *m = &p->manifest;
	uint64_t sum = m->config_size, limit = p->img->config.image_bytes_max;
	for (size_t i = 0; i < m->n_layers; i++)
		sum += m->layers[i].size;
	if (!limit || sum <= limit)
		return 0;
	return err_set(err, -EFBIG,
		"the image has %llu bytes to download, more than images.image_bytes_max, %llu",
		(unsigned long long)sum, (unsigned long long)limit);
}

static int parse(
	struct pull *p, const struct buf *manifest, const struct buf *config, struct err *err)
{
	int r = config ? 0 : manifest_parse(manifest->data, manifest->len, &p->manifest, err);
	if (!config)
		return r;
	r = manifest_parse_config(config->data, config->len, p->manifest.n_layers,
		&p->record->config, p->diff_ids, err);
	if (r == 0)
		r = check_platform(p, err);
	return r;
}

static int name_layers(struct pull *p, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < p->manifest.n_layers && r == 0; i++) {
		r = img_need_file(p->need, IMG_BLOB, p->manifest.layers[i].digest, err);
		if (r == 0)
			r = img_need_file(p->need, IMG_LAYER, p->diff_ids[i], err);
	}
	return r;
}

/* ---- the configuration, asked for beside the manifest ---- */

/*
 * Most tags stand for one manifest, whose configuration can be asked for by the tag as well: at the
 * same time, for each question costs the start of a skopeo. What comes counts only when it is the
 * one that the manifest names.
 */
struct early_config {
	struct transport transport; /* with a cancel_fd of its own */
	const char *source;
	struct buf config;
	pthread_t thread;
	bool runs;
	int done_fd; /* eventfd */
};

static void *ask_early(void *userdata)
{
	struct early_config *early = userdata;
	pthread_setname_np(pthread_self(), "pull-config");
	transport_inspect(&early->transport, early->source, true, &early->config, NULL);
	eventfd_write(early->done_fd, 1);
	return NULL;
}

/* Where it cannot be done, the configuration is asked for later. */
static void early_begin(struct early_config *early, const struct pull *p, const char *source)
{
	*early = (struct early_config){.transport = p->transport,
		.source = source,
		.config = buf_init(CONFIG_BYTES_MAX),
		.done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	early->transport.cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (early->done_fd >= 0 && early->transport.cancel_fd >= 0)
		early->runs = pthread_create(&early->thread, NULL, ask_early, early) == 0;
}

/* Until it is there, or nobody waits for the pull any more. */
static void early_wait(const struct early_config *early, const struct pull *p)
{
	struct pollfd fds[] = {
		{.fd = early->done_fd, .events = POLLIN},
		{.fd = p->cancel_fd, .events = POLLIN},
	};
	while (early->runs && poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno == EINTR)
		;
}

static void early_end(struct early_config *early)
{
	if (early->runs) {
		eventfd_write(early->transport.cancel_fd, 1);
		pthread_join(early->thread, NULL);
	}
	early->runs = false;
	early->transport.cancel_fd = fd_close(early->transport.cancel_fd);
	early->done_fd = fd_close(early->done_fd);
}

static int get_config(struct pull *p, struct early_config *early, struct err *err)
{
	early_wait(early, p);
	early_end(early);
	struct buf *config = &early->config;
	int r = 0;
	if (check_digest(config, p->manifest.config_digest, "config", NULL) < 0)
		r = transport_inspect(&p->transport, p->pinned, true, config, err);
	if (r == 0)
		r = check_digest(config, p->manifest.config_digest, "config", err);
	if (r == 0)
		r = parse(p, NULL, config, err);
	return r < 0 ? r : store_blob(p, p->manifest.config_digest, config, err);
}

/* p->manifest_digest, of the name. */
static int pin(struct pull *p, const char *name, struct err *err)
{
	free(p->pinned);
	p->pinned = str_printf("docker://%s@%s", name, p->manifest_digest);
	return p->pinned ? 0 : err_nomem(err);
}

/* From an index, or an index in one, to the manifest of this platform; skopeo knows none in one. */
static int descend(struct pull *p, const char *name, struct buf *manifest, struct err *err)
{
	int r;
	for (int depth = 0;
		(r = manifest_choose(manifest->data, manifest->len, p->manifest_digest, err)) > 0;
		depth++) {
		if (depth == INDEX_DEPTH_MAX)
			return err_set(err, -EBADMSG, "image index: more than %d in one another",
				INDEX_DEPTH_MAX);
		p->chosen_here = depth > 0 || r > 1;
		r = pin(p, name, err);
		if (r == 0)
			r = transport_inspect(&p->transport, p->pinned, false, manifest, err);
		if (r == 0)
			r = check_digest(manifest, p->manifest_digest, "manifest", err);
		if (r < 0)
			return r;
	}
	return r;
}

static int get_manifest(struct pull *p, const struct reference *ref, const char *source,
	struct buf *manifest, struct err *err)
{
	int r = transport_inspect(&p->transport, source, false, manifest, err);
	if (r == 0 && ref->digest)
		r = check_digest(manifest, ref->digest, "manifest", err);
	if (r < 0)
		return r;
	digest_of(manifest, p->repo_digest);
	memcpy(p->manifest_digest, p->repo_digest, sizeof(p->manifest_digest));
	r = pin(p, ref->name, err);
	return r < 0 ? r : descend(p, ref->name, manifest, err);
}

static int get_documents(
	struct pull *p, const struct reference *ref, const char *source, struct err *err)
{
	struct buf manifest = buf_init(MANIFEST_BYTES_MAX);
	struct early_config early;
	early_begin(&early, p, source);
	int r = get_manifest(p, ref, source, &manifest, err);
	if (r == 0)
		r = parse(p, &manifest, NULL, err);
	if (r == 0)
		r = check_sizes(p, err);
	if (r == 0)
		r = store_blob(p, p->manifest_digest, &manifest, err);
	if (r == 0)
		r = get_config(p, &early, err);
	early_end(&early);
	buf_done(&early.config);
	buf_done(&manifest);
	return r;
}

/*
 * skopeo is given the reference, for what it asks the policy about is that, with the tag in it.
 * Where it would choose another of an index, it is given the manifest's digest: a policy would not
 * hear of the tag then.
 */
static int choose_copied(struct pull *p, const struct reference *ref, struct err *err)
{
	if (!p->chosen_here)
		return 0;
	if (!ref->digest && transport_has_policy(&p->transport))
		return err_set(err, -EACCES,
			"skopeo cannot ask the signature policy about the tag, as it knows no "
			"index in an index and no platform but the node's first; name the image "
			"by its digest");
	free(p->copied);
	p->copied = strdup(p->pinned);
	return p->copied ? 0 : err_nomem(err);
}

int pull_resolve(struct pull *p, struct err *err)
{
	struct reference ref;
	int r = reference_parse(p->source, &ref, err);
	if (r < 0)
		return r;
	p->copied = ref.digest ? str_printf("docker://%s@%s", ref.name, ref.digest)
			       : str_printf("docker://%s:%s", ref.name, ref.tag);
	r = p->copied ? transport_open(&p->transport, p->img, ref.name, &p->auth, p->cancel_fd, err)
		      : err_nomem(err);
	if (r == 0)
		r = get_documents(p, &ref, p->copied, err);
	if (r == 0)
		r = choose_copied(p, &ref, err);
	if (r == 0)
		r = name_layers(p, err);
	reference_done(&ref);
	return r;
}

/* ---- what skopeo wrote ---- */

static int read_blob(
	struct pull *p, const char *digest, size_t max, struct buf *ret, struct err *err)
{
	_cleanup_free_ char *path = transport_blob_path(&p->transport, digest);
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = path ? fd_read_file(path, max, &text, &len, err) : err_nomem(err);
	*ret = buf_init(max);
	return r < 0 ? r : buf_append(ret, text, len) < 0 ? err_nomem(err) : 0;
}

static int copied_manifest(struct pull *p, char ret_digest[72], struct buf *ret, struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/index.json", p->transport.layout);
	_cleanup_free_ char *text = NULL;
	size_t len;
	if (!path)
		return err_nomem(err);
	int r = fd_read_file(path, MANIFEST_BYTES_MAX, &text, &len, err);
	if (r == 0)
		r = manifest_of_layout(text, len, ret_digest, err);
	return r < 0 ? r : read_blob(p, ret_digest, MANIFEST_BYTES_MAX, ret, err);
}

int pull_read_copied(struct pull *p, struct manifest *ret, struct err *err)
{
	struct buf manifest = buf_init(0);
	char digest[72];
	int r = copied_manifest(p, digest, &manifest, err);
	if (r == 0)
		r = manifest_parse(manifest.data, manifest.len, ret, err);
	buf_done(&manifest);
	return r;
}

static bool same_diff_ids(const struct pull *p, char *const *ids, size_t n)
{
	bool same = n == p->manifest.n_layers;
	for (size_t i = 0; same && i < n; i++)
		same = strcmp(p->diff_ids[i], ids[i]) == 0;
	return same;
}

static bool same_config(
	const Bulkhead__Store__ImageConfig *one, const Bulkhead__Store__ImageConfig *other)
{
	size_t len = bulkhead__store__image_config__get_packed_size(one);
	if (len != bulkhead__store__image_config__get_packed_size(other))
		return false;
	_cleanup_free_ uint8_t *left = malloc(len + 1), *right = malloc(len + 1);
	if (!left || !right)
		return false;
	bulkhead__store__image_config__pack(one, left);
	bulkhead__store__image_config__pack(other, right);
	return memcmp(left, right, len) == 0;
}

/* skopeo rewrites Docker's images and compresses layers: what counts of an image is the same. */
static int check_rewritten(struct pull *p, const struct buf *text, struct err *err)
{
	struct manifest copied = {0};
	struct buf config = buf_init(0);
	char *diff_ids[MANIFEST_LAYERS_MAX] = {0};
	Bulkhead__Store__ImageConfig *c = NULL;
	int r = manifest_parse(text->data, text->len, &copied, err);
	if (r == 0)
		r = read_blob(p, copied.config_digest, CONFIG_BYTES_MAX, &config, err);
	if (r == 0)
		r = manifest_parse_config(
			config.data, config.len, copied.n_layers, &c, diff_ids, err);
	if (r == 0 && (!same_diff_ids(p, diff_ids, copied.n_layers) ||
			      !same_config(p->record->config, c)))
		r = err_set(err, -EAGAIN,
			"the registry has sent another image than it said before that the name "
			"stands for: the tag may have moved; pull again");
	if (c)
		bulkhead__store__image_config__free_unpacked(c, NULL);
	for (size_t i = 0; i < copied.n_layers; i++)
		free(diff_ids[i]);
	buf_done(&config);
	manifest_done(&copied);
	return r;
}

int pull_check_copied(struct pull *p, struct err *err)
{
	struct buf manifest = buf_init(0);
	char digest[72];
	int r = copied_manifest(p, digest, &manifest, err);
	if (r == 0 && strcmp(digest, p->manifest_digest) != 0)
		r = check_rewritten(p, &manifest, err);
	buf_done(&manifest);
	return r;
}

int pull_read_layout(struct pull *p, struct err *err)
{
	struct buf manifest = buf_init(0), config = buf_init(0);
	int r = copied_manifest(p, p->manifest_digest, &manifest, err);
	if (r == 0)
		r = parse(p, &manifest, NULL, err);
	if (r == 0)
		r = read_blob(p, p->manifest.config_digest, CONFIG_BYTES_MAX, &config, err);
	if (r == 0)
		r = parse(p, NULL, &config, err);
	if (r == 0)
		r = store_blob(p, p->manifest_digest, &manifest, err);
	if (r == 0)
		r = store_blob(p, p->manifest.config_digest, &config, err);
	if (r == 0)
		r = name_layers(p, err);
	buf_done(&manifest);
	buf_done(&config);
	return r;
}
