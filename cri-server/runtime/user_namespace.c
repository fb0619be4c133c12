/*
 * The user namespace of a pod ("hostUsers: false"): the ids of its containers are a range of the
 * node's, which a kubelet gives to no other pod. In the machine they are the same range, so that
 * what the pod writes to a volume belongs to one of it; a mount whose ids the client maps shows and
 * keeps its files with the ids that the containers see. Messages are containerd's where it has one.
 */
#include <errno.h>

#include "cri-server/runtime/internal.h"

static int check_mapping(
	Runtime__V1__IDMapping *const *mappings, size_t n, const char *kind, struct err *err)
{
	if (n != 1)
		return err_set(err, -EINVAL,
			"user namespace: one %s mapping is needed, there are %zu", kind, n);
	const Runtime__V1__IDMapping *m = mappings[0];
	if (m->container_id != 0 || m->length == 0)
		return err_set(err, -EINVAL, "user namespace: the %s mapping has no id 0", kind);
	if ((uint64_t)m->host_id + m->length > UINT32_MAX)
		return err_set(err, -EINVAL,
			"user namespace: the %s mapping ends beyond the last id: %u and %u more",
			kind, m->host_id, m->length);
	return 0;
}

int userns_check(const Runtime__V1__NamespaceOption *ns, struct err *err)
{
	const Runtime__V1__UserNamespace *userns = ns ? ns->userns_options : NULL;
	if (!userns)
		return 0;
	if (userns->mode == RUNTIME__V1__NAMESPACE_MODE__NODE)
		return userns->n_uids || userns->n_gids
			       ? err_set(err, -EINVAL,
					 "user namespace: mappings and the node's ids at once")
			       : 0;
	if (userns->mode != RUNTIME__V1__NAMESPACE_MODE__POD)
		return err_set(err, -EINVAL,
			"user namespace: mode %d is not supported, a pod has POD or NODE",
			userns->mode);
	int r = check_mapping(userns->uids, userns->n_uids, "uid", err);
	return r < 0 ? r : check_mapping(userns->gids, userns->n_gids, "gid", err);
}

/* Of options that were checked. */
static bool map_of(const Runtime__V1__NamespaceOption *ns, struct userns_map *ret)
{
	const Runtime__V1__UserNamespace *userns = ns ? ns->userns_options : NULL;
	*ret = (struct userns_map){0};
	if (!userns || userns->mode != RUNTIME__V1__NAMESPACE_MODE__POD)
		return false;
	*ret = (struct userns_map){
		.uid = userns->uids[0]->host_id,
		.n_uids = userns->uids[0]->length,
		.gid = userns->gids[0]->host_id,
		.n_gids = userns->gids[0]->length,
	};
	return true;
}

bool userns_of_pod(const Runtime__V1__PodSandboxConfig *config, struct userns_map *ret)
{
	const Runtime__V1__LinuxSandboxSecurityContext *sc =
		config->linux ? config->linux->security_context : NULL;
	return map_of(sc ? sc->namespace_options : NULL, ret);
}

int userns_check_container(const Runtime__V1__PodSandboxConfig *pod,
	const Runtime__V1__LinuxContainerSecurityContext *sc, struct err *err)
{
	const Runtime__V1__NamespaceOption *ns = sc ? sc->namespace_options : NULL;
	struct userns_map own, pods;
	bool mapped = userns_of_pod(pod, &pods);
	if (userns_check(ns, err) < 0)
		return err->code;
	map_of(ns, &own);
	if (!userns_map_equal(&own, &pods))
		return err_set(err, -EINVAL,
			"user namespace config for sandbox is different from container");
	if (mapped && sc && sc->privileged)
		return err_set(err, -EINVAL,
			"privileged: a pod with a user namespace (hostUsers: false) has nobody "
			"with the rights of its machine");
	return 0;
}

int userns_check_mount(const Runtime__V1__PodSandboxConfig *pod, const Runtime__V1__Mount *mount,
	bool *ret_mapped, struct err *err)
{
	struct userns_map map;
	bool mapped = userns_of_pod(pod, &map);
	*ret_mapped = false;
	if (!mount->n_uidmappings && !mount->n_gidmappings)
		return 0;
	if (!mapped)
		return err_set(err, -EINVAL, "mapped ids need a pod with a user namespace");
	int r = check_mapping(mount->uidmappings, mount->n_uidmappings, "uid", err);
	if (r == 0)
		r = check_mapping(mount->gidmappings, mount->n_gidmappings, "gid", err);
	if (r < 0)
		return r;
	const struct userns_map own = {mount->uidmappings[0]->host_id,
		mount->uidmappings[0]->length, mount->gidmappings[0]->host_id,
		mount->gidmappings[0]->length};
	if (!userns_map_equal(&own, &map))
		return err_set(
			err, -EINVAL, "its ids are mapped otherwise than the pod's user namespace");
	*ret_mapped = true;
	return 0;
}
