/*
 * Transport, by skopeo: manifest, configuration and layer blobs into the shared blob directory.
 *
 * Credentials reach skopeo in a file of mode 0600 that exists as long as the pull.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "cri-server/image/pull.h"

#define ARGUMENTS   24
#define HOST_POLICY "/etc/containers/policy.json"

/* ---- credentials ---- */

static char *encode(const char *user, const char *password)
{
	char *plain = str_printf("%s:%s", user, password ? password : "");
	if (!plain)
		return NULL;
	size_t len = strlen(plain);
	char *encoded = malloc(4 * ((len + 2) / 3) + 1);
	if (encoded)
		EVP_EncodeBlock((unsigned char *)encoded, (unsigned char *)plain, (int)len);
	OPENSSL_cleanse(plain, len);
	free(plain);
	return encoded;
}

/* "user:password" in base64, where white space and NULs around the password do not count. */
static int check_encoded(const char *text, char **ret, struct err *err)
{
	size_t len = strcspn(text, " \t\r\n");
	char *decoded = calloc(1, len + 4);
	if (!decoded)
		return err_nomem(err);
	int n = text[len + strspn(text + len, " \t\r\n")] || len > INT_MAX
			? -1
			: EVP_DecodeBlock(
				  (unsigned char *)decoded, (const unsigned char *)text, (int)len);
	char *colon = n < 0 ? NULL : memchr(decoded, ':', (size_t)n);
	if (colon) /* as a string it ends at the first NUL */
		*ret = (*colon = '\0', encode(decoded, colon + 1));
	int r = !colon  ? err_set(err, -EINVAL,
				  "the credentials' auth is not the base64 of user:password")
		: !*ret ? err_nomem(err)
			: 0;
	OPENSSL_cleanse(decoded, len + 4);
	free(decoded);
	return r;
}

static bool is_docker_hub(const char *host, size_t len)
{
	static const char *const names[] = {"docker.io", "index.docker.io", "registry-1.docker.io"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strlen(names[i]) == len && strncasecmp(names[i], host, len) == 0)
			return true;
	return false;
}

/* Whether credentials for the address, which may be a URL, are meant for the registry. */
static bool serves(const char *address, const char *registry)
{
	const char *scheme = strstr(address, "://");
	const char *host = scheme ? scheme + 3 : address;
	size_t len = strcspn(host, "/?#"), want = strlen(registry);
	return (len == want && strncasecmp(host, registry, len) == 0) ||
	       (is_docker_hub(registry, want) && is_docker_hub(host, len));
}

static bool given(const char *text)
{
	return text && *text;
}

int transport_auth_json(const char *name, const struct img_auth *auth, char **ret, struct err *err)
{
	_cleanup_free_ char *registry = strndup(name, strcspn(name, "/"));
	char *basic = NULL;
	const char *token = NULL;
	int r = 0;
	*ret = NULL;
	if (!registry)
		return err_nomem(err);
	if (given(auth->server_address) && !serves(auth->server_address, registry))
		return 0;
	if (given(auth->username)) {
		basic = encode(auth->username, auth->password);
	} else if (given(auth->identity_token)) {
		token = auth->identity_token;
		basic = encode("token", ""); /* or skopeo does not look at the token */
	} else if (given(auth->auth)) {
		r = check_encoded(auth->auth, &basic, err);
	} else {
		return 0;
	}
	if (r < 0 || !basic)
		return r < 0 ? r : err_nomem(err);
	json_t *json = json_pack(
		"{s:{s:{s:s, s:s*}}}", "auths", registry, "auth", basic, "identitytoken", token);
	*ret = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	OPENSSL_cleanse(basic, strlen(basic));
	free(basic);
	return *ret ? 0 : err_nomem(err);
}

static int write_auth(
	struct transport *t, const char *name, const struct img_auth *auth, struct err *err)
{
	char *text = NULL;
	int r = transport_auth_json(name, auth, &text, err);
	if (r < 0 || !text)
		return r;
	t->auth_file = str_printf("%s/auth.json", t->dir);
	r = t->auth_file ? fd_write_file(t->auth_file, text, strlen(text), 0600, err)
			 : err_nomem(err);
	OPENSSL_cleanse(text, strlen(text));
	free(text);
	return r;
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
		{"rejected", -EACCES}, /* by the signature policy */
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

/* What follows an URL's '?' may be a signature, with which anybody has the blob. */
static void hide_queries(char *line)
{
	for (char *p = line; (p = strstr(p, "://"));) {
		char *query = p + strcspn(p, "?");
		p += strcspn(p, " \"");
		if (query + 4 > p)
			continue; /* none, or nothing that could be one */
		memcpy(query, "?...", 4);
		memmove(query + 4, p, strlen(p) + 1);
		p = query + 4;
	}
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
	hide_queries(line);
	return err_set(err, classify(line), "%s", line);
}

/*
 * skopeo looks into the home of whoever runs it for logins at registries. Those are root's, and a
 * pod that names an image has none but its own: it gets a home with nothing in it. The list is the
 * caller's, the strings are not.
 */
static const char **make_environment(const char *home, const char *runtime_dir)
{
	static const char *const left_out[] = {"HOME=", "XDG_RUNTIME_DIR=", "XDG_CONFIG_HOME=",
		"DOCKER_CONFIG=", "REGISTRY_AUTH_FILE="};
	size_t n = 0, all = 0;
	while (environ[all])
		all++;
	const char **list = calloc(all + 3, sizeof(*list));
	for (size_t i = 0; list && i < all; i++) {
		bool keep = true;
		for (size_t k = 0; k < ARRAY_SIZE(left_out); k++)
			keep &= strncmp(environ[i], left_out[k], strlen(left_out[k])) != 0;
		if (keep)
			list[n++] = environ[i];
	}
	if (list) {
		list[n++] = home;
		list[n] = runtime_dir;
	}
	return list;
}

static int skopeo(struct transport *t, const char *const *arguments, uint64_t timeout_ms,
	struct spawn_result *result, struct err *err)
{
	const struct img_config *c = &t->img->config;
	const char *argv[ARGUMENTS];
	size_t n = 0;
	argv[n++] = "skopeo";
	argv[n++] = "--tmpdir"; /* it unpacks archives there, and leaves them where it is killed */
	argv[n++] = t->dir;
	if (c->registries_conf) {
		argv[n++] = "--registries-conf";
		argv[n++] = c->registries_conf;
	}
	if (c->policy) {
		argv[n++] = "--policy";
		argv[n++] = c->policy;
	} else if (access(HOST_POLICY, R_OK) < 0) {
		argv[n++] = "--insecure-policy"; /* the host states none */
	}
	while (*arguments && n < ARGUMENTS - 1)
		argv[n++] = *arguments++;
	argv[n] = NULL;
	_cleanup_free_ char *home = str_printf("HOME=%s", t->dir);
	_cleanup_free_ char *runtime_dir = str_printf("XDG_RUNTIME_DIR=%s", t->dir);
	_cleanup_free_ const char **env =
		home && runtime_dir ? make_environment(home, runtime_dir) : NULL;
	if (!env)
		return err_nomem(err);
	const struct spawn_options options = {
		.argv = argv, .env = env, .timeout_ms = timeout_ms, .cancel_fd = t->cancel_fd};
	int r = spawn_run(&options, result, err);
	if (r == -ENOENT) /* which would read as: no such image */
		r = err_set(err, -EIO, "there is no program skopeo");
	if (r < 0)
		return r;
	return result->exit_code ? skopeo_error(result, err) : 0;
}

int transport_inspect(
	struct transport *t, const char *source, bool config, struct buf *out, struct err *err)
{
	const char *arguments[8];
	size_t n = 0;
	arguments[n++] = "inspect";
	arguments[n++] = "--raw";
	if (config)
		arguments[n++] = "--config";
	if (t->tls_optional)
		arguments[n++] = "--tls-verify=false";
	if (t->auth_file) {
		arguments[n++] = "--authfile";
		arguments[n++] = t->auth_file;
	}
	arguments[n++] = source;
	arguments[n] = NULL;
	struct spawn_result result = SPAWN_RESULT_INIT(out->max);
	uint64_t timeout_ms = t->img->config.pull_timeout_ms;
	int r = skopeo(t, arguments, timeout_ms, &result, err);
	if (r == -ETIMEDOUT)
		r = err_set(err, r,
			"the registry has not sent the %s for %llu ms (images.pull_timeout_ms)",
			config ? "config" : "manifest", (unsigned long long)timeout_ms);
	if (r == -ENOBUFS)
		r = err_set(err, -EBADMSG, "image %s: it has more than %zu bytes",
			config ? "config" : "manifest", out->max);
	if (r == 0) {
		buf_done(out);
		*out = result.out;
		result.out = (struct buf){0};
	}
	spawn_result_done(&result);
	return r;
}

int transport_copy(struct transport *t, const char *source, struct err *err)
{
	_cleanup_free_ char *destination = str_printf("oci:%s:image", t->layout);
	if (!destination)
		return err_nomem(err);
	const char *arguments[12];
	size_t n = 0;
	arguments[n++] = "copy";
	arguments[n++] = "--quiet";
	if (t->tls_optional)
		arguments[n++] = "--src-tls-verify=false";
	if (t->auth_file) {
		arguments[n++] = "--src-authfile";
		arguments[n++] = t->auth_file;
	}
	arguments[n++] = source;
	arguments[n++] = destination;
	arguments[n] = NULL;
	struct spawn_result result = SPAWN_RESULT_INIT(65536);
	int r = skopeo(t, arguments, 0, &result, err); /* who waits looks after its progress */
	spawn_result_done(&result);
	return r;
}

static bool accepts_anything(const json_t *requirements)
{
	size_t i;
	const json_t *one;
	bool all = json_array_size(requirements) > 0;
	json_array_foreach(requirements, i, one) {
		const char *type = json_string_value(json_object_get(one, "type"));
		all &= type && strcmp(type, "insecureAcceptAnything") == 0;
	}
	return all;
}

bool transport_has_policy(const struct transport *t)
{
	const char *path = t->img->config.policy, *name;
	if (!path && access(HOST_POLICY, R_OK) < 0)
		return false;
	json_t *policy = json_load_file(path ? path : HOST_POLICY, 0, NULL);
	json_t *scopes, *requirements;
	bool all = accepts_anything(json_object_get(policy, "default"));
	json_object_foreach(json_object_get(policy, "transports"), name, scopes)
		json_object_foreach(scopes, name, requirements)
			all &= accepts_anything(requirements);
	json_decref(policy);
	return !all;
}

char *transport_blob_path(const struct transport *t, const char *digest)
{
	return str_printf("%s/blobs/sha256/%s", t->layout, digest + strlen("sha256:"));
}

/* ---- open and close ---- */

bool transport_is_local(const char *name)
{
	size_t len = strcspn(name, "/");
	const char *end = memchr(name, ']', len); /* of an IPv6 address */
	len = end ? (size_t)(end + 1 - name) : strcspn(name, ":/");
	_cleanup_free_ char *host = strndup(name, len);
	struct in_addr address;
	if (!host)
		return false;
	if (inet_pton(AF_INET, host, &address) == 1)
		return ntohl(address.s_addr) >> 24 == IN_LOOPBACKNET;
	return strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0;
}

int transport_open(struct transport *t, struct img *img, const char *name,
	const struct img_auth *auth, int cancel_fd, struct err *err)
{
	*t = (struct transport){.img = img, .cancel_fd = cancel_fd};
	t->tls_optional = name && transport_is_local(name);
	t->dir = str_printf("%s/pull-XXXXXX", img->tmp);
	if (!t->dir)
		return err_nomem(err);
	if (!mkdtemp(t->dir)) {
		free(t->dir);
		t->dir = NULL;
		return err_errno(err, "make a directory in %s", img->tmp);
	}
	t->layout = str_printf("%s/layout", t->dir);
	if (!t->layout)
		return err_nomem(err);
	return name ? write_auth(t, name, auth, err) : 0;
}

void transport_close(struct transport *t)
{
	if (t->dir)
		fd_remove_tree(t->dir, NULL);
	free(t->dir);
	free(t->layout);
	free(t->auth_file);
	*t = (struct transport){.cancel_fd = -EBADF};
}

bool img_source_is_local(const char *source)
{
	static const char *const local[] = {"oci:/", "oci-archive:/", "docker-archive:/"};
	for (size_t i = 0; i < ARRAY_SIZE(local); i++)
		if (strncmp(source, local[i], strlen(local[i])) == 0)
			return true;
	return false;
}
