/* layer-list DIRECTORY: lists a tree; statically linked, so that it runs in any container. */
#include <stdio.h>

#include "tests/layers/list.h"

int main(int argc, char **argv)
{
	if (argc != 2) {
		fputs("usage: layer-list DIRECTORY\n", stderr);
		return 2;
	}
	list_tree(argv[1]);
	return 0;
}
