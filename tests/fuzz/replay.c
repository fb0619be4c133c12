/*
 * Runs a fuzz target over files, without a fuzzer: those given as arguments, files or directories,
 * or tests/fuzz/corpus/<name of the program>. Prints the results as TAP; a crash is the program's.
 */
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fd.h"

#define INPUT_MAX_BYTES (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool replay_file(const char *path, unsigned *n)
{
	_cleanup_free_ char *data = NULL;
	size_t len;
	struct err err = ERR_INIT;
	bool ok = fd_read_file(path, INPUT_MAX_BYTES, &data, &len, &err) == 0;
	/* Without slack behind it, so that a sanitizer sees a read beyond the end. */
	_cleanup_free_ uint8_t *input = ok ? malloc(len ? len : 1) : NULL;
	if (input) {
		memcpy(input, data, len);
		LLVMFuzzerTestOneInput(input, len);
	}
	ok = input != NULL;
	printf("%s %u - %s%s%s\n", ok ? "ok" : "not ok", ++*n, path, ok ? "" : ": ", err.msg);
	fflush(stdout);
	return ok;
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static bool replay(const char *path, unsigned *n)
{
	struct stat st;
	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return replay_file(path, n);

	struct dirent **entries;
	int count = scandir(path, &entries, is_visible, alphasort);
	bool ok = count > 0;
	if (!ok)
		printf("not ok %u - %s: no input in it\n", ++*n, path);
	for (int i = 0; i < count; i++) {
		_cleanup_free_ char *child = str_printf("%s/%s", path, entries[i]->d_name);
		ok = child && replay(child, n) && ok;
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	return ok;
}

int main(int argc, char **argv)
{
	unsigned n = 0;
	bool ok = true;
	for (int i = 1; i < argc; i++)
		ok = replay(argv[i], &n) && ok;
	if (argc == 1) {
		_cleanup_free_ char *corpus =
			str_printf("tests/fuzz/corpus/%s", program_invocation_short_name);
		ok = corpus && replay(corpus, &n);
	}
	printf("1..%u\n", n);
	return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
