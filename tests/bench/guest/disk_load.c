/*
 * What `make bench` lets a container do with files. Prints a line "ROW MILLISECONDS" for each time:
 *
 *	disk_load image_read      /large, in order, against the same blocks of the disk it lies on
 *	disk_load scratch_write   random blocks of 4 KiB of a file below /, against the same blocks
 *	disk_load volume_read     /volume/large, in order
 *	disk_load small_files     1,000 files below /volume: made, looked at, read, removed
 *
 * The first two take turns and find the disk by itself: by where the kernel says that the file's
 * blocks are, and which disk has the file's beginning there. They take a privileged container.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS      3
#define EXTENTS_MAX 512
#define BLOCK       4096u
#define PIECE       (1u << 20)
#define PARTS       32
#define LARGE_BYTES (INT64_C(1) << 30)
#define WRITES      128 /* of a part */
#define WRITE_MIB   128
#define FILES       1000
#define FILE_BYTES  1024

struct extent {
	off_t at;
	off_t len;
};

/* A file by itself, or the blocks of it on its disk. */
struct target {
	int fd;
	struct extent extents[EXTENTS_MAX];
	size_t n;
};

static char buffer[PIECE] __attribute__((aligned(BLOCK)));

static void __attribute__((noreturn)) die(const char *what)
{
	fprintf(stderr, "disk_load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Where it may: in a machine of the pod's own. */
static void drop_caches(void)
{
	sync();
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (fd < 0)
		return;
	if (write(fd, "3", 1) != 1)
		die("drop caches");
	close(fd);
}

static int open_or_die(const char *path, int flags)
{
	int fd = open(path, flags, 0600);
	if (fd < 0)
		die(path);
	return fd;
}

/* ---- the same blocks ---- */

static void whole_file(int fd, struct target *ret)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		die("fstat");
	ret->fd = fd;
	ret->n = 1;
	ret->extents[0] = (struct extent){0, st.st_size};
}

static void map_blocks(int fd, struct target *ret)
{
	struct fiemap *map = calloc(1, sizeof(*map) + EXTENTS_MAX * sizeof(struct fiemap_extent));
	if (!map)
		die("memory");
	map->fm_length = UINT64_MAX;
	map->fm_flags = FIEMAP_FLAG_SYNC;
	map->fm_extent_count = EXTENTS_MAX;
	if (ioctl(fd, FS_IOC_FIEMAP, map) < 0)
		die("ask for the file's blocks");
	ret->n = map->fm_mapped_extents;
	if (ret->n == 0 || !(map->fm_extents[ret->n - 1].fe_flags & FIEMAP_EXTENT_LAST)) {
		errno = E2BIG;
		die("the file's blocks");
	}
	for (size_t i = 0; i < ret->n; i++)
		ret->extents[i] = (struct extent){
			(off_t)map->fm_extents[i].fe_physical, (off_t)map->fm_extents[i].fe_length};
	free(map);
}

static int open_disk_with(const char *beginning, off_t at, int flags)
{
	static char found[BLOCK] __attribute__((aligned(BLOCK)));
	DIR *dir = opendir("/dev");
	struct dirent *entry;
	while (dir && (entry = readdir(dir))) {
		char path[PATH_MAX];
		if (strncmp(entry->d_name, "sd", 2) != 0)
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		int fd = open(path, flags);
		if (fd >= 0 && pread(fd, found, BLOCK, at) == BLOCK &&
			memcmp(found, beginning, BLOCK) == 0)
			return fd;
		close(fd);
	}
	errno = ENODEV;
	die("find the disk of the file");
}

/* Both ways to the file's blocks. */
static void open_both(const char *path, int flags, struct target *file, struct target *raw)
{
	int fd = open_or_die(path, flags);
	if (pread(fd, buffer, BLOCK, 0) != BLOCK)
		die(path);
	whole_file(fd, file);
	map_blocks(fd, raw);
	raw->fd = open_disk_with(buffer, raw->extents[0].at, flags);
}

/* ---- in turns ---- */

/* The offset's place and how many bytes from there on are in one piece. */
static off_t place_of(const struct target *target, off_t offset, off_t *ret_len)
{
	for (size_t i = 0; i < target->n; i++) {
		const struct extent *e = &target->extents[i];
		if (offset < e->len) {
			*ret_len = e->len - offset;
			return e->at + offset;
		}
		offset -= e->len;
	}
	errno = ERANGE;
	die("a place in the file");
}

static void read_part(const struct target *target, off_t offset, off_t len)
{
	while (len > 0) {
		off_t piece, place = place_of(target, offset, &piece);
		piece = piece < len ? piece : len;
		ssize_t n = pread(target->fd, buffer, piece < PIECE ? (size_t)piece : PIECE, place);
		if (n <= 0)
			die("read");
		offset += n;
		len -= n;
	}
}

/* Random places of part `i`, the same ones for both targets. */
static void write_part(const struct target *target, unsigned i)
{
	unsigned seed = i;
	for (int k = 0; k < WRITES; k++) {
		off_t piece;
		seed = seed * 1103515245u + 12345u;
		off_t block = (seed >> 8) % (WRITE_MIB * (1u << 20) / BLOCK);
		if (pwrite(target->fd, buffer, BLOCK, place_of(target, block * BLOCK, &piece)) !=
			BLOCK)
			die("write");
	}
}

/* Part by part, each by both ways, so that whatever else the host does is shared by both. */
static void take_turns(const char *load, const struct target *file, const struct target *raw,
	void (*part)(const struct target *target, unsigned i))
{
	double ms[2] = {0, 0};
	for (unsigned i = 0; i < PARTS; i++) {
		for (unsigned k = 0; k < 2; k++) {
			bool by_disk = (i + k) % 2;
			double begin = now_ms();
			part(by_disk ? raw : file, i);
			ms[by_disk] += now_ms() - begin;
		}
	}
	printf("disk.%s %.3f\nraw.%s %.3f\n", load, ms[0], load, ms[1]);
}

static void read_large_part(const struct target *target, unsigned i)
{
	off_t len = LARGE_BYTES / PARTS;
	read_part(target, i * len, len);
}

static void image_read(void)
{
	static struct target file, raw;
	open_both("/large", O_RDONLY, &file, &raw);
	for (int i = 0; i < ROUNDS; i++) {
		drop_caches();
		take_turns("image_read", &file, &raw, read_large_part);
	}
}

static void volume_read(void)
{
	static struct target file;
	whole_file(open_or_die("/volume/large", O_RDONLY), &file);
	for (int i = 0; i < ROUNDS; i++) {
		drop_caches();
		double begin = now_ms();
		read_part(&file, 0, file.extents[0].len);
		printf("volume.read %.3f\n", now_ms() - begin);
	}
}

static void scratch_write(void)
{
	static const char path[] = "/laid-out";
	static struct target file, raw;
	int fd = open_or_die(path, O_CREAT | O_TRUNC | O_WRONLY);
	if (getrandom(buffer, BLOCK, 0) != BLOCK)
		die("getrandom");
	for (unsigned i = 0; i < WRITE_MIB; i++)
		if (write(fd, buffer, PIECE) != PIECE)
			die(path);
	if (fsync(fd) < 0)
		die(path);
	close(fd);
	open_both(path, O_RDWR | O_DIRECT, &file, &raw);
	for (unsigned i = 0; i < ROUNDS; i++)
		take_turns("scratch_write", &file, &raw, write_part);
	unlink(path);
}

/* ---- many small ones ---- */

static void each_file(void (*fn)(const char *path))
{
	for (int i = 0; i < FILES; i++) {
		char path[64];
		snprintf(path, sizeof(path), "/volume/small/%d", i);
		fn(path);
	}
}

static void make(const char *path)
{
	int fd = open_or_die(path, O_CREAT | O_EXCL | O_WRONLY);
	if (write(fd, buffer, FILE_BYTES) != FILE_BYTES)
		die(path);
	close(fd);
}

static void look(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0 || st.st_size != FILE_BYTES)
		die(path);
}

static void fetch(const char *path)
{
	int fd = open_or_die(path, O_RDONLY);
	if (read(fd, buffer, BLOCK) != FILE_BYTES)
		die(path);
	close(fd);
}

static void erase(const char *path)
{
	if (unlink(path) < 0)
		die(path);
}

static void small_files(void)
{
	for (int i = 0; i < ROUNDS; i++) {
		if (mkdir("/volume/small", 0700) < 0)
			die("/volume/small");
		double begin = now_ms();
		each_file(make);
		each_file(look);
		each_file(fetch);
		each_file(erase);
		printf("volume.small_files %.3f\n", now_ms() - begin);
		if (rmdir("/volume/small") < 0)
			die("/volume/small");
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*fn)(void);
	} loads[] = {
		{"image_read", image_read},
		{"scratch_write", scratch_write},
		{"volume_read", volume_read},
		{"small_files", small_files},
	};
	for (size_t i = 0; argc == 2 && i < sizeof(loads) / sizeof(loads[0]); i++)
		if (strcmp(argv[1], loads[i].name) == 0) {
			loads[i].fn();
			return 0;
		}
	fprintf(stderr, "usage: disk_load image_read|scratch_write|volume_read|small_files\n");
	return 2;
}
