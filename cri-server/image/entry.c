/*
 * What a pull's image is recorded as: names, layers and blobs.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "common/fd.h"
#include "cri-server/image/pull.h"
#include "cri-server/image/reference.h"
#include "cri-server/message.h"

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

int pull_fill_record(struct pull *p, struct err *err)
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
