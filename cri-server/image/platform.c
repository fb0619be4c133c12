/*
 * Which of an index's manifests is this node's. Sources: OCI image-spec image-index.md, Docker
 * manifest list v2, Go's names of architectures.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include <jansson.h>

#include "common/fd.h"
#include "cri-server/image/manifest.h"
#include "cri-server/image/reference.h"

#define VARIANTS_MAX 5

struct platform {
	const char *machine; /* uname's */
	const char *architecture;
	/* Those it runs, the best one first; "" is: none said. */
	const char *variants[VARIANTS_MAX];
};

static const struct platform platforms[] = {
	{"x86_64", "amd64", {"", "v1"}},
	{"aarch64", "arm64", {"v8", ""}},
	{"armv8l", "arm", {"v8", "v7", "v6", "v5", ""}},
	{"armv7l", "arm", {"v7", "", "v6", "v5"}},
	{"armv6l", "arm", {"v6", "", "v5"}},
	{"i686", "386", {""}},
	{"i586", "386", {""}},
	{"ppc64le", "ppc64le", {""}},
	{"s390x", "s390x", {""}},
	{"riscv64", "riscv64", {""}},
	{"loongarch64", "loong64", {""}},
};

static const struct platform *this_platform(void)
{
	struct utsname names;
	if (uname(&names) == 0)
		for (size_t i = 0; i < ARRAY_SIZE(platforms); i++)
			if (strcmp(names.machine, platforms[i].machine) == 0)
				return &platforms[i];
	return NULL;
}

const char *manifest_architecture(void)
{
	const struct platform *platform = this_platform();
	return platform ? platform->architecture : "unknown";
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text ? text : "";
}

/* How well it fits, 0 best; -1: not at all. What does not say its platform is better than nothing.
 */
static int rank(const json_t *entry)
{
	const struct platform *here = this_platform();
	const json_t *platform = json_object_get(entry, "platform");
	if (!platform || json_is_null(platform))
		return VARIANTS_MAX;
	if (!here || strcmp(text_of(platform, "os"), "linux") != 0 ||
		strcmp(text_of(platform, "architecture"), here->architecture) != 0)
		return -1;
	for (size_t i = 0; i < VARIANTS_MAX && here->variants[i]; i++)
		if (strcmp(text_of(platform, "variant"), here->variants[i]) == 0)
			return (int)i;
	return -1;
}

static int choose(const json_t *manifests, char ret_digest[72], struct err *err)
{
	int best = -1;
	const char *digest = NULL;
	size_t i;
	const json_t *entry;
	json_array_foreach(manifests, i, entry) {
		int how = rank(entry);
		if (how < 0 || (best >= 0 && how >= best))
			continue;
		best = how;
		digest = text_of(entry, "digest");
	}
	if (!digest)
		return err_set(err, -EBADMSG,
			"image index: none of its %zu manifests is for linux/%s",
			json_array_size(manifests), manifest_architecture());
	if (!reference_is_digest(digest))
		return err_set(err, -EBADMSG, "image index: an entry has no sha256 digest");
	memcpy(ret_digest, digest, strlen(digest) + 1);
	return best == 0 ? 1 : 2;
}

int manifest_choose(const char *text, size_t len, char ret_digest[72], struct err *err)
{
	json_t *json = manifest_load("manifest", text, len, err);
	if (!json)
		return -EBADMSG;
	const json_t *manifests = json_object_get(json, "manifests");
	const json_t *version = json_object_get(json, "schemaVersion");
	int r = 0;
	if (json_is_integer(version) && json_integer_value(version) != 2)
		r = err_set(err, -EBADMSG,
			"image manifest: it is of schema version %lld; only 2 is supported",
			(long long)json_integer_value(version));
	else if (manifests && !json_is_array(manifests))
		r = err_set(err, -EBADMSG, "image index: 'manifests' is not a list");
	else if (manifests)
		r = choose(manifests, ret_digest, err);
	json_decref(json);
	return r;
}
