#include "cri-server/cli/copy_args.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The colon of "CONTAINER:PATH", or NULL. */
static const char *find_colon(const char *text)
{
	const char *colon = text + strcspn(text, ":/");
	return *colon == ':' && colon > text ? colon : NULL;
}

int copy_args_parse(const char *from, const char *to, struct copy_args *ret, struct err *err)
{
	const char *from_colon = find_colon(from), *to_colon = find_colon(to);
	if (!from_colon == !to_colon)
		return err_set(err, -EINVAL,
			"one of '%s' and '%s' must be CONTAINER:PATH, the other a path here", from,
			to);
	const char *remote = from_colon ? from : to, *local = from_colon ? to : from;
	const char *colon = from_colon ? from_colon : to_colon;
	if (strlen(remote) >= COPY_TEXT_MAX || strlen(local) >= COPY_TEXT_MAX)
		return err_set(err, -ENAMETOOLONG, "a path is too long");
	if (!colon[1] || !local[0])
		return err_set(err, -EINVAL, "a path is empty");
	ret->out = from_colon != NULL;
	snprintf(ret->container, COPY_TEXT_MAX, "%.*s", (int)(colon - remote), remote);
	snprintf(ret->inside, COPY_TEXT_MAX, "%s", colon + 1);
	snprintf(ret->local, COPY_TEXT_MAX, "%s", local);
	return 0;
}

int copy_split(
	const char *path, char directory[COPY_TEXT_MAX], char name[COPY_TEXT_MAX], struct err *err)
{
	size_t end = strlen(path), begin;
	while (end && path[end - 1] == '/')
		end--;
	for (begin = end; begin && path[begin - 1] != '/';)
		begin--;
	snprintf(name, COPY_TEXT_MAX, "%.*s", (int)(end - begin), path + begin);
	if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return err_set(err, -EINVAL, "'%s' does not end with a name", path);
	while (begin > 1 && path[begin - 1] == '/')
		begin--;
	snprintf(directory, COPY_TEXT_MAX, "%.*s", begin ? (int)begin : 1, begin ? path : ".");
	return 0;
}
