/*
 * Transport, by skopeo: manifest, configuration and layer blobs into the shared blob directory.
 *
 * Credentials reach skopeo in a file of mode 0600 that exists as long as it runs. What a reference
 * stands for in its registry is asked first: that digest is the image's repo digest, and what is
 * then copied, so that a tag moving meanwhile cannot mix two images.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>
#include <openssl/evp.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "cri-server/image/internal.h"
#include "cri-server/image/reference.h"

#define INSPECT_MS 60000
#define ARGUMENTS  24

struct fetch {
	struct img *img;
	char *dir;       /* private, removed at the end */
	char *auth_file; /* NULL: none */
	int cancel_fd;
	bool tls_optional; /* a registry on this host, which containerd too asks without TLS */
};

/* ---- credentials ---- */

static char *encode_basic(const struct img_auth *auth)
{
	if (auth->auth && *auth->auth)
		return strdup(auth->auth);
	if (!auth->username || !*auth->username)
		return NULL;
	_cleanup_free_ char *plain =
		str_printf("%s:%s", auth->username, auth->password ? auth->password : "");
	if (!plain)
		return NULL;
	size_t len = strlen(plain);
	char *encoded = malloc(4 * ((len + 2) / 3) + 1);
	if (encoded)
		EVP_EncodeBlock((unsigned char *)encoded, (unsigned char *)plain, (int)len);
	return encoded;
}

static int write_auth(
	struct fetch *f, const struct reference *ref, const struct img_auth *auth, struct err *err)
{
	if (!auth)
		return 0;
	if (auth->registry_token && *auth->registry_token)
		return err_set(err, -EOPNOTSUPP, "registry tokens: not built yet");
	_cleanup_free_ char *basic = encode_basic(auth);
	const char *token =
		auth->identity_token && *auth->identity_token ? auth->identity_token : NULL;
	if (!basic && !token)
		return 0;
	_cleanup_free_ char *registry = strndup(ref->name, strcspn(ref->name, "/"));
	if (!registry)
		return err_nomem(err);
	json_t *json = json_pack(
		"{s:{s:{s:s*, s:s*}}}", "auths", registry, "auth", basic, "identitytoken", token);
	_cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	f->auth_file = text ? str_printf("%s/auth.json", f->dir) : NULL;
	if (!f->auth_file)
		return err_nomem(err);
	return fd_write_file(f->auth_file, text, strlen(text), 0600, err);
}

/* ---- skopeo ---- */

/* The error's kind is only in skopeo's words. */
static int classify(const char *text)
{
	static const struct {
		const char *words;
		int code;
	} kinds[] = {
		{"manifest unknown", -ENOENT},
		{"name unknown", -ENOENT},
		{"repository name not known", -ENOENT},
		{"not found", -ENOENT},
		{"no such file", -ENOENT},
		{"unauthorized", -EACCES},
		{"authentication required", -EACCES},
		{"denied", -EACCES},
		{"invalid username/password", -EACCES},
		{"connection refused", -EHOSTUNREACH},
		{"no such host", -EHOSTUNREACH},
		{"no route to host", -EHOSTUNREACH},
		{"i/o timeout", -EHOSTUNREACH},
		{"no space left", -ENOSPC},
		{"digest did not match", -EBADMSG},
		{"does not match", -EBADMSG},
		{"unexpected EOF", -EBADMSG},
		{"invalid character", -EBADMSG},
		{"invalid reference format", -EINVAL},
	};
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strcasestr(text, kinds[i].words))
			return kinds[i].code;
	return -EIO;
}

/* The last message, without logrus's decoration. */
static int skopeo_error(struct spawn_result *result, struct err *err)
{
	const char *text = buf_string(&result->err_tail);
	if (!text)
		return err_nomem(err);
	const char *message = NULL;
	for (const char *p = text; (p = strstr(p, "msg=\"")); p += 5)
		message = p + 5;
	char end = message ? '"' : '\n';
	if (!message)
		message = text;
	char line[600];
	size_t len = 0;
	while (*message && *message != '\n' && *message != end && len < sizeof(line) - 1) {
		message += message[0] == '\\' && message[1] && message[1] != '\n';
		line[len++] = *message++;
	}
	line[len] = '\0';
	return err_set(err, classify(line), "%s", line);
}

static int skopeo(struct fetch *f, const char *const *arguments, uint64_t timeout_ms,
	struct spawn_result *result, struct err *err)
{
	const struct img_config *c = &f->img->config;
	const char *argv[ARGUMENTS];
	size_t n = 0;
	argv[n++] = "skopeo";
	if (c->registries_conf) {
		argv[n++] = "--registries-conf";
		argv[n++] = c->registries_conf;
	}
	if (c->policy) {
		argv[n++] = "--policy";
		argv[n++] = c->policy;
	} else if (access("/etc/containers/policy.json", R_OK) < 0) {
		argv[n++] = "--insecure-policy"; /* the host states none */
	}
	while (*arguments && n < ARGUMENTS - 1)
		argv[n++] = *arguments++;
	argv[n] = NULL;
	const struct spawn_options options = {
		.argv = argv, .timeout_ms = timeout_ms, .cancel_fd = f->cancel_fd};
	int r = spawn_run(&options, result, err);
	if (r == -ENOENT) /* which would read as: no such image */
		r = err_set(err, -EIO, "there is no program skopeo");
	if (r < 0)
		return r;
	return result->exit_code ? skopeo_error(result, err) : 0;
}

static void digest_of(const void *data, size_t len, char ret[72])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned n;
	EVP_Digest(data, len, digest, &n, EVP_sha256(), NULL);
	memcpy(ret, "sha256:", sizeof("sha256:"));
	for (unsigned i = 0; i < n; i++)
		sprintf(ret + 7 + 2 * i, "%02x", digest[i]);
}

/* What the reference stands for now. */
static int resolve(struct fetch *f, const char *source, char ret_digest[72], struct err *err)
{
	const char *arguments[8];
	size_t n = 0;
	arguments[n++] = "inspect";
	arguments[n++] = "--raw";
	if (f->tls_optional)
		arguments[n++] = "--tls-verify=false";
	if (f->auth_file) {
		arguments[n++] = "--authfile";
		arguments[n++] = f->auth_file;
	}
	arguments[n++] = source;
	arguments[n] = NULL;
	struct spawn_result result = SPAWN_RESULT_INIT(MANIFEST_BYTES_MAX);
	int r = skopeo(f, arguments, INSPECT_MS, &result, err);
	if (r == 0)
		digest_of(result.out.data, result.out.len, ret_digest);
	spawn_result_done(&result);
	return r;
}

static int copy(struct fetch *f, const char *source, const char *layout, struct err *err)
{
	_cleanup_free_ char *destination = str_printf("oci:%s:image", layout);
	if (!destination)
		return err_nomem(err);
	const char *arguments[12];
	size_t n = 0;
	arguments[n++] = "copy";
	arguments[n++] = "--quiet";
	arguments[n++] = "--dest-shared-blob-dir";
	arguments[n++] = f->img->blobs;
	if (f->tls_optional)
		arguments[n++] = "--src-tls-verify=false";
	if (f->auth_file) {
		arguments[n++] = "--src-authfile";
		arguments[n++] = f->auth_file;
	}
	arguments[n++] = source;
	arguments[n++] = destination;
	arguments[n] = NULL;
	struct spawn_result result = SPAWN_RESULT_INIT(65536);
	int r = skopeo(f, arguments, f->img->config.pull_timeout_ms, &result, err);
	spawn_result_done(&result);
	return r;
}

/* ---- sources ---- */

static bool local_host(const char *name)
{
	static const char *const prefixes[] = {"localhost/", "localhost:", "127.", "[::1]"};
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

static int fetch_registry(struct fetch *f, const char *text, const struct img_auth *auth,
	const char *layout, char ret_repo_digest[72], struct err *err)
{
	struct reference ref;
	int r = reference_parse(text, &ref, err);
	if (r < 0)
		return r;
	f->tls_optional = local_host(ref.name);
	_cleanup_free_ char *wanted = ref.digest
					      ? str_printf("docker://%s@%s", ref.name, ref.digest)
					      : str_printf("docker://%s:%s", ref.name, ref.tag);
	_cleanup_free_ char *pinned = NULL;
	r = wanted ? write_auth(f, &ref, auth, err) : err_nomem(err);
	if (r == 0)
		r = resolve(f, wanted, ret_repo_digest, err);
	if (r == 0) {
		pinned = str_printf("docker://%s@%s", ref.name, ret_repo_digest);
		r = pinned ? copy(f, pinned, layout, err) : err_nomem(err);
	}
	reference_done(&ref);
	return r;
}

static int read_manifest_digest(const char *layout, char ret[72], struct err *err)
{
	_cleanup_free_ char *path = str_printf("%s/index.json", layout);
	_cleanup_free_ char *text = NULL;
	size_t len;
	if (!path)
		return err_nomem(err);
	int r = fd_read_file(path, MANIFEST_BYTES_MAX, &text, &len, err);
	return r < 0 ? r : manifest_of_layout(text, len, ret, err);
}

bool img_source_is_local(const char *source)
{
	static const char *const local[] = {"oci:/", "oci-archive:/", "docker-archive:/"};
	for (size_t i = 0; i < ARRAY_SIZE(local); i++)
		if (strncmp(source, local[i], strlen(local[i])) == 0)
			return true;
	return false;
}

int img_fetch(struct img *img, const char *source, const struct img_auth *auth, int cancel_fd,
	char ret_digest[72], char ret_repo_digest[72], struct err *err)
{
	struct fetch f = {.img = img, .cancel_fd = cancel_fd};
	f.dir = str_printf("%s/pull-XXXXXX", img->tmp);
	if (!f.dir || !mkdtemp(f.dir)) {
		free(f.dir);
		return err_errno(err, "make a directory in %s", img->tmp);
	}
	_cleanup_free_ char *layout = str_printf("%s/layout", f.dir);
	int r = layout ? 0 : err_nomem(err);
	ret_repo_digest[0] = '\0';
	if (r == 0 && img_source_is_local(source))
		r = copy(&f, source, layout, err);
	else if (r == 0)
		r = fetch_registry(&f, source, auth, layout, ret_repo_digest, err);
	if (r == 0)
		r = read_manifest_digest(layout, ret_digest, err);
	fd_remove_tree(f.dir, NULL);
	free(f.auth_file);
	free(f.dir);
	return r;
}
