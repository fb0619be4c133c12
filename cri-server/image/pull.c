/*
 * A pull: fetch → read manifest and configuration → convert layers → record. One at a time for one
 * reference; whoever waited for another's finds the blobs there, and asks the registry only what
 * the tag stands for.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/fd.h"
#include "cri-server/image/internal.h"
#include "cri-server/image/reference.h"
#include "cri-server/message.h"

struct pull {
	struct img *img;
	const char *source;
	int cancel_fd;
	char manifest_digest[72];
	char repo_digest[72]; /* "" for a local source */
	struct manifest manifest;
	char *diff_ids[MANIFEST_LAYERS_MAX];
	struct img_need *need;
	Bulkhead__Store__Image *record;
};

static int read_blob(struct img *img, const char *digest, size_t max, char **ret, size_t *ret_len,
	struct err *err)
{
	_cleanup_free_ char *path = img_blob_path(img, digest);
	return path ? fd_read_file(path, max, ret, ret_len, err) : err_nomem(err);
}

static int read_documents(struct pull *p, struct err *err)
{
	_cleanup_free_ char *manifest = NULL, *config = NULL;
	size_t manifest_len, config_len;
	int r = read_blob(
		p->img, p->manifest_digest, MANIFEST_BYTES_MAX, &manifest, &manifest_len, err);
	if (r == 0)
		r = manifest_parse(manifest, manifest_len, &p->manifest, err);
	if (r < 0)
		return r;
	r = read_blob(
		p->img, p->manifest.config_digest, CONFIG_BYTES_MAX, &config, &config_len, err);
	return r < 0 ? r
		     : manifest_parse_config(config, config_len, p->manifest.n_layers,
			       &p->record->config, p->diff_ids, err);
}

static int check_platform(const struct pull *p, struct err *err)
{
	const Bulkhead__Store__ImageConfig *c = p->record->config;
	bool os = !c->os[0] || strcmp(c->os, "linux") == 0;
	bool machine = !c->architecture[0] || strcmp(c->architecture, "amd64") == 0;
	if (os && machine)
		return 0;
	return err_set(err, -EBADMSG, "the image is for %.32s/%.32s; this node runs linux/amd64",
		c->os, c->architecture);
}

/* So that others may remove images meanwhile. */
static int name_needs(struct pull *p, struct err *err)
{
	const struct manifest *m = &p->manifest;
	int r = img_need_file(p->need, IMG_BLOB, p->manifest_digest, err);
	if (r == 0)
		r = img_need_file(p->need, IMG_BLOB, m->config_digest, err);
	for (size_t i = 0; i < m->n_layers && r == 0; i++) {
		r = img_need_file(p->need, IMG_BLOB, m->layers[i].digest, err);
		if (r == 0)
			r = img_need_file(p->need, IMG_LAYER, p->diff_ids[i], err);
	}
	if (r == 0)
		img_need_settle(p->need);
	return r;
}

static int convert_layers(struct pull *p, struct err *err)
{
	int r = 0;
	for (size_t i = 0; i < p->manifest.n_layers && r == 0; i++)
		r = img_convert_layer(
			p->img, p->manifest.layers[i].digest, p->diff_ids[i], p->cancel_fd, err);
	return r;
}

static int append(char ***list, size_t *n, const char *text, struct err *err)
{
	(*list)[*n] = strdup(text);
	if (!(*list)[*n])
		return err_nomem(err);
	(*n)++;
	return 0;
}

/* The names that lead to the image: tag and repo digest, or a local source as it was written. A tag
 * beside a digest is only a note of the writer's: it is not asked what it stands for. */
static int fill_names(struct pull *p, struct err *err)
{
	Bulkhead__Store__Image *record = p->record;
	record->tags = calloc(1, sizeof(char *));
	record->digests = calloc(1, sizeof(char *));
	if (!record->tags || !record->digests)
		return err_nomem(err);
	if (!p->repo_digest[0])
		return append(&record->tags, &record->n_tags, p->source, err);
	struct reference ref;
	int r = reference_parse(p->source, &ref, err);
	if (r < 0)
		return r;
	_cleanup_free_ char *tag = ref.digest ? NULL : str_printf("%s:%s", ref.name, ref.tag);
	_cleanup_free_ char *digest = str_printf("%s@%s", ref.name, p->repo_digest);
	if (!digest || (!ref.digest && !tag))
		r = err_nomem(err);
	if (r == 0 && tag)
		r = append(&record->tags, &record->n_tags, tag, err);
	if (r == 0)
		r = append(&record->digests, &record->n_digests, digest, err);
	reference_done(&ref);
	return r;
}

static bool comes_again(const struct pull *p, size_t i)
{
	for (size_t k = i + 1; k < p->manifest.n_layers; k++)
		if (strcmp(p->diff_ids[i], p->diff_ids[k]) == 0)
			return true;
	return false;
}

/*
 * The layers of a container, lowest first. A layer that comes again is left out: the upper one
 * hides all of it, and overlayfs refuses one directory twice. overlayfs knows no opaque root, so
 * what such a layer hides is left out too.
 */
static int fill_layers(struct pull *p, struct err *err)
{
	Bulkhead__Store__Image *record = p->record;
	int r = 0;
	for (size_t i = 0; i < p->manifest.n_layers && r == 0; i++) {
		bool opaque = false;
		if (comes_again(p, i))
			continue;
		r = img_layer_is_opaque(p->img, p->diff_ids[i], &opaque, err);
		while (opaque && record->n_layers)
			free(record->layers[--record->n_layers]);
		if (r == 0)
			r = append(&record->layers, &record->n_layers, p->diff_ids[i], err);
	}
	return r;
}

static int fill_record(struct pull *p, struct err *err)
{
	const struct manifest *m = &p->manifest;
	Bulkhead__Store__Image *record = p->record;
	record->layers = calloc(m->n_layers + 1, sizeof(char *));
	record->blobs = calloc(m->n_layers + 2, sizeof(char *));
	if (!record->layers || !record->blobs)
		return err_nomem(err);
	record->pulled_ns = (int64_t)time(NULL) * 1000000000;
	int r = append(&record->blobs, &record->n_blobs, p->manifest_digest, err);
	if (r == 0)
		r = append(&record->blobs, &record->n_blobs, m->config_digest, err);
	for (size_t i = 0; i < m->n_layers && r == 0; i++)
		r = append(&record->blobs, &record->n_blobs, m->layers[i].digest, err);

	if (r == 0)
		r = fill_layers(p, err);
	if (r == 0)
		r = message_set_string(&record->manifest_digest, p->manifest_digest, err);
	return r < 0 ? r : fill_names(p, err);
}

static int run(struct pull *p, const struct img_auth *auth, char **ret_id, struct err *err)
{
	p->record = calloc(1, sizeof(*p->record));
	p->need = img_need_new(p->img);
	if (!p->record || !p->need)
		return err_nomem(err);
	bulkhead__store__image__init(p->record);
	int r = img_fetch(
		p->img, p->source, auth, p->cancel_fd, p->manifest_digest, p->repo_digest, err);
	if (r == 0)
		r = read_documents(p, err);
	if (r == 0)
		r = check_platform(p, err);
	if (r == 0)
		r = name_needs(p, err);
	if (r == 0)
		r = convert_layers(p, err);
	if (r == 0)
		r = fill_record(p, err);
	_cleanup_free_ char *id = r == 0 ? strdup(p->manifest.config_digest) : NULL;
	if (r == 0)
		r = id ? img_add(p->img, id, TAKE_PTR(p->record), err) : err_nomem(err);
	if (r == 0)
		*ret_id = TAKE_PTR(id);
	return r;
}

static void done(struct pull *p)
{
	img_need_free(p->need);
	if (p->record)
		bulkhead__store__image__free_unpacked(p->record, NULL);
	for (size_t i = 0; i < p->manifest.n_layers; i++)
		free(p->diff_ids[i]);
	manifest_done(&p->manifest);
}

int img_pull(struct img *img, const char *reference, const struct img_auth *auth, int cancel_fd,
	char **ret_id, struct err *err)
{
	static const char docker[] = "docker://";
	const char *source = strncmp(reference, docker, strlen(docker)) == 0
				     ? reference + strlen(docker)
				     : reference;
	int r = img_busy_enter(img, "pull", source, cancel_fd, err);
	if (r < 0)
		return r;
	struct pull *p = calloc(1, sizeof(*p));
	if (p) {
		*p = (struct pull){.img = img, .source = source, .cancel_fd = cancel_fd};
		r = run(p, auth, ret_id, err);
		done(p);
		free(p);
	} else {
		r = err_nomem(err);
	}
	img_busy_leave(img, "pull", source);
	return r < 0 ? err_wrap(err, "pull '%.200s'", reference) : 0;
}
