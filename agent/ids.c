#include "agent/ids.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "agent/rtnetlink.h"
#include "common/fd.h"

uint32_t ids_uid(const struct ids *ids, uint32_t inside)
{
	return ids->userns < 0 ? inside : userns_uid(&ids->map, inside);
}

uint32_t ids_gid(const struct ids *ids, uint32_t inside)
{
	return ids->userns < 0 ? inside : userns_gid(&ids->map, inside);
}

/* Those that the host announced; nobody has configured one yet. */
static int move_devices(
	const Bulkhead__Agent__ConfigureSandboxRequest *request, int namespace, struct err *err)
{
	struct rtnl rtnl;
	int r = rtnl_open(&rtnl, err);
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < request->n_interfaces; i++) {
		uint8_t mac[RTNL_MAC_BYTES];
		char name[IF_NAMESIZE];
		int index;
		r = rtnl_mac_parse(request->interfaces[i]->device_mac, mac, err);
		if (r == 0)
			r = rtnl_link_find(&rtnl, mac, &index, name, err);
		if (r == 0)
			r = rtnl_link_move(&rtnl, index, namespace, err);
	}
	rtnl_close(&rtnl);
	return r;
}

static int enter(const Bulkhead__Agent__ConfigureSandboxRequest *request, const struct userns *ns,
	struct err *err)
{
	if (move_devices(request, ns->net, err) < 0)
		return err->code;
	if (setns(ns->net, CLONE_NEWNET) < 0 || setns(ns->ipc, CLONE_NEWIPC) < 0)
		return err_errno(err, "enter the pod's namespaces");
	return 0;
}

int ids_enter(
	const Bulkhead__Agent__ConfigureSandboxRequest *request, struct ids *ret, struct err *err)
{
	const Bulkhead__Agent__UserNamespace *asked = request->user_namespace;
	const struct userns_map map = {asked->uid, asked->n_uids, asked->gid, asked->n_gids};
	struct userns ns = USERNS_INIT;
	int r = userns_new(&map, true, &ns, err);
	if (r == 0)
		r = enter(request, &ns, err);
	if (r == 0) {
		ret->userns = TAKE_FD(ns.user);
		ret->map = map;
	}
	userns_done(&ns);
	return r < 0 ? err_wrap(err, "user namespace") : 0;
}

int ids_make_as_root(const struct ids *ids, struct err *err)
{
	if (ids->userns < 0)
		return 0;
	/* Else the capabilities that are about files would go with the user. */
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0)
		return err_errno(err, "keep capabilities");
	setfsgid(ids->map.gid);
	setfsuid(ids->map.uid);
	return 0;
}

int ids_map_mount(const struct ids *ids, int mount, struct err *err)
{
	if (ids->userns < 0)
		return 0;
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)ids->userns};
	if (mount_setattr(mount, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		return err_errno(err, "map the ids of a mount");
	return 0;
}
