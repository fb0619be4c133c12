#include "cri-server/image/reference.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "common/fd.h"

#define NAME_MAX_LEN 255
#define TAG_MAX_LEN  128
#define SHA256_HEX   64

bool reference_is_hex(const char *text)
{
	return strlen(text) == SHA256_HEX && strspn(text, "0123456789abcdef") == SHA256_HEX;
}

bool reference_is_digest(const char *text)
{
	return strncmp(text, "sha256:", 7) == 0 && reference_is_hex(text + 7);
}

static bool is_domain(const char *text, size_t len)
{
	if (len == strlen("localhost") && memcmp(text, "localhost", len) == 0)
		return true;
	for (size_t i = 0; i < len; i++)
		if (text[i] == '.' || text[i] == ':' || isupper((unsigned char)text[i]))
			return true;
	return false;
}

/* Letters, digits, '-', '.', with an optional port; or a bracketed IPv6 address. */
static bool domain_valid(const char *text, size_t len)
{
	bool bracketed = len && text[0] == '[';
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		if (!isalnum(c) && c != '.' && c != '-' && c != ':' &&
			!(bracketed && (c == '[' || c == ']')))
			return false;
	}
	return len && text[0] != '-' && text[0] != '.' && text[len - 1] != ':';
}

/* One component: runs of [a-z0-9] joined by '.', '_', '__' or dashes. */
static bool component_valid(const char *text, size_t len)
{
	bool after_run = false;
	for (size_t i = 0; i < len;) {
		unsigned char c = (unsigned char)text[i];
		if (islower(c) || isdigit(c)) {
			after_run = true;
			i++;
			continue;
		}
		size_t n = 0;
		while (i + n < len && text[i + n] == (char)c)
			n++;
		bool separator = (c == '.' && n == 1) || (c == '_' && n <= 2) || c == '-';
		if (!separator || !after_run || i + n == len)
			return false;
		after_run = false;
		i += n;
	}
	return after_run;
}

static bool path_valid(const char *path)
{
	for (;;) {
		size_t len = strcspn(path, "/");
		if (!component_valid(path, len))
			return false;
		if (!path[len])
			return true;
		path += len + 1;
	}
}

static bool tag_valid(const char *tag)
{
	size_t len = strlen(tag);
	if (!len || len > TAG_MAX_LEN || tag[0] == '.' || tag[0] == '-')
		return false;
	for (; *tag; tag++)
		if (!isalnum((unsigned char)*tag) && !strchr("._-", *tag))
			return false;
	return true;
}

static int invalid(const char *text, const char *why, struct err *err)
{
	return err_set(err, -EINVAL, "image reference '%.200s': %s", text, why);
}

/* Domain and path, completed, from what stands before tag and digest. */
static int complete_name(const char *text, const char *name, struct reference *ret, struct err *err)
{
	size_t first = strcspn(name, "/");
	bool has_domain = name[first] && is_domain(name, first);
	const char *path = has_domain ? name + first + 1 : name;

	if (has_domain && !domain_valid(name, first))
		return invalid(text, "the registry's name is not valid", err);
	if (!path_valid(path))
		return invalid(text,
			"the name must be lower-case letters, digits and single separators", err);
	if (!has_domain || (first == 9 && strncmp(name, "docker.io", 9) == 0) ||
		(first == 15 && strncmp(name, "index.docker.io", 15) == 0))
		ret->name = str_printf("docker.io/%s%s", strchr(path, '/') ? "" : "library/", path);
	else
		ret->name = strdup(name);
	if (!ret->name)
		return err_nomem(err);
	return strlen(ret->name) > NAME_MAX_LEN ? invalid(text, "the name is too long", err) : 0;
}

static int parse(const char *text, char *work, struct reference *ret, struct err *err)
{
	char *digest = strchr(work, '@');
	if (digest) {
		*digest++ = '\0';
		if (!reference_is_digest(digest))
			return invalid(
				text, "the digest must be sha256: and 64 hexadecimal digits", err);
		ret->digest = strdup(digest);
		if (!ret->digest)
			return err_nomem(err);
	}
	char *slash = strrchr(work, '/');
	char *colon = strchr(slash ? slash : work, ':');
	if (colon) {
		*colon++ = '\0';
		if (!tag_valid(colon))
			return invalid(text, "the tag is not valid", err);
	}
	if (colon || !digest) {
		ret->tag = strdup(colon ? colon : "latest");
		if (!ret->tag)
			return err_nomem(err);
	}
	return complete_name(text, work, ret, err);
}

int reference_parse(const char *text, struct reference *ret, struct err *err)
{
	struct reference reference = {0};
	if (!*text)
		return err_set(err, -EINVAL, "the image reference is empty");
	if (strlen(text) > REFERENCE_MAX)
		return invalid(text, "it is too long", err);
	if (reference_is_hex(text))
		return invalid(text, "64 hexadecimal digits are the id of an image, no name", err);
	_cleanup_free_ char *work = strdup(text);
	if (!work)
		return err_nomem(err);
	int r = parse(text, work, &reference, err);
	if (r < 0) {
		reference_done(&reference);
		return r;
	}
	*ret = reference;
	return 0;
}

void reference_done(struct reference *reference)
{
	free(reference->name);
	free(reference->tag);
	free(reference->digest);
	*reference = (struct reference){0};
}
