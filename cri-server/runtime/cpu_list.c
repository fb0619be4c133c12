#include "cri-server/runtime/cpu_list.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"

/* Ten characters and a comma at most for each two. */
#define TEXT_BYTES_MAX (CPU_LIST_MAX * 6)

static bool take_number(const char **at, unsigned *ret)
{
	unsigned number = 0;
	size_t digits = strspn(*at, "0123456789");
	for (size_t i = 0; i < digits && number < CPU_LIST_MAX; i++)
		number = number * 10 + (unsigned)((*at)[i] - '0');
	*at += digits;
	*ret = number;
	return digits && number < CPU_LIST_MAX;
}

static bool take_range(const char **at, struct cpu_list *list)
{
	unsigned first, last;
	if (!take_number(at, &first))
		return false;
	last = first;
	if (**at == '-') {
		(*at)++;
		if (!take_number(at, &last) || last < first)
			return false;
	}
	for (unsigned i = first; i <= last; i++)
		list->bits[i / 64] |= UINT64_C(1) << i % 64;
	return true;
}

int cpu_list_add(struct cpu_list *list, const char *text, struct err *err)
{
	const char *at = text;
	bool good = take_range(&at, list);
	while (good && *at == ',') {
		at++;
		good = take_range(&at, list);
	}
	return good && !*at ? 0
			    : err_set(err, -EINVAL,
				      "'%.64s' is no list such as 0-3,8 of numbers below %d", text,
				      CPU_LIST_MAX);
}

static bool has(const struct cpu_list *list, unsigned i)
{
	return i < CPU_LIST_MAX && list->bits[i / 64] >> i % 64 & 1;
}

char *cpu_list_text(const struct cpu_list *list)
{
	struct buf text = buf_init(TEXT_BYTES_MAX);
	int r = 0;
	for (unsigned i = 0; i < CPU_LIST_MAX && r == 0; i++) {
		unsigned first = i;
		if (!has(list, i))
			continue;
		while (has(list, i + 1))
			i++;
		r = buf_printf(&text, "%s%u", text.len ? "," : "", first);
		if (r == 0 && i > first)
			r = buf_printf(&text, "-%u", i);
	}
	char *copy = r == 0 ? strndup(text.len ? text.data : "", text.len) : NULL;
	buf_done(&text);
	return copy;
}
