#include "cri-server/seccomp/cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/fd.h"

struct entry {
	TAILQ_ENTRY(entry) link;
	enum filter_kind kind;
	void *key;
	size_t key_len;
	struct filter filter;
};

struct filter_cache {
	pthread_mutex_t lock;               /* the list and all entries */
	TAILQ_HEAD(entries, entry) entries; /* the last used one first */
	size_t n;
};

int filter_cache_new(struct filter_cache **ret, struct err *err)
{
	struct filter_cache *cache = calloc(1, sizeof(*cache));
	if (!cache)
		return err_nomem(err);
	pthread_mutex_init(&cache->lock, NULL);
	TAILQ_INIT(&cache->entries);
	*ret = cache;
	return 0;
}

static void entry_free(struct entry *entry)
{
	filter_done(&entry->filter);
	free(entry->key);
	free(entry);
}

/* With the lock held. */
static void drop_locked(struct filter_cache *cache, struct entry *entry)
{
	TAILQ_REMOVE(&cache->entries, entry, link);
	cache->n--;
	entry_free(entry);
}

struct filter_cache *filter_cache_free(struct filter_cache *cache)
{
	struct entry *entry;
	if (!cache)
		return NULL;
	while ((entry = TAILQ_FIRST(&cache->entries)))
		drop_locked(cache, entry);
	pthread_mutex_destroy(&cache->lock);
	free(cache);
	return NULL;
}

static void *copy_of(const void *bytes, size_t len)
{
	void *copy = malloc(len);
	return copy ? memcpy(copy, bytes, len) : NULL;
}

/* With the lock held. */
static struct entry *find_locked(
	struct filter_cache *cache, enum filter_kind kind, const void *key, size_t key_len)
{
	struct entry *entry;
	TAILQ_FOREACH(entry, &cache->entries, link)
		if (entry->kind == kind && entry->key_len == key_len &&
			memcmp(entry->key, key, key_len) == 0)
			return entry;
	return NULL;
}

int filter_cache_find(struct filter_cache *cache, enum filter_kind kind, const void *key,
	size_t key_len, struct filter *ret, struct err *err)
{
	if (!cache)
		return 1;
	struct filter filter = {0};
	pthread_mutex_lock(&cache->lock);
	struct entry *entry = find_locked(cache, kind, key, key_len);
	if (entry) {
		filter = entry->filter;
		filter.program = copy_of(entry->filter.program, filter.len);
		TAILQ_REMOVE(&cache->entries, entry, link);
		TAILQ_INSERT_HEAD(&cache->entries, entry, link);
	}
	pthread_mutex_unlock(&cache->lock);
	if (!entry)
		return 1;
	if (!filter.program)
		return err_nomem(err);
	*ret = filter;
	return 0;
}

static struct entry *entry_new(
	enum filter_kind kind, const void *key, size_t key_len, const struct filter *filter)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	if (!entry)
		return NULL;
	entry->kind = kind;
	entry->key = copy_of(key, key_len);
	entry->key_len = key_len;
	entry->filter = *filter;
	entry->filter.program = copy_of(filter->program, filter->len);
	if (entry->key && entry->filter.program)
		return entry;
	entry_free(entry);
	return NULL;
}

void filter_cache_keep(struct filter_cache *cache, enum filter_kind kind, const void *key,
	size_t key_len, const struct filter *filter)
{
	struct entry *entry =
		cache && key_len <= CACHE_KEY_MAX ? entry_new(kind, key, key_len, filter) : NULL;
	if (!entry)
		return;
	pthread_mutex_lock(&cache->lock);
	/* Two that were compiled at once are the same. */
	struct entry *other = find_locked(cache, kind, key, key_len);
	if (other)
		drop_locked(cache, other);
	else if (cache->n == CACHE_FILTERS)
		drop_locked(cache, TAILQ_LAST(&cache->entries, entries));
	TAILQ_INSERT_HEAD(&cache->entries, entry, link);
	cache->n++;
	pthread_mutex_unlock(&cache->lock);
}
