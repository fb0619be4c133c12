#!/usr/bin/env bats
# Plugins other than bridge: each configuration is in force for the pods that are made while it is there.

load lib/bulkheadd

setup_file() {
	instance_setup
	mkdir "$FT/plugins"
	# A second network, as a meta-plugin makes it: by another plugin, under another name.
	cat >"$FT/plugins/second" <<-END
		#!/bin/bash
		input=\$(cat)
		jq '.delegate + {cniVersion, name: (.name + "-second")}' <<<"\$input" >"$FT/second.json"
		CNI_IFNAME=net1 /usr/lib/cni/\$(jq -r .type "$FT/second.json") <"$FT/second.json" >"$FT/second.out" || {
			cat "$FT/second.out"
			exit 1
		}
		[ "\$CNI_COMMAND" != ADD ] || {
			nsenter --net="\$CNI_NETNS" ip neighbor add 10.219.0.77 lladdr 02:00:00:00:00:77 dev net1
			jq .prevResult <<<"\$input"
		}
	END
	chmod 0755 "$FT/plugins/second"
	sed -i -e "s|^  conf_dir: .*|&\n  bin_dirs: $FT/plugins:/usr/lib/cni|" "$FT/config.yaml"
	start_bulkheadd
	pull_busybox
	# What macvlan is on: the other end is in a namespace, a machine on the same wire.
	export WIRE=${NET}w FAR=$NET-far
	ip netns add "$FAR"
	ip link add "$WIRE" type veth peer name wire netns "$FAR"
	ip link set "$WIRE" up
	ip -n "$FAR" address add 10.219.0.1/24 dev wire
	ip -n "$FAR" link set wire up
}

teardown_file() {
	ip link delete "$WIRE" || true
	ip link delete "${NET}d" 2>/dev/null || true
	ip netns delete "$FAR" || true
	instance_teardown
	rm -rf "/var/lib/cni/networks/$NET-ptp"
}

# pod_with NAME JQ-FILTER-OF-CONFLIST [JQ-FILTER-OF-POD]: POD and ID, a container in it.
pod_with() {
	jq --arg wire "$WIRE" "$2" "$FT/cni/10-$NET.conflist" >"$FT/cni/05.conflist"
	POD=$(run_pod "$1" "${3:-.}")
	rm "$FT/cni/05.conflist"
	ID=$(run_container "$POD" main)
}

@test "macvlan with static addresses, which the pod asks for" {
	pod_with wired '.plugins = [{type: "macvlan", master: $wire, mode: "bridge", mtu: 1450,
		capabilities: {ips: true}, ipam: {type: "static", routes: [{dst: "0.0.0.0/0", gw: "10.219.0.1"}]}}]' \
		'.annotations = {"cni.bulkhead.io/ips": "10.219.0.9/24"}'
	[ "$(pod_field "$POD" .network.ip)" = 10.219.0.9 ]
	ip netns exec "$FAR" ping -c 1 -W 5 10.219.0.9
	crictl exec -s "$ID" ping -c 1 -W 5 10.219.0.1
	[ "$(crictl exec -s "$ID" cat /sys/class/net/eth0/mtu)" = 1450 ]
	[[ $(crictl exec -s "$ID" ip route) == *"default via 10.219.0.1 dev eth0"* ]]
	remove_pod "$POD"
}

@test "ptp, in a range that the pod asks for, with firewall, tuning, bandwidth and portmap behind it" {
	pod_with pointed '.name += "-ptp" | .plugins = [{type: "ptp", ipMasq: true, capabilities: {ipRanges: true},
		ipam: {type: "host-local", routes: [{dst: "0.0.0.0/0"}]}}, {type: "firewall"},
		{type: "tuning", mtu: 1380, mac: "02:fe:00:00:02:02", sysctl: {"net.core.somaxconn": "4321",
		"net.ipv4.conf.eth0.forwarding": "1", "net.ipv4.ip_default_ttl": "60"}},
		{type: "bandwidth", ingressRate: 50000000, ingressBurst: 5000000},
		{type: "portmap", capabilities: {portMappings: true}}]' \
		'.annotations = {"cni.bulkhead.io/ip-ranges": "10.218.77.0/24"} |
			.linux.sysctls = {"net.ipv4.ip_default_ttl": "61"}'
	address=$(pod_field "$POD" .network.ip)
	[[ $address == 10.218.77.* ]]
	ping -c 1 -W 5 "$address"
	crictl exec -s "$ID" ping -c 1 -W 5 10.218.77.1
	[ "$(crictl exec -s "$ID" cat /sys/class/net/eth0/mtu)" = 1380 ]
	[ "$(crictl exec -s "$ID" cat /sys/class/net/eth0/address)" = 02:fe:00:00:02:02 ]
	# What tuning sets counts where the pod's processes are; what the pod asks for counts more.
	[ "$(crictl exec -s "$ID" cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/conf/eth0/forwarding \
		/proc/sys/net/ipv4/ip_default_ttl)" = $'4321\n1\n61' ]
	iptables-save -t filter | grep -q -e "-d $address/32"
	remove_pod "$POD"
	run grep -e "-d $address/32" <(iptables-save -t filter)
	[ "$status" -eq 1 ]
}

@test "host-device: a link of the host's becomes the guest's, with IPv6 alone, and comes back" {
	ip link add "${NET}d" type veth peer name device netns "$FAR"
	ip -n "$FAR" address add fd00:223::1/64 dev device nodad
	ip -n "$FAR" link set device up
	mac=$(ip -j link show "${NET}d" | jq -r '.[0].address')
	pod_with device ".plugins = [{type: \"host-device\", device: \"${NET}d\", ipam: {type: \"static\",
		addresses: [{address: \"fd00:223::2/64\"}]}}]"
	[ "$(pod_field "$POD" .network.ip)" = fd00:223::2 ]
	[ "$(crictl exec -s "$ID" cat /sys/class/net/eth0/address)" = "$mac" ]
	ip netns exec "$FAR" ping -6 -c 1 -W 5 fd00:223::2
	crictl exec -s "$ID" ping -6 -c 1 -W 5 fd00:223::1
	remove_pod "$POD"
	[ "$(ip -j link show "${NET}d" | jq -r '.[0].address')" = "$mac" ]
	ip link delete "${NET}d"
}

@test "vlan: a tagged link over one of the host's becomes the guest's" {
	ip link add link "$WIRE" name "${NET}v" type vlan id 5 || skip "this host's kernel has no 802.1Q (CONFIG_VLAN_8021Q)"
	ip link delete "${NET}v"
	ip -n "$FAR" link add link wire name tagged type vlan id 6
	ip -n "$FAR" address add 10.224.0.1/24 dev tagged
	ip -n "$FAR" link set tagged up
	pod_with tagged '.plugins = [{type: "vlan", master: $wire, vlanId: 6, ipam: {type: "static",
		addresses: [{address: "10.224.0.2/24"}]}}]'
	ip netns exec "$FAR" ping -c 1 -W 5 10.224.0.2
	crictl exec -s "$ID" ping -c 1 -W 5 10.224.0.1
	remove_pod "$POD"
	ip -n "$FAR" link delete tagged
}

@test "a second network is a second interface of the guest, with what is configured on it, and on many queues" {
	pod_with doubled '.plugins += [{type: "second", delegate: {type: "macvlan", master: $wire, mode: "bridge",
		ipam: {type: "static", addresses: [{address: "10.219.0.10/24"}], routes: [{dst: "10.220.0.0/16",
		gw: "10.219.0.1"}]}}}]' '.linux.resources = {cpu_quota: 200000, cpu_period: 100000}'
	inside() {
		crictl exec -s "$ID" "$@"
	}
	for interface in eth0 net1; do
		[ "$(inside cat "/sys/class/net/$interface/address")" = \
			"$(in_netns "$POD" ip -j link show "$interface" | jq -r '.[0].address')" ]
		# Two CPUs, two queues.
		inside test -e "/sys/class/net/$interface/queues/rx-1"
	done
	[[ $(inside ip -4 address show net1) == *"inet 10.219.0.10/24"* ]]
	[[ $(inside ip route) == *"10.220.0.0/16 via 10.219.0.1 dev net1"* ]]
	[[ $(inside ip neigh show nud permanent) == *"10.219.0.77 dev net1 lladdr 02:00:00:00:00:77"* ]]
	ip netns exec "$FAR" ping -c 1 -W 5 10.219.0.10
	inside ping -c 1 -W 5 10.219.0.1
	inside ping -c 1 -W 5 "$SUBNET.1"
	# The offloads that QEMU and the tap agree on are on in the guest.
	features=$(inside cat /sys/class/net/eth0/device/features)
	# Checksums and segmentation, both ways; many queues.
	for bit in 0 1 7 8 11 12 22; do
		[ "${features:bit:1}" = 1 ]
	done
	remove_pod "$POD"
}

# Last, for it has its own bulkheadd.
@test "macvtaps take two interfaces on many queues, also of a pod that grows; over a macvlan none is made" {
	stop_bulkheadd
	sed -i -e "s|^network:|&\n  redirect: macvtap|" -e "s/memory_mib: 256/&\n    memory_max_mib: 512\n    vcpus_max: 3/" \
		"$D/config.yaml"
	start_bulkheadd
	pod_with taken '.plugins += [{type: "second", delegate: {type: "ptp", ipam: {type: "static",
		addresses: [{address: "10.222.0.10/24", gateway: "10.222.0.1"}]}}}]' \
		'.linux.resources = {cpu_quota: 200000, cpu_period: 100000}'
	server=$(run_script "$POD" server 'exec nc -ll -p 8080 -e echo hello')
	eventually 20 crictl exec -s "$server" sh -c 'netstat -ltn | grep :8080'
	# On all queues: a connection is on one.
	reached() {
		for _ in 1 2 3 4 5; do
			for address in "$(pod_field "$POD" .network.ip)" 10.222.0.10; do
				[ "$(/bin/busybox nc -w 20 "$address" 8080 </dev/null)" = hello ] || return 1
			done
		done
	}
	for pair in eth0:tap0 net1:tap1; do
		interface=${pair%:*}
		in_netns "$POD" ip -d link show "${pair#*:}" | grep -q "macvtap mode passthru"
		[ "$(crictl exec -s "$ID" cat "/sys/class/net/$interface/address")" = \
			"$(in_netns "$POD" ip -j link show "$interface" | jq -r '.[0].address')" ]
		crictl exec -s "$ID" test -e "/sys/class/net/$interface/queues/rx-1"
	done
	reached
	crictl update --cpu-quota 300000 --cpu-period 100000 --memory 369098752 "$ID"
	eventually 20 eval '[ "$(crictl exec -s "$ID" nproc)" = 3 ]' # a moment after the guest has it
	reached
	# The one that loses its carrier is told by its position.
	peer=$(in_netns "$POD" ip -j link show net1 | jq '.[0].link_index')
	ip link set "$(ip -j link | jq -r ".[] | select(.ifindex == $peer).ifname")" down
	eventually 20 eval '[ "$(crictl exec -s "$ID" cat /sys/class/net/net1/carrier)" = 0 ]'
	[ "$(crictl exec -s "$ID" cat /sys/class/net/eth0/carrier)" = 1 ]
	remove_pod "$POD"
	jq --arg wire "$WIRE" '.plugins = [{type: "macvlan", master: $wire, ipam: {type: "static",
		addresses: [{address: "10.219.0.11/24"}]}}]' "$FT/cni/10-$NET.conflist" >"$FT/cni/05.conflist"
	refused Unknown "macvlan or ipvlan is not: for it, network.redirect must be tcfilter" crictl runp <(pod_config none)
	rm "$FT/cni/05.conflist"
	[ -z "$(own_netns)" ]
	eventually 20 eval '[ -z "$(own_processes)" ]'
}
