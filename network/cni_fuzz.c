/*
 * Configuration files and plugin results. The first byte chooses: 'c' a configuration, 'f' the
 * output of a plugin that failed, all others a result.
 */
#include <stdint.h>
#include <stdlib.h>

#include "network/attachment.h"
#include "network/cni_config.h"
#include "network/cni_result.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_config(const char *text, size_t len)
{
	const struct net_port_mapping port = {NET_TCP, 80, 8080, NULL};
	const struct net_pod_spec spec = {
		"pod1", "web", "default", "u-1", {.ports = &port, .n_ports = 1}};
	struct attachment *attachment = NULL;
	struct cni_config *config = NULL;
	struct err err = ERR_INIT;

	if (cni_config_parse("file", text, len, &config, &err) < 0)
		return;
	(void)cni_config_check_plugins(config, "/nonexistent", &err);
	if (attachment_new(config, &spec, "/netns", &attachment, &err) < 0)
		abort();
	attachment_free(attachment);
	cni_config_free(config);
}

static void try_result(const char *text, size_t len)
{
	json_auto_t *result = NULL;
	struct err err = ERR_INIT;
	char **strv;

	if (cni_result_parse(text, len, len % 2 ? "0.4.0" : "1.0.0", &result, &err) < 0)
		return;
	if (cni_result_ips(result, "eth0", &strv, &err) < 0)
		abort();
	cni_strv_free(strv);
	if (cni_result_dns(result, "nameservers", &strv, &err) < 0)
		abort();
	cni_strv_free(strv);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 1;
	struct err err = ERR_INIT;

	if (size == 0)
		return 0;
	if (data[0] == 'c')
		try_config(text, size - 1);
	else if (data[0] == 'f')
		(void)cni_result_failure(1, text, size - 1, "", &err);
	else
		try_result(text, size - 1);
	return 0;
}
