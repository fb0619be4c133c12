#include "network/cni_result.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "common/log.h"
#include "network/cni_config.h"

#define IPS_MAX        256
#define INTERFACES_MAX 256
#define DNS_MAX        32
#define DNS_LEN_MAX    255
#define TRY_AGAIN      11 /* SPEC, "Error": a well-known code */

/* How much of a plugin's texts goes into a message: together they leave room for our words. */
#define QUOTE_MAX 360

char **cni_strv_free(char **strv)
{
	size_t i;

	for (i = 0; strv && strv[i]; i++)
		free(strv[i]);
	free(strv);
	return NULL;
}

/* "address" or "address/prefix"; returns 4 or 6, or 0 if it is neither. */
static int address_family(const char *text, bool with_prefix)
{
	char address[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	unsigned char bytes[sizeof(struct in6_addr)];
	unsigned long prefix;
	char *end;

	if (with_prefix != !!slash || len >= sizeof(address))
		return 0;
	memcpy(address, text, len);
	address[len] = '\0';
	prefix = with_prefix ? strtoul(slash + 1, &end, 10) : 0;
	if (with_prefix && (slash[1] < '0' || slash[1] > '9' || *end))
		return 0;
	if (inet_pton(AF_INET, address, bytes) == 1)
		return prefix <= 32 ? 4 : 0;
	if (inet_pton(AF_INET6, address, bytes) == 1)
		return prefix <= 128 ? 6 : 0;
	return 0;
}

static int want_array(
	const json_t *object, const char *key, size_t max, json_t **ret, struct err *err)
{
	json_t *array = json_object_get(object, key);

	if (json_is_null(array))
		array = NULL;
	if (array && !json_is_array(array))
		return err_set(err, -EPROTO, "its result's '%s' is not an array", key);
	if (json_array_size(array) > max)
		return err_set(err, -EPROTO, "its result has %zu '%s', allowed are %zu",
			json_array_size(array), key, max);
	*ret = array;
	return 0;
}

/* NULL where the object has none, or null in its place. */
static const json_t *get(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);

	return json_is_null(value) ? NULL : value;
}

static int check_interfaces(const json_t *result, size_t *ret_n, struct err *err)
{
	json_t *interfaces, *interface;
	size_t i;
	int r;

	r = want_array(result, "interfaces", INTERFACES_MAX, &interfaces, err);
	if (r < 0)
		return r;
	json_array_foreach(interfaces, i, interface) {
		const json_t *sandbox = get(interface, "sandbox");

		if (!json_is_string(json_object_get(interface, "name")) ||
			(sandbox && !json_is_string(sandbox)))
			return err_set(err, -EPROTO,
				"its result's interfaces[%zu] has no name or a sandbox that is no "
				"string",
				i);
	}
	*ret_n = json_array_size(interfaces);
	return 0;
}

/* Checks one of ips[] and gives it the form of the version: 0.x has the family, 1.x has not. */
static int take_ip(json_t *ip, size_t i, size_t n_interfaces, bool with_family, struct err *err)
{
	const char *address = json_string_value(json_object_get(ip, "address"));
	const json_t *interface = get(ip, "interface");
	int family = address ? address_family(address, true) : 0;
	json_int_t index = json_integer_value(interface);

	if (family == 0)
		return err_set(err, -EPROTO, "its result's ips[%zu] has no valid address", i);
	if (interface &&
		(!json_is_integer(interface) || index < 0 || (json_int_t)n_interfaces <= index))
		return err_set(err, -EPROTO,
			"its result's ips[%zu] is on an interface that it does not list", i);
	if (!with_family)
		(void)json_object_del(ip, "version");
	else if (json_object_set_new(ip, "version", json_string(family == 4 ? "4" : "6")) < 0)
		return err_nomem(err);
	return 0;
}

static int take_ips(json_t *result, const char *version, size_t n_interfaces, struct err *err)
{
	json_t *ips, *ip;
	size_t i;
	int r;

	r = want_array(result, "ips", IPS_MAX, &ips, err);
	if (r < 0)
		return r;
	json_array_foreach(ips, i, ip) {
		r = take_ip(ip, i, n_interfaces, version[0] == '0', err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Each becomes a word of a line in resolv.conf. */
static bool dns_word_is_valid(const char *word)
{
	size_t i;

	for (i = 0; word[i]; i++)
		if (word[i] <= 0x20 || word[i] >= 0x7f || i >= DNS_LEN_MAX)
			return false;
	return i > 0;
}

/* Of IPv6 a link-local one may name its interface: resolv.conf(5). */
static bool is_nameserver(const char *word)
{
	char address[INET6_ADDRSTRLEN];
	size_t len = strcspn(word, "%");
	int family;

	if (len >= sizeof(address))
		return false;
	memcpy(address, word, len);
	address[len] = '\0';
	family = address_family(address, false);
	return family == 6 || (family == 4 && !word[len]);
}

static int check_dns_list(const json_t *dns, const char *key, struct err *err)
{
	bool addresses = !strcmp(key, "nameservers");
	json_t *list, *value;
	const char *word;
	size_t i;
	int r;

	r = want_array(dns, key, DNS_MAX, &list, err);
	if (r < 0)
		return r;
	json_array_foreach(list, i, value) {
		word = json_string_value(value);
		if (!word || !dns_word_is_valid(word) || (addresses && !is_nameserver(word)))
			return err_set(
				err, -EPROTO, "its result's dns.%s[%zu] is not valid", key, i);
	}
	return 0;
}

static int check_dns(const json_t *result, struct err *err)
{
	static const char *const lists[] = {"nameservers", "search", "options"};
	const json_t *dns = get(result, "dns");
	size_t i;
	int r;

	if (!dns)
		return 0;
	if (!json_is_object(dns))
		return err_set(err, -EPROTO, "its result's 'dns' is not an object");
	for (i = 0; i < ARRAY_SIZE(lists); i++) {
		r = check_dns_list(dns, lists[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int take_version(json_t *result, const char *version, struct err *err)
{
	const json_t *own = json_object_get(result, "cniVersion");

	if (own && (!json_is_string(own) || !cni_version_known(json_string_value(own))))
		return err_set(
			err, -EPROTO, "its result has a cniVersion that is none of 0.3.0 to 1.1.0");
	if (json_object_set_new(result, "cniVersion", json_string(version)) < 0)
		return err_nomem(err);
	return 0;
}

int cni_result_parse(
	const char *text, size_t len, const char *version, json_t **ret, struct err *err)
{
	json_auto_t *result = NULL;
	json_error_t error;
	size_t n_interfaces = 0;
	int r;

	if (len == 0)
		return err_set(err, -EPROTO, "it printed no result");
	result = json_loadb(text, len, 0, &error);
	if (!result)
		return err_set(err, -EPROTO, "its result is not JSON: line %d: %s", error.line,
			error.text);
	if (!json_is_object(result))
		return err_set(err, -EPROTO, "its result is not a JSON object");
	r = take_version(result, version, err);
	if (r < 0)
		return r;
	r = check_interfaces(result, &n_interfaces, err);
	if (r < 0)
		return r;
	r = take_ips(result, version, n_interfaces, err);
	if (r < 0)
		return r;
	r = check_dns(result, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(result);
	return 0;
}

/* Whether the plugins put the address on that interface inside the pod. */
static bool ip_is_on(const json_t *result, const json_t *ip, const char *name)
{
	const json_t *index = get(ip, "interface");
	const json_t *interface;

	if (!index)
		return false;
	interface = json_array_get(
		json_object_get(result, "interfaces"), (size_t)json_integer_value(index));
	return !strcmp(json_string_value(json_object_get(interface, "name")), name) &&
	       json_string_length(json_object_get(interface, "sandbox")) > 0;
}

int cni_result_ips(const json_t *result, const char *primary, char ***ret, struct err *err)
{
	const json_t *ips = json_object_get(result, "ips");
	const json_t *ip;
	size_t i, n = 0;
	int pass;
	char **strv;

	strv = calloc(json_array_size(ips) + 1, sizeof(*strv));
	if (!strv)
		return err_nomem(err);
	for (pass = 0; pass < 2; pass++) {
		json_array_foreach(ips, i, ip) {
			if (ip_is_on(result, ip, primary) != (pass == 0))
				continue;
			strv[n] = strdup(json_string_value(json_object_get(ip, "address")));
			if (!strv[n]) {
				cni_strv_free(strv);
				return err_nomem(err);
			}
			strv[n][strcspn(strv[n], "/")] = '\0';
			n++;
		}
	}
	*ret = strv;
	return 0;
}

int cni_result_dns(const json_t *result, const char *list, char ***ret, struct err *err)
{
	const json_t *words = json_object_get(json_object_get(result, "dns"), list);
	const json_t *word;
	char **strv;
	size_t i;

	strv = calloc(json_array_size(words) + 1, sizeof(*strv));
	if (!strv)
		return err_nomem(err);
	json_array_foreach(words, i, word) {
		strv[i] = strdup(json_string_value(word));
		if (!strv[i]) {
			cni_strv_free(strv);
			return err_nomem(err);
		}
	}
	*ret = strv;
	return 0;
}

/* The beginning of a text, escaped, without the newline that ends it. */
static void quote(char out[QUOTE_MAX], const char *text, size_t len)
{
	char cut[QUOTE_MAX];

	while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		len--;
	if (len >= sizeof(cut))
		len = sizeof(cut) - 1;
	memcpy(cut, text, len);
	cut[len] = '\0';
	log_escape(out, QUOTE_MAX, cut);
}

static void quote_tail(char out[QUOTE_MAX], const char *text)
{
	size_t len = strlen(text);

	quote(out, len < QUOTE_MAX ? text : text + len - QUOTE_MAX / 2,
		len < QUOTE_MAX ? len : QUOTE_MAX / 2);
}

int cni_result_failure(
	int exit_code, const char *out, size_t out_len, const char *err_tail, struct err *err)
{
	json_auto_t *error = json_loadb(out, out_len, 0, NULL);
	const char *msg = json_string_value(json_object_get(error, "msg"));
	const char *details = json_string_value(json_object_get(error, "details"));
	json_int_t code = json_integer_value(json_object_get(error, "code"));
	char said[QUOTE_MAX], detailed[QUOTE_MAX] = "", tail[QUOTE_MAX];
	int r = code == TRY_AGAIN ? -EAGAIN : -EIO;

	quote(said, msg ? msg : out, msg ? strlen(msg) : out_len);
	if (details && *details)
		quote(detailed, details, strlen(details));
	quote_tail(tail, err_tail);
	if (msg)
		err_set(err, r, "error %" JSON_INTEGER_FORMAT ": %s%s%s", code, said,
			*detailed ? ": " : "", detailed);
	else
		err_set(err, r, "exit code %d without a CNI error%s%s", exit_code,
			out_len > 0 ? ", output " : "", out_len > 0 ? said : "");
	if (*err_tail && err) {
		size_t used = strlen(err->msg);

		(void)snprintf(err->msg + used, sizeof(err->msg) - used, "; stderr: %s", tail);
	}
	return r;
}
