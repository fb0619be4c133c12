#!/usr/bin/env bats
# Pods with a user namespace ("hostUsers: false"): root in the pod is not root in its machine, and sees the files of its
# image, of its writable layer and of its volumes with the ids that they have there.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	export MAPPINGS='uids: [{host_id: 200000, container_id: 0, length: 65536}],
		gids: [{host_id: 300000, container_id: 0, length: 65536}]'
	export USERNS=".linux.security_context.namespace_options.userns_options = {mode: 0, $MAPPINGS}"
	export MAPPED='uidMappings: [{host_id: 200000, container_id: 0, length: 65536}],
		gidMappings: [{host_id: 300000, container_id: 0, length: 65536}]'
	POD=$(run_pod pod "$USERNS")
	export POD
	export V=$FT/volumes KUBELET=$FT/kubelet/pods/uid/volumes
	mkdir -p "$V" "$KUBELET"
}

teardown_file() {
	[ -z "$KUBELET" ] || umount "$KUBELET/kubernetes.io~empty-dir/memory" || true
	instance_teardown
}

# once SCRIPT [JQ-FILTER]: its output, from a container in the shared pod.
once() {
	run_once "$POD" pod once "$1" "$USERNS | ${2:-.}"
}

# mount_of CONTAINER-PATH HOST-PATH [FIELDS]: one mount in JSON, mapped unless the fields say otherwise.
mount_of() {
	jq -nc --arg c "$1" --arg h "$2" "{container_path: \$c, host_path: \$h} + {${3-$MAPPED}}"
}

@test "files of the image, the writable layer and memory are the pod's; root there is nobody's root" {
	run once 'id -u; tr -s " " </proc/self/uid_map; tr -s " " </proc/self/gid_map
		mkdir /made; chown 1000:1001 /made; echo x >>/bin/sh.copy; echo in /dev/shm >/dev/shm/x; mkfifo /fifo
		stat -c "%n %u:%g" / /bin /bin/busybox /made /fifo /dev /dev/null /dev/shm /dev/shm/x /etc/hosts /proc/self/
		stat -c "%n %u:%g" /proc/cpuinfo /sys; chown 70000 /made || echo not mapped' \
		'.linux.security_context.capabilities = {add_capabilities: ["CHOWN"]}'
	echo "$output"
	[ "$output" = "$(printf '%s\n' 0 " 0 200000 65536" " 0 300000 65536" \
		"/ 0:0" "/bin 0:0" "/bin/busybox 0:0" "/made 1000:1001" "/fifo 0:0" "/dev 0:0" "/dev/null 0:0" "/dev/shm 0:0" \
		"/dev/shm/x 0:0" "/etc/hosts 0:0" "/proc/self/ 0:0" "/proc/cpuinfo 65534:65534" "/sys 65534:65534" \
		"not mapped" "chown: /made: Invalid argument")" ]
	# Its user is found in the image's files, as everywhere.
	[ "$(once 'id -u; echo x >/tmp/x; stat -c %u /tmp/x /proc/self/' \
		'.linux.security_context.run_as_user = {value: 1234}')" = "$(printf '1234\n1234\n1234')" ]
	[ "$(once 'stat -c %u:%g "$(tty)"' '.tty = true' | tr -d '\r')" = 0:5 ]
}

@test "volumes have their own ids where the client maps them, and nobody's where it does not" {
	mkdir -p "$V/own/sub" "$KUBELET/kubernetes.io~secret/s" "$KUBELET/kubernetes.io~empty-dir/memory"
	echo root >"$V/own/root"
	echo web >"$V/own/web"
	chown 1000:1001 "$V/own/web"
	chmod 0600 "$V/own/root" "$V/own/web"
	echo key >"$KUBELET/kubernetes.io~secret/s/key"
	chmod 0400 "$KUBELET/kubernetes.io~secret/s/key"
	mount -t tmpfs -o size=1m,mode=0770,gid=1001 tmpfs "$KUBELET/kubernetes.io~empty-dir/memory"
	script='stat -c "%n %u:%g" /own /own/web /own/root /nobody/root /s/key /m
		cat /own/root /own/web /s/key; touch /m/new; stat -c "%n %u:%g" /k/kubernetes.io~empty-dir/memory /i/bin; cat /nobody/root || echo denied
		echo new >/own/sub/new; mkdir /own/dir; chown 1000:1001 /own/dir; stat -c "%n %u:%g" /own/sub/new /m/new'
	id=$(run_script "$POD" c "$script" "$USERNS | .mounts = [$(mount_of /own "$V/own"), $(mount_of /nobody "$V/own" ''),
		$(mount_of /s "$KUBELET/kubernetes.io~secret/s" "readonly: true, $MAPPED"),
		$(mount_of /m "$KUBELET/kubernetes.io~empty-dir/memory"), $(mount_of /k "$KUBELET"),
		{container_path: \"/i\", image: {image: \"$IMAGE\"}, readonly: true}]")
	[ "$(finish "$id")" = 0 ]
	[ "$(output_of pod c)" = "$(printf '%s\n' "/own 0:0" "/own/web 1000:1001" "/own/root 0:0" "/nobody/root 65534:65534" \
		"/s/key 0:0" "/m 0:1001" root web key "/k/kubernetes.io~empty-dir/memory 0:1001" "/i/bin 0:0" denied "/own/sub/new 0:0" "/m/new 0:0")" ]
	crictl rm "$id"
	# On the host the files are whose they were and would be without a pod.
	[ "$(stat -c %u:%g "$V/own/sub/new" "$V/own/dir" "$V/own/root")" = "$(printf '0:0\n1000:1001\n0:0')" ]
}

@test "with all capabilities root has its own namespaces, and nothing of the machine's" {
	run once 'mkdir /mnt; mount -t tmpfs none /mnt && echo mounted; hostname other && hostname; ip link set lo mtu 1400 && echo linked
		date -s @1 2>&1 >/dev/null | grep -o permitted; mknod /n c 1 3 2>&1 | grep -o permitted
		dmesg 2>&1 | grep -o permitted; echo 1 2>/dev/null >/proc/sys/vm/drop_caches || echo kept
		mount -t ext4 /dev/sda /mnt 2>/dev/null || echo no disk; umount /dev/shm 2>/dev/null || echo locked
		kill -9 $(ls /proc | grep -v "[^0-9]" | head -1) 2>&1 | grep -o permitted' \
		'.linux.security_context.capabilities = {add_capabilities: ["ALL"]} |
		 .linux.security_context.namespace_options.pid = 2'
	echo "$output"
	[ "$output" = "$(printf '%s\n' mounted other linked permitted permitted permitted kept "no disk" locked permitted)" ]
	# The pod has its addresses, and answers, from a network namespace that belongs to it.
	[ "$(once 'ip -o link | grep -c eth0; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo pong')" = "$(printf '1\npong')" ]
}

@test "exec, a restart of the server, a second container: all of one user namespace; a debug console is the machine's" {
	first=$(run_container "$POD" first "$USERNS")
	second=$(run_container "$POD" second "$USERNS")
	ns=$(crictl exec -s "$first" readlink /proc/self/ns/user)
	[ "$ns" = "$(crictl exec -s "$second" readlink /proc/self/ns/user)" ]
	kill_bulkheadd
	sed -i "s|^hypervisor:|&\n  debug_console: $(command -v busybox)|" "$D/config.yaml"
	start_bulkheadd
	[ "$ns" = "$(crictl exec -s "$second" readlink /proc/self/ns/user)" ]
	[ "$(crictl exec -s "$first" sh -c 'id -u; echo x >/x; stat -c %u /x /proc/self/')" = "$(printf '0\n0\n0')" ]
	[ "$(ctl console --shell pod sh -c 'id -u; cat /proc/self/uid_map' | tr -s ' ')" = "$(printf '0\n 0 0 4294967295')" ]
	[ "$(ctl console --shell pod sh -c 'readlink /proc/self/ns/user')" != "$ns" ]
	[ "$(crictl inspectp "$POD" | jq '.status.linux.namespaces.options.usernsOptions.uids[0].hostId')" = 200000 ]
	crictl rm -f "$first" "$second"
}

@test "what does not fit the pod's user namespace is refused" {
	refused Unknown "different from container" create_container "$POD" bad
	refused Unknown "different from container" create_container "$POD" bad "$USERNS |
		.linux.security_context.namespace_options.userns_options.uids[0].host_id = 7"
	refused Unknown "privileged: a pod with a user namespace" create_container "$POD" bad \
		"$USERNS | .linux.security_context.privileged = true"
	refused Unknown "mapped otherwise" create_container "$POD" bad "$USERNS |
		.mounts = [$(mount_of /own "$V" "$MAPPED") | .uidMappings[0].host_id = 7]"
	# A file system of the node that knows no mapping.
	refused Unknown "failed to set MOUNT_ATTR_IDMAP" create_container "$POD" bad \
		"$USERNS | .mounts = [$(mount_of /own /proc/sys)]"
	refused Unknown "user 70000" create_container "$POD" bad "$USERNS | .linux.security_context.run_as_user = {value: 70000}"
	[ -z "$(crictl ps -aq --name bad)" ]
}
