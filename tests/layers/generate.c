/*
 * layer-generate SEED DIRECTORY: writes DIRECTORY/0.tar, 1.tar, …, the layers of a random image,
 * lowest first; prints how many.
 *
 * The paths of all layers come from few names, so that layers meet: files, directories, links,
 * devices over one another, whiteouts and opaque directories in any order, hard links, entries that
 * come twice, entries through symbolic links, directories without an entry of their own; with
 * modes, owners, times, attributes, names and sizes at their limits. A model of what the layers
 * below show keeps to what the OCI specification defines and its unpackers agree on. Left out are:
 *   - a whiteout after an entry of that name in the same layer: it must not touch it, but umoci
 *     removes it;
 *   - entries below a symbolic link, and hard links to a file, of a lower layer: umoci follows them
 *     through all layers; containerd and Docker, whose layers are directories of their own, do not;
 *   - a new directory without an entry: unpackers give it the time of the day;
 *   - an opaque marker after something in a directory below it that a lower layer has too: umoci,
 *     which removes what else is in that one, leaves it, and the time of the removal; and a
 *     whiteout of a directory after such a marker in it;
 *   - attributes in "trusted.": containerd drops them;
 *   - times after 2262: umoci counts nanoseconds in 64 bits.
 */
#include <archive.h>
#include <archive_entry.h>
#include <err.h>
#include <locale.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "common/fd.h"

#define PATHS_MAX 2000
#define PATH_SIZE 1100

enum kind { NONE, FILE_KIND, DIR_KIND, LINK_KIND, NODE_KIND, WHITEOUT };

struct path {
	char name[PATH_SIZE];
	enum kind below; /* what the layers below show */
	enum kind here;  /* what this layer has */
	bool opaque;
};

struct generator {
	uint64_t state;
	struct archive *tar;
	size_t n;
	struct path paths[PATHS_MAX];
};

static uint32_t draw(struct generator *g, uint32_t below)
{
	g->state = g->state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)((g->state >> 33) % below);
}

static struct path *path_of(struct generator *g, const char *name)
{
	for (size_t i = 0; i < g->n; i++)
		if (strcmp(g->paths[i].name, name) == 0)
			return &g->paths[i];
	if (g->n == PATHS_MAX)
		errx(1, "too many paths");
	struct path *p = &g->paths[g->n++];
	*p = (struct path){0};
	snprintf(p->name, sizeof(p->name), "%s", name);
	return p;
}

static bool is_below(const char *path, const char *top)
{
	size_t len = strlen(top);
	return strncmp(path, top, len) == 0 && path[len] == '/';
}

static void random_name(struct generator *g, char *out, size_t size)
{
	static const char *const plain[] = {"a", "b", "c", "d"};
	static const char *const odd[] = {"!", ".hidden", "..dots", "two words", "latin1-\xe9",
		"utf8-\xc3\xa9", "line\nfeed", "\xff\xfe", "-", "back\\slash"};
	if (draw(g, 60) == 0) {
		memset(out, 'n', 255);
		out[255] = '\0';
		return;
	}
	snprintf(out, size, "%s",
		draw(g, 5) ? plain[draw(g, ARRAY_SIZE(plain))] : odd[draw(g, ARRAY_SIZE(odd))]);
}

static void random_path(struct generator *g, char out[PATH_SIZE])
{
	char name[256];
	out[0] = '\0';
	for (uint32_t depth = 1 + draw(g, 3); depth > 0; depth--) {
		size_t len = strlen(out);
		random_name(g, name, sizeof(name));
		snprintf(out + len, PATH_SIZE - len, "%s%s", len ? "/" : "", name);
	}
}

/* ---- entries ---- */

static void set_attributes(struct generator *g, struct archive_entry *e, mode_t type)
{
	static const uint32_t ids[] = {
		0, 1, 1000, 65534, 65535, 65536, 70000, 2147483648u, 4294967294u};
	static const mode_t modes[] = {0644, 0755, 0, 0777, 04755, 02755, 01777, 06711, 0400};
	static const int64_t times[] = {
		0, 1, -1, -86400, -1000000000, 1700000000, 4294967296, 9000000000};
	static const char cap[] = "\1\0\0\2\0\40\0\0\0\0\0\0\0\0\0\0\0\0\0"; /* cap_net_raw+ep */
	char value[3000];
	archive_entry_set_mode(e, type | modes[draw(g, ARRAY_SIZE(modes))]);
	archive_entry_set_uid(e, ids[draw(g, ARRAY_SIZE(ids))]);
	archive_entry_set_gid(e, ids[draw(g, ARRAY_SIZE(ids))]);
	int64_t time = times[draw(g, ARRAY_SIZE(times))];
	archive_entry_set_mtime(e, time, time > 1 && draw(g, 2) ? (long)draw(g, 1000000000) : 0);
	if (type != S_IFREG && type != S_IFDIR)
		return;
	if (draw(g, 4) == 0) {
		uint32_t size = draw(g, 8) ? draw(g, 20) : draw(g, sizeof(value));
		memset(value, (int)draw(g, 256), sizeof(value));
		archive_entry_xattr_add_entry(e, "user.note", value, size);
		archive_entry_xattr_add_entry(
			e, "user.a.much.longer.name.of.an.attribute", "\0\n", 2);
	}
	if (type == S_IFREG && draw(g, 6) == 0)
		archive_entry_xattr_add_entry(e, "security.capability", cap, 20);
}

static void check(struct generator *g, int r)
{
	if (r < ARCHIVE_WARN)
		errx(1, "%s", archive_error_string(g->tar));
}

static void put_file(struct generator *g, struct archive_entry *e)
{
	static const size_t sizes[] = {0, 1, 100, 4000, 4095, 4096, 4097, 10000, 70000, 300000};
	size_t size = sizes[draw(g, ARRAY_SIZE(sizes))];
	unsigned char *data = calloc(1, size + 1);
	if (!data)
		errx(1, "no memory");
	size_t from = draw(g, 4) ? 0 : size / 3,
	       to = draw(g, 4) ? size : size / 2; /* the rest is zeros */
	for (size_t i = from; i < to; i++)
		data[i] = (unsigned char)draw(g, 256);
	archive_entry_set_size(e, (la_int64_t)size);
	if (draw(g, 4) == 0 && to > from)
		archive_entry_sparse_add_entry(e, (la_int64_t)from, (la_int64_t)(to - from));
	check(g, archive_write_header(g->tar, e));
	if (size && archive_write_data(g->tar, data, size) < 0)
		errx(1, "%s", archive_error_string(g->tar));
	free(data);
}

static void put(struct generator *g, const char *path, enum kind kind)
{
	static const mode_t nodes[] = {S_IFCHR, S_IFBLK, S_IFIFO};
	static const char *const targets[] = {
		"a", "../b", "/", "/etc/../x", "nowhere", ".", "a/b/c", "\xff"};
	struct archive_entry *e = archive_entry_new();
	char name[PATH_SIZE + 4];
	snprintf(name, sizeof(name), "%s%s", draw(g, 3) ? "" : draw(g, 2) ? "./" : "/", path);
	archive_entry_set_pathname(e, name);
	switch (kind) {
	case FILE_KIND:
		set_attributes(g, e, S_IFREG);
		put_file(g, e);
		break;
	case DIR_KIND:
		set_attributes(g, e, S_IFDIR);
		check(g, archive_write_header(g->tar, e));
		break;
	case LINK_KIND:
		set_attributes(g, e, S_IFLNK);
		archive_entry_set_symlink(e, targets[draw(g, ARRAY_SIZE(targets))]);
		check(g, archive_write_header(g->tar, e));
		break;
	default: {
		mode_t type = nodes[draw(g, ARRAY_SIZE(nodes))];
		set_attributes(g, e, type);
		if (type != S_IFIFO)
			archive_entry_set_rdev(e, makedev(1 + draw(g, 4000), draw(g, 1000000)));
		check(g, archive_write_header(g->tar, e));
	}
	}
	archive_entry_free(e);
}

static void put_hardlink(struct generator *g, const char *path, const char *target)
{
	struct archive_entry *e = archive_entry_new();
	archive_entry_set_pathname(e, path);
	archive_entry_set_mode(e, S_IFREG | 0644);
	archive_entry_set_hardlink(e, target);
	check(g, archive_write_header(g->tar, e));
	archive_entry_free(e);
}

static void put_marker(struct generator *g, const char *path)
{
	struct archive_entry *e = archive_entry_new();
	archive_entry_set_pathname(e, path);
	archive_entry_set_mode(e, S_IFREG | 0644);
	archive_entry_set_size(e, 0);
	check(g, archive_write_header(g->tar, e));
	archive_entry_free(e);
}

/* ---- the model ---- */

/* Whether something above in this layer hides what lower layers have at the path. */
static bool hidden(struct generator *g, const char *path)
{
	for (size_t i = 0; i < g->n; i++) {
		const struct path *p = &g->paths[i];
		bool here_other = p->here != NONE && p->here != DIR_KIND;
		if ((here_other || p->opaque) && is_below(path, p->name))
			return true;
	}
	return false;
}

static void note(struct generator *g, const char *name, enum kind kind)
{
	struct path *p = path_of(g, name);
	/* A directory over what was no directory is a new one. */
	bool fresh = kind == DIR_KIND && p->here != DIR_KIND &&
		     (p->here != NONE || p->below != DIR_KIND);
	if (kind != DIR_KIND)
		for (size_t i = 0; i < g->n; i++)
			if (is_below(g->paths[i].name, name)) {
				g->paths[i].here = NONE;
				g->paths[i].opaque = false;
			}
	p->here = kind;
	p->opaque = kind == DIR_KIND && (p->opaque || fresh);
}

/* Every directory on the way is there, by its own entry where it must be. */
static void make_way(struct generator *g, const char *path)
{
	char top[PATH_SIZE];
	for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(top, sizeof(top), "%.*s", (int)(slash - path), path);
		struct path *p = path_of(g, top);
		if (p->here == DIR_KIND)
			continue;
		if (p->here == NONE && p->below == DIR_KIND && !hidden(g, top) && draw(g, 2))
			continue; /* implied */
		put(g, top, DIR_KIND);
		note(g, top, DIR_KIND);
	}
}

/* A file of this layer, or NULL. */
static const struct path *any_file(struct generator *g)
{
	for (int tries = 0; g->n && tries < 20; tries++) {
		const struct path *p = &g->paths[draw(g, (uint32_t)g->n)];
		if (p->here == FILE_KIND || p->here == LINK_KIND)
			return p;
	}
	return NULL;
}

static void add_hardlink(struct generator *g, const char *path)
{
	const struct path *from = any_file(g);
	char target[PATH_SIZE];
	if (!from || is_below(from->name, path) || strcmp(from->name, path) == 0)
		return;
	snprintf(target, sizeof(target), "%s", from->name);
	enum kind kind = from->here;
	make_way(g, path);
	if (path_of(g, target)->here != kind)
		return; /* the way went over it */
	put_hardlink(g, path, target);
	note(g, path, kind);
}

/* Whether this layer has something below the directory. */
static bool has_entries(const struct generator *g, const char *path)
{
	for (size_t i = 0; i < g->n; i++)
		if (g->paths[i].here != NONE && is_below(g->paths[i].name, path))
			return true;
	return false;
}

static void add_whiteout(struct generator *g, const char *path)
{
	char marker[PATH_SIZE + 8];
	struct path *p = path_of(g, path);
	if (p->here != NONE || p->opaque || p->below == NONE || hidden(g, path) ||
		strlen(path) > 240)
		return;
	if (has_entries(g, path))
		return;
	make_way(g, path);
	const char *base = strrchr(path, '/');
	base = base ? base + 1 : path;
	snprintf(marker, sizeof(marker), "%.*s.wh.%s", (int)(base - path), path, base);
	put_marker(g, marker);
	note(g, path, WHITEOUT);
}

static void add_opaque(struct generator *g, const char *path)
{
	char marker[PATH_SIZE + 16];
	make_way(g, path);
	struct path *p = path_of(g, path);
	if (p->here != DIR_KIND && (p->here != NONE || p->below != DIR_KIND || hidden(g, path)))
		return;
	for (size_t i = 0; i < g->n; i++)
		if (g->paths[i].below == DIR_KIND && is_below(g->paths[i].name, path) &&
			(g->paths[i].here == DIR_KIND || has_entries(g, g->paths[i].name)))
			return;
	snprintf(marker, sizeof(marker), "%s/.wh..wh..opq", path);
	put_marker(g, marker);
	p->opaque = true;
}

/* A link to a directory of this layer, and a file through it. */
static void add_through_link(struct generator *g, const char *path)
{
	char through[PATH_SIZE + 16], real[64];
	struct path *dir = path_of(g, "target");
	if (strcmp(path, "target") == 0)
		return;
	struct archive_entry *e = archive_entry_new();
	if (dir->here != DIR_KIND) {
		put(g, "target", DIR_KIND);
		note(g, "target", DIR_KIND);
	}
	make_way(g, path);
	archive_entry_set_pathname(e, path);
	archive_entry_set_mode(e, S_IFLNK | 0777);
	archive_entry_set_symlink(e, "/target");
	check(g, archive_write_header(g->tar, e));
	archive_entry_free(e);
	note(g, path, LINK_KIND);
	snprintf(through, sizeof(through), "%s/through-%u", path, draw(g, 3));
	put(g, through, FILE_KIND);
	snprintf(real, sizeof(real), "target/%s", strrchr(through, '/') + 1);
	note(g, real, FILE_KIND);
}

static void add_entry(struct generator *g, const char *path, enum kind kind)
{
	make_way(g, path);
	put(g, path, kind);
	note(g, path, kind);
}

static void add(struct generator *g)
{
	static const enum kind kinds[] = {
		FILE_KIND, FILE_KIND, FILE_KIND, DIR_KIND, DIR_KIND, LINK_KIND, NODE_KIND};
	char path[PATH_SIZE];
	if (g->n && draw(g, 3) == 0)
		snprintf(path, sizeof(path), "%s", g->paths[draw(g, (uint32_t)g->n)].name);
	else
		random_path(g, path);
	switch (draw(g, 12)) {
	case 0:
	case 1:
		add_whiteout(g, path);
		break;
	case 2:
		add_opaque(g, path);
		break;
	case 3:
		add_hardlink(g, path);
		break;
	case 4:
		add_through_link(g, path);
		break;
	default:
		add_entry(g, path, kinds[draw(g, ARRAY_SIZE(kinds))]);
	}
}

/* What the next layer finds below. */
static void end_layer(struct generator *g)
{
	bool gone[PATHS_MAX] = {false};
	for (size_t i = 0; i < g->n; i++)
		gone[i] = g->paths[i].here == NONE && hidden(g, g->paths[i].name);
	for (size_t i = 0; i < g->n; i++) {
		struct path *p = &g->paths[i];
		if (p->here == WHITEOUT || gone[i])
			p->below = NONE;
		else if (p->here != NONE)
			p->below = p->here;
		p->here = NONE;
		p->opaque = false;
	}
}

static void make_layer(struct generator *g, const char *file)
{
	g->tar = archive_write_new();
	archive_write_set_format_pax(g->tar);
	if (archive_write_open_filename(g->tar, file) != ARCHIVE_OK)
		errx(1, "%s: %s", file, archive_error_string(g->tar));
	if (draw(g, 3) == 0)
		put(g, "./", DIR_KIND);
	for (uint32_t n = 1 + draw(g, 60); n > 0; n--)
		add(g);
	if (archive_write_close(g->tar) != ARCHIVE_OK)
		errx(1, "%s: %s", file, archive_error_string(g->tar));
	archive_write_free(g->tar);
	end_layer(g);
}

int main(int argc, char **argv)
{
	static struct generator g;
	if (argc != 3)
		errx(1, "usage: layer-generate SEED DIRECTORY");
	setlocale(LC_ALL,
		"C.UTF-8"); /* as in what makes images: names are UTF-8, or kept as they are */
	g.state = strtoull(argv[1], NULL, 10) * 2862933555777941757u + 3037000493u;
	draw(&g, 2);
	uint32_t layers = 1 + draw(&g, 6);
	for (uint32_t i = 0; i < layers; i++) {
		char *file = str_printf("%s/%u.tar", argv[2], i);
		if (!file)
			errx(1, "no memory");
		make_layer(&g, file);
		free(file);
	}
	printf("%u\n", layers);
	return 0;
}
