/*
 * The names of a layer while its stream is read, in memory: directories with their entries, and
 * what of each inode is needed to find a way and to end the image. A node is an inode; entries of
 * the same or of several directories may name one node (hard links), a directory has one entry.
 * Nodes live as long as the tree, also without an entry. One thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "common/err.h"
#include "cri-server/image/erofs.h"

/* Of a path from the root, by what it is, not by how an entry spells it. */
#define TREE_PATH_MAX 4095
/* Names, and what directories hold, of one tree. */
#define TREE_BYTES_MAX (256ull << 20)

struct tree_dir;

struct tree_node {
	SLIST_ENTRY(tree_node) link;
	mode_t mode;
	bool whiteout;
	uint32_t nlink;
	uint64_t nid;         /* of what has been made */
	char *target;         /* of a symbolic link */
	struct tree_dir *dir; /* of a directory */
};

struct tree_dir {
	struct tree_node *node;
	struct tree_dir *parent; /* the root's is itself */
	size_t path_len;
	void *entries; /* tsearch(3)'s */
	struct erofs_attrs attrs;
	bool opaque;  /* hides what lower layers have */
	bool implied; /* has no entry of its own in the layer */
	bool implied_below;
	bool removed;
	struct erofs_inode inode; /* at the end */
};

struct tree {
	SLIST_HEAD(, tree_node) nodes;
	struct tree_dir *root;
	uint64_t bytes;
};

/* With the root: implied, mode 0755, root's. */
int tree_begin(struct tree *tree, struct err *err);
void tree_done(struct tree *tree);

/* A node without an entry; a link's target is copied. */
int tree_new(struct tree *tree, mode_t mode, const char *target, struct tree_node **ret,
	struct err *err);
/* A directory without an entry yet, implied. */
int tree_new_dir(struct tree *tree, struct tree_node **ret, struct err *err);

/* NULL: none. */
struct tree_node *tree_find(const struct tree_dir *dir, const char *name);
/* Makes node the one that `name` names, in the place of another one and all below it. -EBADMSG: too
 * long a name or path; -EFBIG: too much. */
int tree_put(struct tree *tree, struct tree_dir *dir, const char *name, struct tree_node *node,
	struct err *err);

/* Makes inodes of all directories that the root leads to, with their contents. */
int tree_write(struct tree *tree, struct erofs *e, struct err *err);
