#!/usr/bin/env bats
# The pod network: CNI's address answers, and the pod reaches what it should.

load lib/bulkheadd

setup_file() {
	instance_setup
	dual_stack
	start_bulkheadd
	pull_busybox
	# A machine elsewhere: a namespace behind a link of its own, with no route back to the pods.
	export REMOTE=$NET-remote
	ip netns add "$REMOTE"
	ip link add "${NET}r0" type veth peer name r1 netns "$REMOTE"
	ip address add "10.216.${SUBNET##*.}.1/24" dev "${NET}r0"
	ip link set "${NET}r0" up
	ip -n "$REMOTE" address add "10.216.${SUBNET##*.}.2/24" dev r1
	ip address add "${V6}:ffff::1/64" dev "${NET}r0" nodad
	ip -n "$REMOTE" address add "${V6}:ffff::2/64" dev r1 nodad
	ip -n "$REMOTE" link set r1 up
	ip -n "$REMOTE" link set lo up
	HOST_PORT=$((20000 + RANDOM % 10000))
	POD=$(run_pod one ".dns_config = {servers: [\"192.0.2.1\", \"192.0.2.2\"], searches: [\"a.example\"],
		options: [\"ndots:3\"]} | .port_mappings = [{protocol: 0, container_port: 8080,
		host_port: $HOST_PORT}, {protocol: 1, container_port: 8053, host_port: $HOST_PORT},
		{protocol: 2, container_port: 9899, host_port: $HOST_PORT}]")
	OTHER=$(run_pod two)
	ID=$(run_container "$POD" main)
	ADDRESS=$(pod_field "$POD" .network.ip)
	OTHER_ADDRESS=$(pod_field "$OTHER" .network.ip)
	ADDRESS6=$(pod_field "$POD" '.network.additionalIps[0].ip')
	export HOST_PORT POD OTHER ID ADDRESS ADDRESS6 OTHER_ADDRESS
}

teardown_file() {
	ip link delete "${NET}r0" || true
	ip netns delete "$REMOTE" || true
	instance_teardown
}

# The bridge's second range and route are of IPv6, below a prefix of this instance.
dual_stack() {
	export V6=fd00:215:${SUBNET##*.}
	jq --arg subnet "$V6:1::/64" '.plugins[0].ipam |= (.ranges += [[{subnet: $subnet}]] |
		.routes += [{dst: "::/0"}])' "$FT/cni/10-$NET.conflist" >"$FT/dual.conflist"
	mv "$FT/dual.conflist" "$FT/cni/10-$NET.conflist"
}

inside() {
	crictl exec -s "$ID" "$@"
}

@test "the pod's address answers from the host" {
	ping -c 1 -W 5 "$ADDRESS"
}

@test "the pod reaches its gateway, itself and the other pod" {
	inside ping -c 1 -W 5 "$SUBNET.1"
	inside ping -c 1 -W 5 127.0.0.1
	inside ping -c 1 -W 5 "$ADDRESS"
	inside ping -c 1 -W 5 "$OTHER_ADDRESS"
}

@test "the pod reaches outside under the host's address" {
	# The remote has no route to the pods: it can answer only to an address of the host.
	run ip -n "$REMOTE" route get "$ADDRESS"
	[ "$status" -ne 0 ]
	inside ping -c 1 -W 5 "10.216.${SUBNET##*.}.2"
}

@test "the pod reaches outside by TCP, over IPv4 and IPv6" {
	run ip -6 -n "$REMOTE" route get "$ADDRESS6"
	[ "$status" -ne 0 ]
	for address in "10.216.${SUBNET##*.}.2" "$V6:ffff::2"; do
		ip netns exec "$REMOTE" /bin/busybox nc -l -p 9000 -e echo "at $address" 3>&- &
		eventually 20 ip netns exec "$REMOTE" sh -c "ss -ltn | grep 9000"
		[ "$(inside nc -w 5 "$address" 9000)" = "at $address" ]
		wait $!
	done
}

@test "the pod has an IPv6 address, and host and pods reach one another by it" {
	[[ $ADDRESS6 == "$V6:1::"* ]]
	ping -6 -c 1 -W 5 "$ADDRESS6"
	inside ping -6 -c 1 -W 5 "$V6:1::1"
	inside ping -6 -c 1 -W 5 "$(pod_field "$OTHER" '.network.additionalIps[0].ip')"
}

# Datagrams that came to no port of the guest, which asks nobody but itself.
lost_datagrams() {
	inside cat /proc/net/snmp | awk '/^Udp: [0-9]/ {print $3}'
}

@test "a host port of UDP leads into the pod too" {
	before=$(lost_datagrams)
	[ "$before" -ge 0 ]
	ip netns exec "$REMOTE" bash -c "echo hello >/dev/udp/10.216.${SUBNET##*.}.1/$HOST_PORT"
	eventually 20 eval '[ "$(lost_datagrams)" -gt "$before" ]'
}

@test "a host port leads to the container, from the host and from elsewhere" {
	server=$(run_script "$POD" server 'exec nc -ll -p 8080 -e echo hello')
	eventually 20 inside sh -c 'netstat -ltn | grep :8080'
	sleep 1
	[ "$(/bin/busybox nc -w 5 "10.216.${SUBNET##*.}.1" "$HOST_PORT" </dev/null)" = hello ]
	[ "$(ip netns exec "$REMOTE" /bin/busybox nc -w 5 "10.216.${SUBNET##*.}.1" "$HOST_PORT" \
		</dev/null)" = hello ]
	crictl rm -f "$server"
}

@test "the DNS configuration is the containers' resolv.conf" {
	[ "$(inside cat /etc/resolv.conf | grep . | sort)" = "$(printf '%s\n' "nameserver 192.0.2.1" \
		"nameserver 192.0.2.2" "options ndots:3" "search a.example")" ]
}

@test "/etc/hosts is the one that the kubelet mounts" {
	echo "192.0.2.7 seven.example seven" >"$FT/hosts"
	id=$(run_container "$POD" hosts ".mounts = [{host_path: \"$FT/hosts\", container_path: \"/etc/hosts\"}]")
	[ "$(crictl exec -s "$id" cat /etc/hosts)" = "192.0.2.7 seven.example seven" ]
	# kubelets write it anew when a pod's address comes.
	echo "192.0.2.8 eight" >>"$FT/hosts"
	eventually 10 crictl exec -s "$id" grep -q eight /etc/hosts
	crictl rm -f "$id"
}

@test "the guest's interface has the name, MAC, MTU, address and route that CNI gave" {
	mac=$(in_netns "$POD" ip -j link show eth0 | jq -r '.[0].address')
	mtu=$(in_netns "$POD" ip -j link show eth0 | jq -r '.[0].mtu')
	run inside sh -c 'cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; ip -4 addr show eth0; ip route'
	[ "${lines[0]}" = "$mac" ]
	[ "${lines[1]}" = "$mtu" ]
	[[ $output == *"inet $ADDRESS/24"* ]]
	[[ $output == *"default via $SUBNET.1 dev eth0"* ]]
}

@test "a plugin's MTU and a MAC that an annotation asks for are carried into the guest, its bandwidth is held" {
	jq '.plugins[0] += {mtu: 1400, capabilities: {mac: true}} |
		.plugins += [{type: "bandwidth", capabilities: {bandwidth: true}}]' "$FT/cni/10-$NET.conflist" >"$FT/cni/05.conflist"
	id=$(run_pod small '.annotations = {"cni.bulkhead.io/mac": "02:fe:00:00:01:02",
		"kubernetes.io/ingress-bandwidth": "10M"}')
	refused Unknown kubernetes.io/egress-bandwidth crictl runp <(pod_config wrong \
		'.annotations = {"kubernetes.io/egress-bandwidth": "fast"}')
	rm "$FT/cni/05.conflist"
	c=$(run_container "$id" main)
	[ "$(crictl exec -s "$c" cat /sys/class/net/eth0/mtu)" = 1400 ]
	[ "$(crictl exec -s "$c" cat /sys/class/net/eth0/address)" = 02:fe:00:00:01:02 ]
	tc qdisc show | grep -q "tbf .* rate 10Mbit"
	crictl exec -s "$c" ping -c 1 -W 5 "$SUBNET.1"
	remove_pod "$id"
}

@test "a user without capabilities may ping" {
	cp "$BUILD/tests/functional/net_load" "$FT/bin/net_load"
	plain=$(run_container "$POD" plain ".mounts = [{host_path: \"$FT/bin/net_load\", container_path: \"/net_load\",
		readonly: true}] | .linux.security_context = {run_as_user: {value: 1000},
		capabilities: {drop_capabilities: [\"ALL\"]}}")
	crictl exec -s "$plain" /net_load ping "$SUBNET.1"
	crictl rm -f "$plain"
}

@test "a pod reaches itself through its own host port" {
	server=$(run_script "$POD" mirror 'exec nc -ll -p 8080 -e echo hello')
	eventually 10 inside sh -c 'netstat -ltn | grep :8080'
	eventually 20 eval '[ "$(inside nc -w 5 "10.216.${SUBNET##*.}.1" "$HOST_PORT")" = hello ]'
	crictl rm -f "$server"
}

# The host's end of the pod's interface.
host_end() {
	local peer
	peer=$(in_netns "$1" ip -j link show eth0 | jq '.[0].link_index')
	ip -j link | jq -r ".[] | select(.ifindex == $peer).ifname"
}

@test "a filter on the host's side of the pod's interface holds, as a network policy's" {
	remote=10.216.${SUBNET##*.}.2
	inside ping -c 1 -W 5 "$remote"
	iptables -I FORWARD -i "$NET" -s "$ADDRESS" -d "$remote" -j DROP
	run inside ping -c 1 -W 1 "$remote"
	iptables -D FORWARD -i "$NET" -s "$ADDRESS" -d "$remote" -j DROP
	[ "$status" -ne 0 ]
	inside ping -c 1 -W 5 "$remote"
	# Between pods, at the interface itself.
	nft "add table netdev $NET; add chain netdev $NET in { type filter hook ingress device $(host_end "$POD") priority 0; };
		add rule netdev $NET in ip daddr $OTHER_ADDRESS drop"
	run inside ping -c 1 -W 1 "$OTHER_ADDRESS"
	nft delete table netdev "$NET"
	[ "$status" -ne 0 ]
	inside ping -c 1 -W 5 "$OTHER_ADDRESS"
}

@test "host ports of SCTP and of one host address have their rules, and lose them" {
	id=$(run_pod ports ".port_mappings = [{protocol: 2, container_port: 9999, host_port: $((HOST_PORT + 2)),
		host_ip: \"10.216.${SUBNET##*.}.1\"}]")
	rule=$(iptables-save -t nat | grep -e "-p sctp .*--dport $((HOST_PORT + 2)) .*DNAT")
	[[ $rule == *"-d 10.216.${SUBNET##*.}.1/32"*"--to-destination $(pod_field "$id" .network.ip):9999"* ]]
	remove_pod "$id"
	run grep -e "--dport $((HOST_PORT + 2)) " <(iptables-save -t nat)
	[ "$status" -eq 1 ]
}

@test "a host port of SCTP leads into the pod, whose kernel has it" {
	sctp=$BUILD/tests/functional/sctp
	outside() {
		ip netns exec "$REMOTE" "$sctp" ask "10.216.${SUBNET##*.}.1" "$HOST_PORT"
	}
	eventually 20 eval '[ "$(outside)" = closed ]'
	cp "$sctp" "$FT/bin/sctp"
	server=$(run_script "$POD" sctp 'exec /sctp serve 9899' \
		".mounts = [{host_path: \"$FT/bin/sctp\", container_path: \"/sctp\", readonly: true}]")
	eventually 20 eval '[ "$(outside)" = open ]'
	crictl rm -f "$server"
	eventually 20 eval '[ "$(outside)" = closed ]'
}

@test "a megabyte passes unchanged in both directions" {
	server=$(run_script "$POD" echo 'nc -l -p 8081 -e cat')
	eventually 20 inside sh -c 'netstat -ltn | grep :8081'
	sleep 1
	head -c 1048576 /dev/urandom >"$D/sent"
	timeout 60 bash -c "exec 9<>/dev/tcp/$ADDRESS/8081; cat '$D/sent' >&9 & head -c 1048576 <&9 >'$D/back'"
	cmp "$D/sent" "$D/back"
	crictl rm -f "$server"
}

# traffic CONDITION IPERF3-COMMAND…: jq finds that so of a second of it. Tried again, for a server refuses or resets who
# comes while it still ends the test before.
traffic() {
	eventually 5 traffic_once "$@" || {
		jq -c .error,.end "$FT/iperf.json" >&2
		return 1
	}
}

traffic_once() {
	local condition=$1
	shift
	"$@" --connect-timeout 5000 -t 1 -J >"$FT/iperf.json" && jq -e "$condition" "$FT/iperf.json"
}

@test "iperf3 between pods, with the host and from elsewhere: TCP both ways at once, and UDP" {
	perf=(/iperf/ld-linux-x86-64.so.2 --library-path /iperf /iperf/iperf3)
	mkdir "$FT/bin/iperf"
	# With its libraries: the container has none.
	mapfile -t libraries < <(ldd /usr/bin/iperf3 | grep -o "/[^ ]*")
	cp /usr/bin/iperf3 "${libraries[@]}" "$FT/bin/iperf/"
	mount=".mounts = [{host_path: \"$FT/bin/iperf\", container_path: \"/iperf\", readonly: true}] |
		.envs = [{key: \"TMPDIR\", value: \"/\"}]"
	server=$(run_script "$POD" iperf "exec ${perf[*]} -s -p 8080" "$mount")
	client=$(run_script "$OTHER" iperf 'exec sleep 600' "$mount")
	eventually 60 inside sh -c 'netstat -ltn | grep :8080'
	both='.end | [.sum_received, .sum_received_bidir_reverse] | map(.bytes >= 65536) | all'
	traffic "$both" crictl exec --timeout 60 -s "$client" "${perf[@]}" -c "$ADDRESS" -p 8080 --bidir
	traffic "$both" timeout 60 iperf3 -c "$ADDRESS" -p 8080 --bidir
	traffic "$both" ip netns exec "$REMOTE" timeout 60 iperf3 -c "10.216.${SUBNET##*.}.1" -p "$HOST_PORT" --bidir
	traffic '.end.sum | .packets >= 10 and .lost_packets < .packets / 2' \
		crictl exec --timeout 60 -s "$client" "${perf[@]}" -c "$ADDRESS6" -p 8080 -u -b 1M -l 1000
	crictl rm -f "$server" "$client"
}

@test "a stopped pod's address and port rules are given back" {
	id=$(run_pod gone ".port_mappings = [{protocol: 0, container_port: 80, host_port: $((HOST_PORT + 1))}]")
	iptables-save -t nat | grep -q -e "--dport $((HOST_PORT + 1)) "
	address=$(pod_field "$id" .network.ip)
	[ -e "/var/lib/cni/networks/$NET/$address" ]
	crictl stopp "$id"
	run grep -e "--dport $((HOST_PORT + 1)) " <(iptables-save -t nat)
	[ "$status" -eq 1 ]
	[ ! -e "/var/lib/cni/networks/$NET/$address" ]
	run ping -c 1 -W 1 "$address"
	[ "$status" -ne 0 ]
	remove_pod "$id"
}

# What the host believes of an address.
believed_mac() {
	ip -j neigh show "$1" dev "$NET" | jq -r '.[0].lladdr'
}

# The guest of POD claims the other pod's address; whether the host then believes it to be at this MAC. A
# neighbour that was learnt or confirmed in this second is not changed: not every claim is heard.
claim_other_address() {
	ping -c 1 -W 5 "$OTHER_ADDRESS"
	sleep 1.1
	crictl exec -s "$1" sh -c "ip address add $OTHER_ADDRESS/32 dev eth0
		arping -c 2 -A -I eth0 -s $OTHER_ADDRESS $OTHER_ADDRESS
		ip address del $OTHER_ADDRESS/32 dev eth0"
	[ "$(believed_mac "$OTHER_ADDRESS")" = "$2" ]
}

# The filter of POD's tap, which a test took away, comes back with any change of its addresses. Each is waited for in
# the guest, which hears of it last: the filter is not to come again while the next test has it away.
filter_again() {
	in_netns "$POD" ip address add "$SUBNET.249/32" dev eth0
	eventually 20 guest_shows "$SUBNET.249/32" -4 address show eth0
	eventually 20 eval 'in_netns "$POD" tc filter show dev tap0 parent ffff: | grep -q "pref 1 bpf"'
	in_netns "$POD" ip address del "$SUBNET.249/32" dev eth0
	eventually 20 guest_lacks "$SUBNET.249/32" -4 address show eth0
}

@test "a guest cannot send under another's address or MAC, unless the node permits it" {
	own=$(in_netns "$POD" ip -j link show eth0 | jq -r '.[0].address')
	other=$(in_netns "$OTHER" ip -j link show eth0 | jq -r '.[0].address')
	attacker=$(run_script "$POD" attacker 'exec sleep 600' \
		'.linux.security_context.capabilities = {add_capabilities: ["NET_ADMIN", "NET_RAW"]}')
	claim_other_address "$attacker" "$other"
	# From an address of its network that nobody gave it, and from a MAC that it made up.
	crictl exec -s "$attacker" ip address add "$SUBNET.250/24" dev eth0
	run crictl exec -s "$attacker" ping -c 1 -W 1 -I "$SUBNET.250" "$SUBNET.1"
	[ "$status" -ne 0 ]
	[ -z "$(ip neigh show "$SUBNET.250" dev "$NET")" ]
	crictl exec -s "$attacker" ip address del "$SUBNET.250/24" dev eth0
	inside ping -c 1 -W 5 "$SUBNET.1"
	# The same claim without the filter is believed: it is the filter that held.
	in_netns "$POD" tc filter delete dev tap0 parent ffff: prio 1
	eventually 3 claim_other_address "$attacker" "$own"
	crictl rm -f "$attacker"
	filter_again
	ip neigh flush dev "$NET"
}

@test "what a hostile guest forges or malforms reaches no other pod" {
	local mounts=".mounts = [{host_path: \"$FT/bin/frames\", container_path: \"/frames\", readonly: true}]"
	cp "$BUILD/tests/functional/frames" "$FT/bin/frames"
	victim=$(run_script "$OTHER" victim 'exec /frames watch eth0 60' "$mounts |
		.linux.security_context.privileged = true")
	eventually 20 crictl exec -s "$victim" grep -q ' 0003 ' /proc/net/packet
	attacker=$(run_script "$POD" forger 'exec sleep 600' "$mounts |
		.linux.security_context.privileged = true")
	# Beyond what its interface may carry: the guest's own kernel would not send it.
	crictl exec -s "$attacker" ip link set eth0 mtu 9000
	crictl exec -s "$attacker" /frames send eth0 "$OTHER_ADDRESS" "$V6:1::250" "$SUBNET.1" "$V6:1::1"
	[ "$(finish "$victim")" = 0 ]
	[ "$(output_of two victim)" = mark ]
	crictl rm "$victim"
	# Without the filter most of it comes: it is the filter that held. (A giant frame is too much for any link.)
	in_netns "$POD" tc filter delete dev tap0 parent ffff: prio 1
	victim=$(run_script "$OTHER" victim2 'exec /frames watch eth0 60' "$mounts |
		.linux.security_context.privileged = true")
	eventually 20 crictl exec -s "$victim" grep -q ' 0003 ' /proc/net/packet
	crictl exec -s "$attacker" /frames send eth0 "$OTHER_ADDRESS" "$V6:1::250" "$SUBNET.1" "$V6:1::1"
	[ "$(finish "$victim")" = 0 ]
	seen=$(output_of two victim2)
	for kind in arp-claim forged-ip4 forged-ip6 forged-mac segments checksum "nd 1" "nd 4"; do
		grep -qx "$kind" <<<"$seen"
	done
	run grep -x giant <<<"$seen"
	[ "$status" -ne 0 ]
	crictl exec -s "$attacker" ip link set eth0 mtu 1500
	crictl rm -f "$attacker" "$victim"
	filter_again
	ip neigh flush dev "$NET"
}

@test "inspection tells when the namespace is no longer as the plugins left it" {
	[ "$(crictl inspectp "$OTHER" | jq -r .info.cniCheck)" = ok ]
	in_netns "$OTHER" ip address del "$OTHER_ADDRESS/24" dev eth0
	[[ $(crictl inspectp "$OTHER" | jq -r .info.cniCheck) == *"CNI plugin 'bridge' CHECK: error"*"$OTHER_ADDRESS"* ]]
	in_netns "$OTHER" ip address add "$OTHER_ADDRESS/24" dev eth0
}

# guest_shows ADDRESS|ROUTE…: whether `ip COMMAND` in the guest has a line with the text.
guest_shows() {
	local text=$1
	shift
	inside ip "$@" | grep -qF -- "$text"
}

guest_lacks() {
	local text=$1 shown
	shift
	shown=$(inside ip "$@") && ! grep -qF -- "$text" <<<"$shown"
}

@test "what changes in the pod's namespace follows into the guest, and the filter with it" {
	in_netns "$POD" ip address add "$SUBNET.240/24" dev eth0
	in_netns "$POD" ip address add "$V6:1::240/64" dev eth0 nodad
	in_netns "$POD" ip route add 10.99.0.0/16 via "$SUBNET.1" src "$ADDRESS" metric 50
	in_netns "$POD" ip neighbor add "$SUBNET.241" lladdr 02:00:00:00:00:f1 dev eth0
	in_netns "$POD" ip link set eth0 mtu 1300
	eventually 20 guest_shows "$SUBNET.240/24" -4 address show eth0
	eventually 20 guest_shows "10.99.0.0/16 via $SUBNET.1" route
	eventually 20 guest_shows "mtu 1300" link show eth0
	guest_shows "metric 50" route show 10.99.0.0/16
	guest_shows "src $ADDRESS" route show 10.99.0.0/16
	guest_shows "$V6:1::240/64" -6 address show eth0
	guest_shows "$SUBNET.241 dev eth0 lladdr 02:00:00:00:00:f1" neigh show nud permanent
	in_netns "$POD" ip -j link show tap0 | jq -e '.[0].mtu == 1300'
	# The guest answers under them: the filter knows them, too.
	ping -c 1 -W 5 "$SUBNET.240"
	ping -6 -c 1 -W 5 "$V6:1::240"
	# While nobody looks one goes, and another comes.
	kill_bulkheadd
	in_netns "$POD" ip address del "$SUBNET.240/24" dev eth0
	in_netns "$POD" ip address del "$V6:1::240/64" dev eth0
	in_netns "$POD" ip neighbor del "$SUBNET.241" dev eth0
	in_netns "$POD" ip address add "$SUBNET.242/24" dev eth0
	start_bulkheadd
	eventually 20 guest_shows "$SUBNET.242/24" -4 address show eth0
	guest_lacks "$SUBNET.240/24" -4 address show eth0
	guest_lacks "$V6:1::240" -6 address show eth0
	guest_lacks "$SUBNET.241 " neigh show
	ping -c 1 -W 5 "$SUBNET.242"
	in_netns "$POD" ip address del "$SUBNET.242/24" dev eth0
	in_netns "$POD" ip route del 10.99.0.0/16
	in_netns "$POD" ip link set eth0 mtu 1500
	eventually 20 guest_shows "mtu 1500" link show eth0
	guest_lacks 10.99.0.0/16 route
	inside ping -c 1 -W 5 "$SUBNET.1"
}

@test "a link that loses its carrier, or goes down, in the namespace does so in the guest" {
	other=$(run_container "$OTHER" other)
	# Its other end, first: the carrier is lost, and all the rest stays.
	veth=$(host_end "$OTHER")
	ip link set "$veth" down
	eventually 20 eval '[ "$(crictl exec -s "$other" cat /sys/class/net/eth0/carrier)" = 0 ]'
	ip link set "$veth" up
	eventually 20 eval '[ "$(crictl exec -s "$other" cat /sys/class/net/eth0/carrier)" = 1 ]'
	ping -c 1 -W 5 "$OTHER_ADDRESS"
	address6=$(pod_field "$OTHER" '.network.additionalIps[0].ip')
	in_netns "$OTHER" ip link set eth0 down
	eventually 20 eval '[ "$(crictl exec -s "$other" cat /sys/class/net/eth0/flags)" = 0x1002 ]'
	in_netns "$OTHER" ip link set eth0 up
	in_netns "$OTHER" ip -4 route add default via "$SUBNET.1"
	# The kernel keeps no IPv6 address of a link that goes down; and bridge takes back what it finds on the link.
	in_netns "$OTHER" ip address add "$address6/64" dev eth0
	eventually 20 eval 'crictl exec -s "$other" ip -4 route | grep -q default'
	ping -c 1 -W 5 "$OTHER_ADDRESS"
	crictl rm -f "$other"
}

# use_redirect KIND: of the pods that are made from now on.
use_redirect() {
	stop_bulkheadd
	sed -i -e '/^  redirect:/d' -e "s|^network:|&\n  redirect: $1|" "$D/config.yaml"
	start_bulkheadd
}

@test "a macvtap takes an interface over as well, behind the same filter" {
	use_redirect macvtap
	third=$(run_pod third)
	# A pod keeps what it was made with.
	use_redirect tcfilter
	in_netns "$third" ip -d link show tap0 | grep -q "macvtap mode passthru"
	third_address=$(pod_field "$third" .network.ip)
	server=$(run_script "$third" server 'exec nc -ll -p 8080 -e echo hello' \
		'.linux.security_context.capabilities = {add_capabilities: ["NET_ADMIN", "NET_RAW"]}')
	eventually 20 eval '[ "$(inside nc -w 5 "$third_address" 8080 </dev/null)" = hello ]'
	ping -6 -c 1 -W 5 "$(pod_field "$third" '.network.additionalIps[0].ip')"
	claim_other_address "$server" "$(in_netns "$OTHER" ip -j link show eth0 | jq -r '.[0].address')"
	# Changes follow, and the filter with them.
	in_netns "$third" ip address add "$SUBNET.245/24" dev eth0
	in_netns "$third" ip link set eth0 mtu 1300
	eventually 20 eval 'crictl exec -s "$server" ip address show eth0 | grep -qF "$SUBNET.245/24"'
	eventually 20 eval 'crictl exec -s "$server" ip link show eth0 | grep -q "mtu 1300"'
	ping -c 1 -W 5 "$SUBNET.245"
	# bridge cannot take back an address that is not its own.
	in_netns "$third" ip address del "$SUBNET.245/24" dev eth0
	node=/dev/tap$(in_netns "$third" ip -j link show tap0 | jq '.[0].ifindex')
	[ -c "$node" ]
	remove_pod "$third"
	eventually 10 [ ! -e "$node" ]
	[ ! -e "/var/lib/cni/networks/$NET/$third_address" ]
}
