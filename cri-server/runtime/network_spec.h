/*
 * What a sandbox's configuration asks of its network, in the words of network/pod_network.h: names,
 * host ports, DNS, and by annotations what CNI plugins may be told beside that:
 *
 *	kubernetes.io/ingress-bandwidth, …/egress-bandwidth   a quantity in bits per second
 *	cni.bulkhead.io/mac                                  one MAC address
 *	cni.bulkhead.io/ips, …/ip-ranges, …/aliases          lists, separated by commas
 *
 * Only plugins whose configuration declares the capability hear of it: that is the administrator's
 * decision. A plain value on the caller's stack that borrows from id and configuration.
 */
#pragma once

#include "common/err.h"
#include "cri-server/proto/cri.pb-c.h"
#include "network/pod_network.h"

#define NETWORK_LIST_MAX 16

struct network_list {
	char *text; /* the items lie in it */
	char *items[NETWORK_LIST_MAX];
	size_t n;
};

struct network_spec {
	struct net_pod_spec pod;
	struct net_port_mapping *ports;
	const char **annotations;
	struct network_list ips, ranges, aliases;
};

/* Free with network_spec_done(), which takes a zeroed one as well. -EINVAL names the annotation. */
int network_spec_fill(struct network_spec *spec, const char *id,
	const Runtime__V1__PodSandboxConfig *config, struct err *err);
void network_spec_done(struct network_spec *spec);

/*
 * A bandwidth as Kubernetes writes quantities ("10M", "1.5Gi", "1e6"), in bits per second. -EINVAL
 * for what is none, or is below 1k or above 1P, which Kubernetes refuses too.
 */
int network_bandwidth(const char *text, uint64_t *ret_bits, struct err *err);
