/* A registry's documents: the first byte of the input chooses which. */
#include "cri-server/image/manifest.h"

#include <stdlib.h>

#include "common/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse_config(const char *json, size_t len, size_t n_layers)
{
	char *ids[3] = {NULL};
	Bulkhead__Store__ImageConfig *config;
	if (manifest_parse_config(json, len, n_layers, &config, ids, NULL) < 0)
		return;
	bulkhead__store__image_config__free_unpacked(config, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		free(ids[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *json = (const char *)data + 1;
	char digest[72];
	struct manifest manifest;
	if (!size)
		return 0;
	switch (data[0]) {
	case 'i':
		manifest_of_layout(json, size - 1, digest, NULL);
		break;
	case 'c':
		manifest_choose(json, size - 1, digest, NULL);
		break;
	case 'm':
		if (manifest_parse(json, size - 1, &manifest, NULL) == 0)
			manifest_done(&manifest);
		break;
	default:
		parse_config(json, size - 1, data[0] & 3);
	}
	return 0;
}
