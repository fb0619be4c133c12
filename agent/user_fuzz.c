/*
 * The container's /etc/passwd and /etc/group: the input is a user's name, the one file and the
 * other, each ended by a NUL.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/user.h"
#include "common/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The next part as a string of its own, so that a sanitizer sees its end. */
static char *next_part(const uint8_t **data, size_t *size)
{
	size_t len = strnlen((const char *)*data, *size);
	char *part = strndup((const char *)*data, len);
	len += len < *size;
	*data += len;
	*size -= len;
	return part;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *name = next_part(&data, &size);
	_cleanup_free_ char *passwd = next_part(&data, &size);
	_cleanup_free_ char *group = next_part(&data, &size);
	Bulkhead__Agent__User wanted = BULKHEAD__AGENT__USER__INIT;
	struct user user;
	struct err err = ERR_INIT;
	wanted.name = name;
	if (user_resolve_text(passwd, group, &wanted, &user, &err) == 0 &&
		(user.n_groups == 0 || user.n_groups > USER_GROUPS_MAX || user.home[0] != '/'))
		abort();
	return 0;
}
