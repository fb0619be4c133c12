#include "cri-server/runtime/network_spec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/fd.h"

static void reads_quantities(void **state)
{
	static const struct {
		const char *text;
		uint64_t bits;
	} cases[] = {
		{"10M", 10000000},
		{"1000", 1000},
		{"1k", 1000},
		{"1.5G", 1500000000},
		{"1Mi", 1048576},
		{"1e6", 1000000},
		{"1P", 1000000000000000},
	};
	static const char *const none[] = {"", "M", "-1M", "999", "1.1P", "2P", "10 M", " 10M",
		"0x10M", "inf", "nan", "10MB", "10m", "1e99", "1E"};
	struct err err = ERR_INIT;
	uint64_t bits;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(network_bandwidth(cases[i].text, &bits, &err), 0);
		assert_int_equal(bits, cases[i].bits);
	}
	for (size_t i = 0; i < ARRAY_SIZE(none); i++)
		if (network_bandwidth(none[i], &bits, &err) != -EINVAL)
			fail_msg("'%s' is taken for a bandwidth", none[i]);
}

struct fixture {
	Runtime__V1__PodSandboxConfig config;
	Runtime__V1__PodSandboxMetadata metadata;
	Runtime__V1__PodSandboxConfig__AnnotationsEntry entry, *entries[1];
};

static void prepare(struct fixture *f, const char *key, const char *value)
{
	runtime__v1__pod_sandbox_config__init(&f->config);
	runtime__v1__pod_sandbox_metadata__init(&f->metadata);
	runtime__v1__pod_sandbox_config__annotations_entry__init(&f->entry);
	f->config.metadata = &f->metadata;
	f->metadata.name = (char *)"web";
	f->entry.key = (char *)key;
	f->entry.value = (char *)value;
	f->entries[0] = &f->entry;
	f->config.annotations = f->entries;
	f->config.n_annotations = 1;
}

static void annotations_become_arguments(void **state)
{
	struct network_spec spec;
	struct fixture f;
	struct err err = ERR_INIT;

	(void)state;
	prepare(&f, "cni.bulkhead.io/ips", "10.1.2.3/24, fd00::3");
	assert_int_equal(network_spec_fill(&spec, "p1", &f.config, &err), 0);
	assert_string_equal(spec.pod.id, "p1");
	assert_string_equal(spec.pod.name, "web");
	assert_int_equal(spec.pod.capabilities.n_ips, 2);
	assert_string_equal(spec.pod.capabilities.ips[0], "10.1.2.3/24");
	assert_string_equal(spec.pod.capabilities.ips[1], "fd00::3");
	assert_int_equal(spec.pod.capabilities.n_annotations, 1);
	assert_string_equal(spec.pod.capabilities.annotations[1], "10.1.2.3/24, fd00::3");
	network_spec_done(&spec);

	prepare(&f, "kubernetes.io/egress-bandwidth", "10M");
	assert_int_equal(network_spec_fill(&spec, "p1", &f.config, &err), 0);
	assert_int_equal(spec.pod.capabilities.egress_bits, 10000000);
	assert_int_equal(spec.pod.capabilities.ingress_bits, 0);
	network_spec_done(&spec);
}

/* Each to its own: what a pod asks of a plugin comes from one place. */
static void each_capability_has_its_source(void **state)
{
	Runtime__V1__DNSConfig dns = RUNTIME__V1__DNSCONFIG__INIT;
	Runtime__V1__PortMapping port = RUNTIME__V1__PORT_MAPPING__INIT, *ports[] = {&port};
	char *servers[] = {(char *)"10.0.0.9"}, *searches[] = {(char *)"a.example"},
	     *options[] = {(char *)"ndots:3"};
	struct network_spec spec;
	struct fixture f;
	struct err err = ERR_INIT;
	const struct net_capabilities *c = &spec.pod.capabilities;

	(void)state;
	prepare(&f, "cni.bulkhead.io/mac", "02:00:00:00:00:07");
	dns.servers = servers;
	dns.searches = searches;
	dns.options = options;
	dns.n_servers = dns.n_searches = dns.n_options = 1;
	f.config.dns_config = &dns;
	port.protocol = RUNTIME__V1__PROTOCOL__SCTP;
	port.container_port = 90;
	port.host_port = 9090;
	port.host_ip = (char *)"10.0.0.3";
	f.config.port_mappings = ports;
	f.config.n_port_mappings = 1;
	assert_int_equal(network_spec_fill(&spec, "p1", &f.config, &err), 0);
	assert_string_equal(c->mac, "02:00:00:00:00:07");
	assert_string_equal(c->dns_servers[0], "10.0.0.9");
	assert_string_equal(c->dns_searches[0], "a.example");
	assert_string_equal(c->dns_options[0], "ndots:3");
	assert_int_equal(c->n_dns_servers + c->n_dns_searches + c->n_dns_options, 3);
	assert_int_equal(c->n_ports, 1);
	assert_int_equal(c->ports[0].protocol, NET_SCTP);
	assert_int_equal(c->ports[0].container_port, 90);
	assert_int_equal(c->ports[0].host_port, 9090);
	assert_string_equal(c->ports[0].host_ip, "10.0.0.3");
	assert_int_equal(c->n_ips + c->n_ip_subnets + c->n_aliases, 0);
	network_spec_done(&spec);

	prepare(&f, "cni.bulkhead.io/ip-ranges", "10.1.2.0/24,fd00::/64");
	assert_int_equal(network_spec_fill(&spec, "p1", &f.config, &err), 0);
	assert_int_equal(c->n_ip_subnets, 2);
	assert_string_equal(c->ip_subnets[1], "fd00::/64");
	assert_int_equal(c->n_ips + c->n_aliases + c->n_ports + c->n_dns_servers, 0);
	network_spec_done(&spec);

	prepare(&f, "cni.bulkhead.io/aliases", "db");
	assert_int_equal(network_spec_fill(&spec, "p1", &f.config, &err), 0);
	assert_int_equal(c->n_aliases, 1);
	assert_string_equal(c->aliases[0], "db");
	assert_int_equal(c->n_ips + c->n_ip_subnets, 0);
	network_spec_done(&spec);

	prepare(&f, "kubernetes.io/ingress-bandwidth", "1M");
	assert_int_equal(network_spec_fill(&spec, "p1", &f.config, &err), 0);
	assert_int_equal(c->ingress_bits, 1000000);
	assert_int_equal(c->egress_bits, 0);
	network_spec_done(&spec);
}

/* On the wire a map may have a key twice: protobuf's "the last one counts". */
static void the_last_of_an_annotation_counts(void **state)
{
	Runtime__V1__PodSandboxConfig__AnnotationsEntry first =
		RUNTIME__V1__POD_SANDBOX_CONFIG__ANNOTATIONS_ENTRY__INIT;
	Runtime__V1__PodSandboxConfig__AnnotationsEntry *entries[2] = {&first};
	struct network_spec spec;
	struct fixture f;
	struct err err = ERR_INIT;

	(void)state;
	prepare(&f, "cni.bulkhead.io/ips", "10.1.2.3");
	first.key = f.entry.key;
	first.value = (char *)"10.1.2.1,10.1.2.2";
	entries[1] = &f.entry;
	f.config.annotations = entries;
	f.config.n_annotations = 2;
	assert_int_equal(network_spec_fill(&spec, "p1", &f.config, &err), 0);
	assert_int_equal(spec.pod.capabilities.n_ips, 1);
	assert_string_equal(spec.pod.capabilities.ips[0], "10.1.2.3");
	network_spec_done(&spec);
}

static void a_wrong_annotation_is_named(void **state)
{
	static const struct {
		const char *key, *value;
	} cases[] = {
		{"kubernetes.io/ingress-bandwidth", "fast"},
		{"cni.bulkhead.io/ips", "10.1.2.3,,10.1.2.4"},
		{"cni.bulkhead.io/aliases", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct network_spec spec;
		struct fixture f;
		struct err err = ERR_INIT;

		prepare(&f, cases[i].key, cases[i].value);
		assert_int_equal(network_spec_fill(&spec, "p1", &f.config, &err), -EINVAL);
		assert_non_null(strstr(err.msg, cases[i].key));
		network_spec_done(&spec);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_quantities),
		cmocka_unit_test(annotations_become_arguments),
		cmocka_unit_test(each_capability_has_its_source),
		cmocka_unit_test(the_last_of_an_annotation_counts),
		cmocka_unit_test(a_wrong_annotation_is_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
