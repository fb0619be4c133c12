/*
 * Labels and the selectors of lists, which are compared under the runtime's lock.
 */
#include <errno.h>
#include <string.h>

#include "cri-server/runtime/internal.h"

int labels_check(const char *noun, size_t n, size_t max, struct err *err)
{
	return n <= max ? 0 : err_set(err, -EINVAL, "%zu %s are more than %zu", n, noun, max);
}

/* Of entries with one key the last counts, as protobuf has it; NULL: there is none. */
static const char *label_value(void *const *labels, size_t n, const char *key)
{
	while (n-- > 0) {
		/* protobuf-c makes one type for each map; all are {base, key, value}. */
		const Runtime__V1__PodSandboxConfig__LabelsEntry *label = labels[n];
		if (strcmp(label->key, key) == 0)
			return label->value;
	}
	return NULL;
}

bool labels_match(void *const *wanted, size_t n_wanted, void *const *labels, size_t n_labels)
{
	for (size_t i = 0; i < n_wanted; i++) {
		const Runtime__V1__PodSandboxConfig__LabelsEntry *entry = wanted[i];
		const char *key = entry->key;
		const char *value = label_value(labels, n_labels, key);
		if (!value || strcmp(value, label_value(wanted, n_wanted, key)) != 0)
			return false;
	}
	return true;
}
