/* Whether a client may ask for such a pod, before anything is made. */
#include <errno.h>
#include <string.h>

#include "cri-server/runtime/cgroup_parent.h"
#include "cri-server/runtime/internal.h"

/* RFC 1123, and the kernel's limit on a host name. */
#define HOSTNAME_MAX 64
/* A client's label or annotation beyond this is a mistake; etcd holds no more for a whole object.
 */
#define CONFIG_MAX (1u << 20)

static int check_ports(const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	for (size_t i = 0; i < config->n_port_mappings; i++) {
		const Runtime__V1__PortMapping *p = config->port_mappings[i];
		if (p->protocol > RUNTIME__V1__PROTOCOL__SCTP)
			return err_set(err, -EINVAL, "port mapping %zu: unknown protocol %d", i,
				p->protocol);
		if (p->host_port < 0 || p->host_port > 65535 || p->container_port < 0 ||
			p->container_port > 65535)
			return err_set(err, -EINVAL,
				"port mapping %zu: %d:%d is not a pair of ports", i, p->host_port,
				p->container_port);
	}
	return 0;
}

/* The guest checks what it becomes a path of; here a mistake costs no machine. */
static int check_sysctls(const Runtime__V1__LinuxPodSandboxConfig *linux, struct err *err)
{
	for (size_t i = 0; i < linux->n_sysctls; i++) {
		const char *key = linux->sysctls[i]->key;
		if (!strpbrk(key, "./") || strstr(key, "..") || key[0] == '.' || key[0] == '/')
			return err_set(err, -EINVAL, "'%.128s' is not a sysctl's name", key);
	}
	return 0;
}

static int check_linux(const Runtime__V1__LinuxPodSandboxConfig *linux, struct err *err)
{
	const Runtime__V1__LinuxSandboxSecurityContext *sc = linux ? linux->security_context : NULL;
	const Runtime__V1__NamespaceOption *ns = sc ? sc->namespace_options : NULL;
	if (ns && ns->network == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return err_set(err, -EOPNOTSUPP,
			"hostNetwork: a pod that is a virtual machine cannot use the host's "
			"network; give it a runtime class of nodes that have runc");
	if (userns_check(ns, err) < 0)
		return err->code;
	if (linux && cgroup_parent_check(linux->cgroup_parent, err) < 0)
		return err->code;
	return linux ? check_sysctls(linux, err) : 0;
}

int sandbox_config_check(const Runtime__V1__PodSandboxConfig *config, struct err *err)
{
	if (!config || !config->metadata)
		return err_set(err, -EINVAL, "sandbox config must include metadata");
	if (!config->metadata->name[0] || !config->metadata->namespace_[0] ||
		!config->metadata->uid[0])
		return err_set(
			err, -EINVAL, "sandbox metadata must include name, namespace and uid");
	if (strlen(config->hostname) > HOSTNAME_MAX)
		return err_set(err, -EINVAL, "hostname is longer than %d characters", HOSTNAME_MAX);
	if (protobuf_c_message_get_packed_size(&config->base) > CONFIG_MAX)
		return err_set(err, -EINVAL, "sandbox config is larger than %u bytes", CONFIG_MAX);
	int r = labels_check("labels", config->n_labels, LABELS_MAX, err);
	if (r == 0)
		r = check_ports(config, err);
	return r < 0 ? r : check_linux(config->linux, err);
}
