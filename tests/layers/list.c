#include "tests/layers/list.h"

#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Files with several names, to say which names are one file's. */
#define LINKS_MAX 20000

struct lister {
	dev_t *devices; /* of the links */
	ino_t *inodes;
	size_t n;
	dev_t device; /* of the tree */
	size_t top;   /* length of its path */
};

static void print_text(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c > ' ' && c < 127 && c != '\\')
			putchar(c);
		else
			printf("\\x%02x", c);
	}
}

static uint64_t hash(uint64_t h, const unsigned char *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		h = (h ^ data[i]) * 1099511628211u;
	return h;
}

static void print_content(const char *path)
{
	static unsigned char data[65536];
	uint64_t h = 14695981039346656037u;
	ssize_t n;
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		err(1, "%s", path);
	while ((n = read(fd, data, sizeof(data))) > 0)
		h = hash(h, data, (size_t)n);
	if (n < 0)
		err(1, "%s", path);
	close(fd);
	printf(" hash=%016llx", (unsigned long long)h);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void print_xattrs(const char *path)
{
	static char names[65536], value[65536];
	const char *sorted[512] = {NULL};
	size_t count = 0;
	ssize_t n = llistxattr(path, names, sizeof(names));
	for (ssize_t i = 0; i < n && count < 512; i += (ssize_t)strlen(names + i) + 1)
		sorted[count++] = names + i;
	qsort(sorted, count, sizeof(*sorted), compare);
	for (size_t i = 0; i < count; i++) {
		/* A security module's label is the machine's, not the image's. */
		if (strcmp(sorted[i], "security.selinux") == 0)
			continue;
		ssize_t len = lgetxattr(path, sorted[i], value, sizeof(value));
		printf(" %s=", sorted[i]);
		if (len < 0)
			printf("?");
		else if (len > 100)
			printf("%016llx",
				(unsigned long long)hash(0, (unsigned char *)value, (size_t)len));
		else
			print_text(value, (size_t)len);
	}
}

static void print_link_number(struct lister *l, const struct stat *st)
{
	size_t i = 0;
	while (i < l->n && (l->devices[i] != st->st_dev || l->inodes[i] != st->st_ino))
		i++;
	if (i == l->n && l->n < LINKS_MAX) {
		l->devices[l->n] = st->st_dev;
		l->inodes[l->n++] = st->st_ino;
	}
	printf(" file=%zu", i);
}

static void print_node(struct lister *l, const char *path, const struct stat *st)
{
	char target[PATH_MAX];
	print_text(path + l->top, strlen(path + l->top));
	printf(" mode=%o uid=%u gid=%u mtime=%lld.%09ld", st->st_mode, st->st_uid, st->st_gid,
		(long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	if (!S_ISDIR(st->st_mode))
		print_link_number(l, st);
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
		printf(" device=%u:%u", major(st->st_rdev), minor(st->st_rdev));
	if (S_ISLNK(st->st_mode)) {
		ssize_t n = readlink(path, target, sizeof(target));
		printf(" target=");
		print_text(target, n < 0 ? 0 : (size_t)n);
	}
	if (S_ISREG(st->st_mode)) {
		printf(" size=%lld", (long long)st->st_size);
		print_content(path);
	}
	print_xattrs(path);
	putchar('\n');
}

static bool dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static void list(struct lister *l, const char *path)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		err(1, "%s", path);
	/* In an overlay directories are its own, what else there is may be a layer's. */
	if (S_ISDIR(st.st_mode) && st.st_dev != l->device)
		return;
	print_node(l, path, &st);
	if (!S_ISDIR(st.st_mode))
		return;
	struct dirent **entries;
	int n = scandir(path, &entries, NULL, alphasort);
	if (n < 0)
		err(1, "%s", path);
	for (int i = 0; i < n; i++) {
		char *below;
		if (!dots(entries[i]->d_name)) {
			if (asprintf(&below, "%s/%s", path, entries[i]->d_name) < 0)
				err(1, "memory");
			list(l, below);
			free(below);
		}
		free(entries[i]);
	}
	free(entries);
}

void list_tree(const char *path)
{
	struct lister l = {.devices = calloc(LINKS_MAX, sizeof(dev_t)),
		.inodes = calloc(LINKS_MAX, sizeof(ino_t)),
		.top = strlen(path)};
	struct stat st;
	if (!l.devices || !l.inodes || lstat(path, &st) < 0)
		err(1, "%s", path);
	l.device = st.st_dev;
	list(&l, path);
	free(l.devices);
	free(l.inodes);
}
