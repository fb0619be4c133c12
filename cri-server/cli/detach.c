#include "cri-server/cli/detach.h"

#define FIRST_KEY  0x10 /* Ctrl-P */
#define SECOND_KEY 0x11 /* Ctrl-Q */

bool detach_filter(
	struct detach_keys *keys, const char *data, size_t len, char *ret_typed, size_t *ret_len)
{
	*ret_len = 0;
	for (size_t i = 0; i < len; i++) {
		if (keys->held && data[i] == SECOND_KEY)
			return true;
		if (keys->held)
			ret_typed[(*ret_len)++] = FIRST_KEY;
		keys->held = data[i] == FIRST_KEY;
		if (!keys->held)
			ret_typed[(*ret_len)++] = data[i];
	}
	return false;
}
