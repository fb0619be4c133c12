/* A tree as text: a line for each name, with all that stat(2) and the attributes say of it, and its
 * content's hash. */
#pragma once

/* Lists what is below path on its file system, by name; ends the program on errors. */
void list_tree(const char *path);
