#include "cri-server/image/tree.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "cri-server/image/unpack.h"

#define DEFAULT_DIR 0755

struct name {
	struct tree_node *node;
	char name[];
};

static int by_name(const void *a, const void *b)
{
	const struct name *x = a, *y = b;
	return strcmp(x->name, y->name);
}

/* tsearch() compares entries, so what is looked for is one too. */
static struct name *new_entry(const char *name)
{
	size_t len = strlen(name) + 1;
	struct name *entry = calloc(1, sizeof(*entry) + len);
	if (entry)
		memcpy(entry->name, name, len);
	return entry;
}

static int count(struct tree *tree, size_t bytes, struct err *err)
{
	tree->bytes += bytes;
	if (tree->bytes <= TREE_BYTES_MAX)
		return 0;
	return err_set(err, -EFBIG,
		"the layer's names and its directories' attributes take more than %llu bytes",
		TREE_BYTES_MAX);
}

int tree_new(
	struct tree *tree, mode_t mode, const char *target, struct tree_node **ret, struct err *err)
{
	int r = target ? count(tree, strlen(target), err) : 0;
	if (r < 0)
		return r;
	struct tree_node *node = calloc(1, sizeof(*node));
	if (node && target)
		node->target = strdup(target);
	if (!node || (target && !node->target)) {
		free(node);
		return err_nomem(err);
	}
	node->mode = mode;
	SLIST_INSERT_HEAD(&tree->nodes, node, link);
	*ret = node;
	return 0;
}

int tree_new_dir(struct tree *tree, struct tree_node **ret, struct err *err)
{
	int r = tree_new(tree, S_IFDIR | DEFAULT_DIR, NULL, ret, err);
	if (r < 0)
		return r;
	struct tree_dir *dir = calloc(1, sizeof(*dir));
	if (!dir)
		return err_nomem(err);
	dir->node = *ret;
	dir->implied = true;
	dir->attrs.mode = (*ret)->mode;
	(*ret)->dir = dir;
	return 0;
}

int tree_begin(struct tree *tree, struct err *err)
{
	struct tree_node *root;
	*tree = (struct tree){0};
	int r = tree_new_dir(tree, &root, err);
	if (r < 0)
		return r;
	tree->root = root->dir;
	tree->root->parent = tree->root;
	root->nlink = 1;
	return 0;
}

void tree_done(struct tree *tree)
{
	while (!SLIST_EMPTY(&tree->nodes)) {
		struct tree_node *node = SLIST_FIRST(&tree->nodes);
		SLIST_REMOVE_HEAD(&tree->nodes, link);
		if (node->dir) {
			tdestroy(node->dir->entries, free);
			erofs_attrs_done(&node->dir->attrs);
		}
		free(node->dir);
		free(node->target);
		free(node);
	}
}

/* ---- entries ---- */

struct tree_node *tree_find(const struct tree_dir *dir, const char *name)
{
	union {
		struct name entry;
		char room[sizeof(struct name) + EROFS_NAME_MAX + 1];
	} key;
	size_t len = strlen(name);
	if (len > EROFS_NAME_MAX)
		return NULL;
	memcpy(key.room + sizeof(struct name), name, len + 1);
	struct name *const *found = tfind(&key, &dir->entries, by_name);
	return found ? (*found)->node : NULL;
}

/* No deeper than a path is long. */
static void unlink_node(struct tree_node *node)
{
	node->nlink--;
	if (!node->dir)
		return;
	struct tree_dir *dir = node->dir;
	dir->removed = true;
	while (dir->entries) {
		struct name *entry = *(struct name **)dir->entries;
		tdelete(entry, &dir->entries, by_name);
		unlink_node(entry->node);
		free(entry);
	}
}

static int check_length(const struct tree_dir *dir, const char *name, struct err *err)
{
	if (strlen(name) <= EROFS_NAME_MAX && dir->path_len + 1 + strlen(name) <= TREE_PATH_MAX)
		return 0;
	return err_set(err, -EBADMSG, "the layer has too long a path: …/%.200s", name);
}

int tree_put(struct tree *tree, struct tree_dir *dir, const char *name, struct tree_node *node,
	struct err *err)
{
	int r = check_length(dir, name, err);
	if (r == 0)
		r = count(tree, strlen(name), err);
	if (r < 0)
		return r;
	struct name *entry = new_entry(name);
	struct name **found = entry ? tsearch(entry, &dir->entries, by_name) : NULL;
	if (!found) {
		free(entry);
		return err_nomem(err);
	}
	node->nlink++;
	if (*found != entry) {
		free(entry);
		entry = *found;
		unlink_node(entry->node);
	}
	entry->node = node;
	if (node->dir) {
		node->dir->parent = dir;
		node->dir->path_len = dir->path_len + 1 + strlen(name);
	}
	return 0;
}

/* ---- the end ---- */

struct writing {
	bool covered;
	struct erofs_dir packer;
	uint32_t subdirs;
	int r;
	struct err *err;
};

static void add_entry(const void *at, VISIT visit, void *userdata)
{
	struct writing *w = userdata;
	const struct name *entry = *(struct name *const *)at;
	if (w->r < 0 || visit == preorder || visit == endorder)
		return;
	const struct tree_node *node = entry->node;
	if (node->whiteout && w->covered)
		return;
	const struct erofs_dirent dirent = {entry->name, node->nid, node->mode};
	w->subdirs += node->dir && strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0;
	w->r = erofs_dir_add(&w->packer, &dirent, w->err);
	/* It was made with one name. */
	if (w->r == 0 && w->packer.e && !node->dir && node->nlink != 1)
		w->r = erofs_set_nlink(w->packer.e, node->nid, node->nlink, w->err);
}

/* What is below an opaque directory meets nothing of lower layers: whiteouts there hide nothing,
 * and overlayfs would show them in the list of a directory that it does not merge. */
static bool is_covered(const struct tree_dir *dir)
{
	while (!dir->opaque && dir != dir->parent)
		dir = dir->parent;
	return dir->opaque;
}

static int pack(const struct tree_dir *dir, struct writing *w)
{
	w->covered = is_covered(dir);
	twalk_r(dir->entries, add_entry, w);
	return w->r < 0 ? w->r : erofs_dir_add(&w->packer, NULL, w->err);
}

/* "." and ".." are entries like others: they have a place in the order. */
static int add_dots(struct tree_dir *dir, struct err *err)
{
	const char *const names[] = {".", ".."};
	struct tree_node *const nodes[] = {dir->node, dir->parent->node};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct name *entry = new_entry(names[i]);
		if (!entry || !tsearch(entry, &dir->entries, by_name)) {
			free(entry);
			return err_nomem(err);
		}
		entry->node = nodes[i];
	}
	return 0;
}

static int make_dir(struct tree *tree, struct erofs *e, struct tree_dir *dir, struct err *err)
{
	struct writing w = {.err = err};
	struct erofs_attrs *attrs = &dir->attrs;
	int r = add_dots(dir, err);
	if (r == 0)
		r = pack(dir, &w);
	if (r == 0 && dir->opaque)
		r = erofs_add_xattr(attrs, UNPACK_OPAQUE_XATTR, "y", 1, err);
	const char implied = (char)('0' + dir->implied * LAYER_IMPLIED +
				    dir->implied_below * LAYER_IMPLIED_BELOW);
	if (r == 0 && implied != '0')
		r = erofs_add_xattr(attrs, LAYER_IMPLIED_XATTR, &implied, 1, err);
	if (r < 0)
		return r;
	attrs->nlink = 2 + w.subdirs;
	r = dir == tree->root ? erofs_make_root(e, attrs, w.packer.size, &dir->inode, err)
			      : erofs_make(e, attrs, w.packer.size, &dir->inode, err);
	dir->node->nid = dir->inode.nid;
	return r;
}

static void mark_ways(struct tree_dir *dir, const struct tree_dir *root)
{
	while (dir != root && !dir->parent->implied_below) {
		dir = dir->parent;
		dir->implied_below = true;
	}
}

int tree_write(struct tree *tree, struct erofs *e, struct err *err)
{
	struct tree_node *node;
	int r = 0;
	SLIST_FOREACH(node, &tree->nodes, link)
	{
		if (node->dir && node->dir->implied && !node->dir->removed)
			mark_ways(node->dir, tree->root);
	}
	SLIST_FOREACH(node, &tree->nodes, link)
	{
		if (r == 0 && node->dir && !node->dir->removed)
			r = make_dir(tree, e, node->dir, err);
	}
	SLIST_FOREACH(node, &tree->nodes, link)
	{
		if (r < 0 || !node->dir || node->dir->removed)
			continue;
		struct writing w = {.err = err, .packer = {.e = e, .inode = &node->dir->inode}};
		r = pack(node->dir, &w);
	}
	return r;
}
