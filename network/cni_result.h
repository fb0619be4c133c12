/*
 * What a CNI plugin prints: a result, checked and brought to one form, or an error.
 *
 * A plugin is trusted to configure the network and not to print sense: what it prints is bounded by
 * the caller and checked here, since it goes on to the next plugin, into our cache, to the kubelet
 * and into resolv.conf. A result is kept as JSON, because a plugin's own additions to it must reach
 * the later plugins of the list. Threads: any.
 */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "common/err.h"

#define CNI_OUTPUT_MAX_BYTES (1u << 20)

/*
 * Parses a result that a plugin answered to a configuration of the given version. Results of
 * another known version are converted to it: between 0.3.x and 1.x they differ in ips[].version
 * alone. -EPROTO for anything that is not a result.
 */
int cni_result_parse(
	const char *text, size_t len, const char *version, json_t **ret, struct err *err);

/*
 * The addresses without prefix length, those of interface `primary` first, then in the plugins'
 * order. NULL-terminated; freed with cni_strv_free().
 */
int cni_result_ips(const json_t *result, const char *primary, char ***ret, struct err *err);

/* A list of dns ("nameservers", "search", "options"), as for cni_result_ips(). May be empty. */
int cni_result_dns(const json_t *result, const char *list, char ***ret, struct err *err);

/*
 * Turns a plugin's failure, its output and the end of its stderr (either may be empty) into a
 * message: -EAGAIN where it asked to try again later (code 11), else -EIO.
 */
int cni_result_failure(
	int exit_code, const char *out, size_t out_len, const char *err_tail, struct err *err);

char **cni_strv_free(char **strv);
