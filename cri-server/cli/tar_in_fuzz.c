/*
 * What a container sends as the archive that `bulkheadctl cp` asked for. Whatever it is, nothing
 * but "to" appears in the place, and nothing beside the place.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/tar_in.h"

#define BYTES_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_entries(const char *path, const char *only)
{
	DIR *dir = opendir(path);
	if (!dir)
		abort();
	for (const struct dirent *entry; (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
			strcmp(entry->d_name, only) != 0)
			abort();
	closedir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char top[] = "/tmp/tar-in-fuzz-XXXXXX", place[64];
	_cleanup_close_ int archive = memfd_create("archive", MFD_CLOEXEC);
	if (archive < 0 || fd_write_all(archive, data, size, NULL) < 0 ||
		lseek(archive, 0, SEEK_SET) < 0 || !mkdtemp(top))
		abort();
	snprintf(place, sizeof(place), "%s/place", top);
	_cleanup_close_ int dir = -EBADF;
	if (mkdir(place, 0700) < 0 || (dir = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		abort();
	struct tar_in in = {.dir = dir, .from = "from", .to = "to", .bytes_max = BYTES_MAX};
	tar_in_read(&in, archive, NULL);
	check_entries(top, "place");
	check_entries(place, "to");
	if (fd_remove_tree(top, NULL) < 0)
		abort();
	return 0;
}
