#!/usr/bin/env bats
# What a container's process is and may do: signals, limits, seccomp, capabilities, users, namespaces, sysctls,
# hidden paths; and what a privileged one reaches: all of its machine, nothing of the host.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	make_image "$FT/img" >/dev/null
	export IMAGE=oci:$FT/img:latest
	crictl pull "$IMAGE" >/dev/null
	POD=$(run_pod pod '.hostname = "the-host" | .linux.sysctls = {
		"kernel.shmmax": "123456789", "kernel/shm_rmid_forced": "1", "fs.mqueue.msg_max": "20",
		"net.ipv4.ip_unprivileged_port_start": "80", "net/core/somaxconn": "77",
		"vm.max_map_count": "262145"}')
	export POD
}

teardown_file() {
	instance_teardown
}

teardown() {
	[ -z "${OPENERS:-}" ] || kill "$OPENERS" 2>/dev/null || true
}

# busybox, a set-uid su, and the program that tries things.
make_image() {
	local work
	work=$(mktemp -d) && umoci init --layout "$1" && make_busybox_tree "$work/root" &&
		install -d "$work/root/suid" &&
		install -m 4755 /bin/busybox "$work/root/suid/su" &&
		install -m 0755 "$BUILD/tests/functional/reach" "$work/root/bin/reach" &&
		tar_tree "$work/root" "$work/layer.tar" && umoci new --image "$1:latest" &&
		add_layer "$1:latest" "$work/layer.tar" &&
		configure_image "$1:latest" --config.cmd sh --config.stopsignal SIGUSR2 && rm -rf "$work"
}

# once SCRIPT [JQ-FILTER]: its output, from a container in the shared pod.
once() {
	run_once "$POD" pod once "$1" "${2:-.}"
}

# with CONTEXT SCRIPT: the same with a security context.
with() {
	once "$2" ".linux.security_context = $1"
}

# ---- process ----

@test "the stop signal is the container's, else the image's" {
	script='trap "exit 11" USR1; trap "exit 12" USR2; trap "exit 15" TERM; echo; while :; do sleep 0.1; done'
	id=$(run_script "$POD" images "$script")
	named=$(run_script "$POD" named "$script" '.stop_signal = 29')
	for name in images named; do
		eventually 10 test -s "$D/logs/pod/$name.log"
	done
	crictl stop -t 20 "$id" "$named"
	[ "$(container_field "$id" .exitCode)" = 12 ]
	[ "$(container_field "$named" .exitCode)" = 11 ]
	crictl rm "$id" "$named"
}

@test "a process's limits, umask and OOM score, for exec'd ones too" {
	limits='cat /proc/self/oom_score_adj; umask; ulimit -n; ulimit -Hn; ulimit -c; ulimit -u'
	expected=$'500\n0022\n1024\n524288\n0\nunlimited'
	[ "$(once "$limits" '.linux.resources.oom_score_adj = 500')" = "$expected" ]
	id=$(run_container "$POD" limits '.linux.resources.oom_score_adj = 500')
	[ "$(crictl exec -s "$id" sh -c "$limits")" = "$expected" ]
	crictl rm -f "$id"
}

# ---- seccomp ----

@test "seccomp: nothing where nothing is asked, the runtime's default, and none for privileged ones" {
	seccomp='sed -n "s/^Seccomp:\t//p" /proc/self/status; reach call 272 0'
	[ "$(with '{}' "$seccomp")" = $'0\nok' ]
	[ "$(with '{seccomp: {profile_type: 1}}' "$seccomp")" = $'0\nok' ]
	[ "$(with '{seccomp: {profile_type: 0}}' "$seccomp")" = $'2\n1' ]
	[ "$(with '{seccomp: {profile_type: 0}, privileged: true}' "$seccomp")" = $'0\nok' ]
	[ "$(with '{seccomp_profile_path: "runtime/default"}' "$seccomp")" = $'2\n1' ]
}

@test "seccomp's default: without vsock, keys and clone3, also by the 32-bit entry; more with a capability" {
	# socket(AF_VSOCK), keyctl, clone3; 32-bit keyctl and unshare
	run with '{seccomp: {profile_type: 0}}' 'reach call 41 40 1; reach call 250 0; reach call 435
		reach call32 288; reach call32 310; reach call 499; hostname x 2>&1; hostname'
	[ "$output" = $'1\n1\n38\n1\n1\n38\nhostname: sethostname: Operation not permitted\nthe-host' ]
	run with '{seccomp: {profile_type: 0}, capabilities: {add_capabilities: ["SYS_ADMIN"]}}' \
		'hostname x; hostname; reach call 272 0'
	[ "$output" = $'x\nok' ]
}

# localhost PROFILE-JSON SCRIPT [CONTEXT-FIELDS]: a container under a profile of the node.
localhost() {
	echo "$1" >"$D/profile.json"
	with "{seccomp: {profile_type: 2, localhost_ref: \"$D/profile.json\"} ${3:-}}" "$2"
}

@test "seccomp: a node's profile, for root, other users and exec'd processes" {
	# chmod by all its names answers EACCES, kill(2) of oneself by signal 10 kills.
	profile='{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
		{"names": ["chmod", "fchmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
		{"names": ["umask"], "action": "SCMP_ACT_KILL_PROCESS",
		 "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]}]}'
	run localhost "$profile" 'chmod 600 /etc/passwd 2>&1; reach call 95 6; reach call 95 7; echo $?'
	[ "${lines[0]}" = "chmod: /etc/passwd: Permission denied" ]
	[ "${lines[1]}" = ok ]
	[ "${lines[2]}" = 159 ]
	run localhost "$profile" 'reach call 90 0 0; grep -E "NoNewPrivs|Seccomp:|CapPrm" /proc/self/status' \
		', run_as_user: {value: 1000}'
	[ "$output" = $'13\nCapPrm:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2' ]
	id=$(run_container "$POD" profiled ".linux.security_context.seccomp = {profile_type: 2,
		localhost_ref: \"localhost/$D/profile.json\"}")
	[ "$(crictl exec -s "$id" reach call 90 0 0)" = 13 ]
	# The filter is the container's, not the file's of later.
	rm "$D/profile.json"
	restart_bulkheadd
	[ "$(crictl exec -s "$id" reach call 90 0 0)" = 13 ]
	crictl rm -f "$id"
}

@test "seccomp: a profile that is missing or wrong is refused and says where" {
	local security='.linux.security_context.seccomp = {profile_type: 2, localhost_ref:'
	refused Unknown "/no/such.json" create_container "$POD" bad "$security \"/no/such.json\"}"
	echo '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["umask"],
		"action": "SCMP_ACT_NOTIFY"}]}' >"$D/profile.json"
	refused Unknown "syscalls[0]: SCMP_ACT_NOTIFY" create_container "$POD" bad \
		"$security \"$D/profile.json\"}"
	refused Unknown "invalid profile" create_container "$POD" bad \
		'.linux.security_context.seccomp_profile_path = "/tmp/x.json"'
	refused Unknown "apparmor is not supported" create_container "$POD" bad \
		'.linux.security_context.apparmor = {profile_type: 2, localhost_ref: "mine"}'
	id=$(run_container "$POD" labelled '.linux.security_context = {apparmor: {profile_type: 0},
		selinux_options: {level: "s0:c1"}}')
	crictl inspect "$id" | jq -e '.info | tojson | contains("selinux") and contains("apparmor")'
	crictl rm -f "$id"
}

# ---- capabilities and users ----

@test "ambient capabilities are another user's; no_new_privs takes a set-uid program's effect" {
	run with '{run_as_user: {value: 1000}, capabilities: {drop_capabilities: ["ALL"],
		add_ambient_capabilities: ["NET_ADMIN"]}}' 'grep Cap /proc/self/status | cut -f 2'
	[ "$(sort -u <<<"$output")" = 0000000000001000 ]
	run with '{run_as_user: {value: 1000}}' '/suid/su -c true </dev/null 2>&1'
	[[ $output != *"must be suid"* ]]
	run with '{run_as_user: {value: 1000}, no_new_privs: true}' '/suid/su -c true </dev/null 2>&1'
	[[ $output == *"must be suid"* ]]
}

@test "groups: merged with the image's or strictly those asked for, and told in the status" {
	context='{run_as_username: "www-data", supplemental_groups: [5, 6]}'
	[ "$(with "$context" 'id -G')" = "33 5 6 100" ]
	id=$(run_container "$POD" strict ".linux.security_context = $context + {supplemental_groups_policy: 1}")
	[ "$(crictl exec -s "$id" id -G)" = "33 5 6" ]
	crictl inspect "$id" | jq -e '.status.user.linux ==
		{uid: "33", gid: "33", supplementalGroups: ["33", "5", "6"]}'
	crictl rm -f "$id"
}

# ---- namespaces ----

@test "a debug container sees the processes of its target, and ends with it" {
	target=$(run_container "$POD" target '.command = ["sleep", "4321"] |
		.linux.security_context.namespace_options = {pid: 1}')
	other=$(run_container "$POD" aside '.command = ["sleep", "1234"] |
		.linux.security_context.namespace_options = {pid: 1}')
	debugger=$(run_container "$POD" debugger ".linux.security_context.namespace_options =
		{pid: 3, target_id: \"$target\"}")
	run crictl exec -s "$debugger" sh -c 'cat /proc/[0-9]*/cmdline | tr "\0" " "'
	[[ $output == *"sleep 4321"* && $output != *"sleep 1234"* ]]
	[ "$(crictl exec -s "$debugger" cat /proc/1/comm)" = sleep ]
	crictl stop -t 0 "$target"
	wait_state "$debugger" CONTAINER_EXITED
	refused Unknown "no such running container" create_container "$POD" late \
		".linux.security_context.namespace_options = {pid: 3, target_id: \"$target\"}"
	refused Unknown "no such running container" create_container "$POD" late \
		'.linux.security_context.namespace_options = {pid: 3, target_id: "nobody"}'
	crictl rm -f "$target" "$other" "$debugger"
}

@test "orphans are reaped in the pod's PID namespace" {
	run with '{namespace_options: {pid: 0}}' '(sleep 0.2 & sleep 0.3 &) ; sleep 1
		i=0; while ps -o stat | grep -q Z && [ $i -lt 50 ]; do sleep 0.1; i=$((i + 1)); done; ps -o stat,comm'
	echo "$status: $output"
	[[ $output == *pause* ]]
	[[ $output != *Z* ]]
}

@test "what a pod's machine cannot do with namespaces is refused by its name, before anything is made" {
	mappings='uids: [{host_id: 100000, container_id: 0, length: 65536}],
		gids: [{host_id: 100000, container_id: 0, length: 65536}]'
	userns='.linux.security_context.namespace_options.userns_options ='
	refused Unknown "mode 1" run_pod bad "$userns {mode: 1, $mappings}"
	refused Unknown "one uid mapping" run_pod bad "$userns {mode: 0}"
	refused Unimplemented hostNetwork run_pod bad '.linux.security_context.namespace_options.network = 2'
	[ -z "$(crictl pods -q --name bad)" ]
	# The node's IPC and processes mean the machine's: allowed, and harmless.
	[ "$(with '{namespace_options: {ipc: 2, pid: 2}}' 'cat /proc/1/comm')" != sh ]
}

# ---- sysctls ----

@test "the pod's sysctls, unsafe ones too, with dots and with slashes" {
	run once 'cat /proc/sys/kernel/shmmax /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max \
		/proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/core/somaxconn \
		/proc/sys/vm/max_map_count'
	[ "$output" = $'123456789\n1\n20\n80\n77\n262145' ]
}

@test "a sysctl that does not exist or a value that the kernel does not take ends the pod by its name" {
	run run_pod bad '.linux.sysctls = {"kernel.no_such": "1"}'
	[ "$status" -ne 0 ]
	[[ $output == *kernel.no_such* ]]
	refused Unknown "../../etc" run_pod bad '.linux.sysctls = {"kernel/../../etc": "1"}'
	[ -z "$(crictl pods -q --name bad)" ]
}

# ---- paths ----

@test "masked and read-only paths hold against root" {
	run with '{masked_paths: ["/proc/cmdline", "/sys/firmware", "/bin/ls"], readonly_paths: ["/proc/sys", "/var"]}' \
		'exec 2>&1; wc -c </proc/cmdline; /bin/ls /; /bin/busybox ls -A /sys/firmware; echo 1 >/proc/sys/vm/overcommit_memory
		touch /var/x; umount /var; mount -o remount,rw /var; echo end'
	echo "$output"
	[ "${lines[0]}" = 0 ]
	[[ ${lines[1]} == *"/bin/ls: Permission denied" ]]
	[[ ${lines[2]} == *"/proc/sys/vm/overcommit_memory: Read-only file system" ]]
	[[ ${lines[3]} == *"/var/x: Read-only file system" ]]
	[[ ${lines[4]} == umount:* && ${lines[5]} == mount:* ]]
	[ "${lines[6]}" = end ]
}

# ---- privileged ----

layer_sums() {
	sha256sum "$D"/state/images/layers/*.erofs
}

# status_is PID FIELD VALUE...: what /proc says of the process.
status_is() {
	local value
	value=$(sed -n "s/^$2:\t//p" "/proc/$1/status")
	[[ " ${*:3} " == *" $value "* ]] || { echo "$(cat "/proc/$1/comm"): $2 is $value"; false; }
}

# has_own PID NAMESPACE...: apart from ours.
has_own() {
	local ns
	for ns in "${@:2}"; do
		[ "$(readlink "/proc/$1/ns/$ns")" != "$(readlink "/proc/self/ns/$ns")" ] ||
			{ echo "$(cat "/proc/$1/comm") shares $ns"; false; }
	done
}

@test "QEMU and its helpers: no capabilities, a filter, namespaces, only their pod's files, no core dumps" {
	local pid name others seen=""
	for pid in $(pod_processes "$POD") "$(cat "$D/pid")"; do
		name=$(cat "/proc/$pid/comm")
		seen+=" $name"
		grep -E '^Max core file size +0 +0 ' "/proc/$pid/limits"
		case $name in
		bulkheadd) continue ;;
		# chown, dac_override, fowner, fsetid, setgid, setuid, setfcap; its parent waits and has none.
		virtiofsd) status_is "$pid" CapPrm 00000000800000db 0000000000000000 ;;
		*)
			status_is "$pid" CapPrm 0000000000000000
			status_is "$pid" NoNewPrivs 1
			[ "$(awk '/^Uid:/ {print $2}' "/proc/$pid/status")" -ne 0 ]
			;;
		esac
		status_is "$pid" CapEff "$(sed -n 's/^CapPrm:\t//p' "/proc/$pid/status")"
		has_own "$pid" mnt
		case $name in
		qemu*)
			status_is "$pid" Seccomp 2
			has_own "$pid" net ipc uts
			;;
		bulkhead-vsock | bulkhead-consol)
			[ "${VARIANT:-release}" = asan ] || status_is "$pid" Seccomp 2
			status_is "$pid" CapBnd 0000000000000000
			has_own "$pid" net ipc uts
			[ "$(readlink "/proc/$pid/root")" = "$D/run/vm/$POD" ]
			;;
		virtiofsd)
			has_own "$pid" net
			! grep -q '^CapPrm:.*[1-9a-f]' "/proc/$pid/status" || status_is "$pid" Seccomp 2
			;;
		esac
		others=$(readlink "/proc/$pid"/fd/* | grep "^$D/" | grep -v -e "$POD" -e "^$D/state/images/layers/" -e "^$D/reports/" || true)
		[ -z "$others" ] || { echo "$name has $others open"; false; }
	done
	for name in qemu virtiofsd bulkhead-consol bulkheadd; do
		[[ $seen == *" $name"* ]]
	done
}

# ids_of PID FIELD: the effective user, group, or the other groups, separated by commas.
ids_of() {
	case $2 in
	Groups) sed -n 's/^Groups:\t//p' "/proc/$1/status" | xargs | tr ' ' , ;;
	*) sed -n "s/^$2:\t//p" "/proc/$1/status" | cut -f 2 ;;
	esac
}

# has_of POD OTHER: what one that has the rights of POD's QEMU has of OTHER's machine, a word a line.
has_of() {
	local me them fd groups monitor files=()
	monitor=$(echo "$D"/state/libvirt/lib/qemu/domain-*-"bh-${2:0:17}"/monitor.sock)
	[ -S "$monitor" ] || echo no-monitor
	me=$(cat "$D/run/libvirt/qemu/bh-$1.pid") them=$(cat "$D/run/libvirt/qemu/bh-$2.pid")
	for fd in "/proc/$them/fd"/*; do
		case $(readlink "$fd") in
		/memfd:*) files+=(memory "$fd") ;;
		*.ext4) files+=(open-disk "$fd") ;;
		esac
	done
	files+=(disk "$D/state/scratch/$2.ext4" monitor "$monitor" monitors-place "$(dirname "$monitor")")
	for fd in console vhost vsock share; do
		[ ! -e "$D/run/vm/$2/$fd.sock" ] || files+=("$fd" "$D/run/vm/$2/$fd.sock")
	done
	groups=$(ids_of "$me" Groups)
	# shellcheck disable=SC2016 # the other bash's
	setpriv --reuid "$(ids_of "$me" Uid)" --regid "$(ids_of "$me" Gid)" \
		"${groups:+--groups=}${groups:---clear-groups}" bash -c '
		kill -0 "$1" && echo signal
		for ((i = 2; i < $#; i += 2)); do
			file=${@:i+1:1}
			if [[ -S $file || -d $file ]]; then [ -w "$file" ]; else : <>"$file"; fi && echo "${@:i:1}"
		done
		true' has "$them" "${files[@]}" 2>/dev/null | sort -u
}

@test "a QEMU that was taken over has nothing of another pod's machine: each has a user of its own" {
	local other pod uids
	other=$(run_pod neighbour)
	# What its own machine has: not the monitor, at which bulkheadd knows it, nor that one's directory.
	for pod in "$POD" "$other"; do
		[ "$(has_of "$pod" "$pod" | grep -vx vhost)" = $'console\ndisk\nmemory\nopen-disk\nshare\nsignal' ]
	done
	[ -z "$(has_of "$POD" "$other")" ]
	[ -z "$(has_of "$other" "$POD")" ]
	uids=$(for pid in $(pod_processes "$POD"); do
		[ "$(cat "/proc/$pid/comm")" = virtiofsd ] || sed -n 's/^Uid:\t//p' "/proc/$pid/status" | tr '\t' '\n'
	done | sort -u)
	[ "$uids" -ge $((0x70000001)) ]
	[ "$uids" -le $((0x7ffdffff)) ]
	remove_pod "$other"
}

@test "a pod's agent serves nobody who does not know its machine's key" {
	"$BUILD/tests/functional/vsock_client" "$D/run/vm/$POD/vsock.sock" stranger
}

@test "secrets are in no log, and in no file but the records; nobody else may read those, or write any" {
	local id found
	id=$(run_container "$POD" keeper '.envs = [{key: "TOKEN", value: "env-of-this-test"}]')
	[ "$(crictl exec -s "$id" sh -c 'echo $TOKEN')" = env-of-this-test ]
	run crictl pull --creds user:creds-of-this-test 127.0.0.1:1/nobody/there:latest
	[ "$status" -ne 0 ]
	[[ $output != *creds-of-this-test* ]]
	# Of this directory: logs, records, sockets' places, what libvirt, QEMU and the helpers keep.
	found=$(grep -rlasF -e env-of-this-test -e creds-of-this-test --exclude='*.ext4' \
		--devices=skip "$D/state" "$D/run" "$D/log" "$D/logs" | grep -v "^$D/state/state.db\(-wal\|-shm\)\?$" || true)
	[ -z "$found" ] || { echo "in $found"; false; }
	run grep -aqF creds-of-this-test "$D"/state/state.db*
	[ "$status" -eq 1 ]
	[ "$(stat -c '%a %U' "$D"/state/state.db* | sort -u)" = "600 root" ]
	# QEMUs' monitors are root's, whose group has no others in it.
	found=$(find "$D/state" "$D/run" -ignore_readdir_race ! -type l ! -path '*/share/*' \( -perm /002 -o -perm /020 ! -group root \) \
		-printf '%m %p\n')
	[ -z "$found" ] || { echo "can be written by others: $found"; false; }
	crictl rm -f "$id"
}

@test "a guest that swaps directories of its volume for links leads neither the host nor virtiofsd out of it" {
	local kubelet=$D/kubelet/pods/uid
	local volume=$kubelet/volumes/kubernetes.io~empty-dir/v sub=$kubelet/volume-subpaths/v/looker/0
	mkdir -p "$volume/dir" "$sub" "$D/kept"
	echo secret >"$D/kept/word"
	echo own >"$volume/dir/word"
	ln -s "$D/kept" "$volume/link"
	ln -s ../../../../../../kept "$volume/up"
	# As a kubelet does for a subPath, once it has looked.
	mount --bind "$volume/dir" "$sub"
	swapper=$(run_script "$POD" swapper "mkdir /s && mount -t virtiofs pod /s
		while [ ! -e /v/stop ]; do
			reach swap /v/dir /v/link 51; reach swap /v/dir /v/up 50; sleep 0.05
			cat /v/*/word /s/dir/word /s/*/dir/word /s/*/dir/../../../word /s/*/link/word 2>&1
		done; exit 0" ".linux.security_context.privileged = true | .mounts = [{container_path: \"/v\", host_path: \"$volume\"}]")
	eventually 60 grep -q ' 51$' "$D/logs/pod/swapper.log"
	# The host finds the volume by the subPath's bind, the agent looks for it, and makes a mount point on its way.
	for point in /point /v/dir/point; do
		run run_once "$POD" pod looker "for i in 1 2 3 4 5; do
			cat /s/word /v/dir/word; echo x >/s/new; echo x >/v/dir/new; done" "
			.mounts = [{container_path: \"/v\", host_path: \"$volume\"}, {container_path: \"/s\", host_path: \"$sub\"},
			{container_path: \"$point\", host_path: \"$D/vol/rw\"}]"
		echo "$output"
		[[ $output != *secret* ]]
		crictl ps -a -q --name looker | xargs -r "$TOOLS/crictl" --config "$D/crictl.yaml" rm -f
		rm -f "$D/logs/pod/looker.log"
	done
	touch "$volume/stop"
	[ "$(finish "$swapper")" = 0 ]
	run output_of pod swapper
	[[ $output == *own* && $output != *secret* ]]
	[ "$(ls -A "$D/kept")" = word ]
	[ "$(cat "$D/kept/word")" = secret ]
	crictl rm "$swapper"
	umount "$sub"
	[ "$(cat "$D/kept/word")" = secret ]
}

@test "a privileged container has all of its machine and reaches nothing of the host" {
	layer_sums >"$FT/sums"
	run with '{privileged: true, namespace_options: {pid: 2}}' '
		for d in /dev/sd*; do
			echo hostile | dd of=$d bs=512 seek=4 conv=fsync 2>/dev/null && echo "wrote $d"
			blockdev --setrw $d; echo hostile | dd of=$d bs=512 seek=4 conv=fsync 2>/dev/null && echo "wrote $d"
			mkdir -p /mnt; mount -o rw $d /mnt 2>/dev/null && { touch /mnt/hostile 2>/dev/null && echo "touched $d"; umount /mnt; }
		done
		ls /dev/sd* | wc -l
		echo x >/sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null; mount | grep -q "sysfs.*rw" && echo "sysfs is writable"
		for node in mem kmem port kvm vhost-vsock vfio; do [ ! -e /dev/$node ] || echo "/dev/$node"; done
		[ ! -e /proc/modules ] || echo modules
		echo "random from $(cat /sys/class/misc/hw_random/rng_current)"
		reach call 175 0 0 0
		reach vsock 1 64; reach vsock 1000 1100'
	echo "$output"
	[ "$status" -eq 0 ]
	[[ $output == *"sysfs is writable"* ]]
	grep -qx "random from virtio_rng.0" <<<"$output"
	# The one disk that may be written is the pod's own scratch disk.
	scratch=$(grep -E 'wrote|touched' <<<"$output" | awk '{print $2}' | sort -u)
	[ "$(wc -w <<<"$scratch")" -le 1 ]
	found=$(grep -E '/dev/(mem|kmem|port|kvm|vhost|vfio)|modules|answers' <<<"$output" || true)
	[ -z "$found" ]
	# No module can be loaded: the guest's kernel has no such call.
	grep -qx 38 <<<"$output"
	cmp <(layer_sums) "$FT/sums"
	# The node lives, and so do other pods of the same image.
	other=$(run_pod other)
	[ "$(run_once "$other" other alive 'echo fine')" = fine ]
	remove_pod "$other"
}

@test "a disk on which a guest wrote other file systems, partitions and disks is opened by nobody on the host but QEMU" {
	pod=$(run_pod forging)
	disk=$D/state/scratch/$pod.ext4
	id=$(run_container "$pod" forger '.linux.security_context.privileged = true')
	"$BUILD/tests/functional/openers" "$disk" >"$FT/openers" 2>&1 3>&- &
	OPENERS=$!
	eventually 20 grep -qx watching "$FT/openers"
	# A QCOW2 image with the records as its backing file; a partition; btrfs beside the ext4 that is there.
	crictl exec -s "$id" sh -c '
		put() { printf "$2" | dd of=$disk bs=1 seek=$1 conv=notrunc,fsync 2>/dev/null; }
		for disk in /dev/sd?; do
			put 0 "QFI\xfb\0\0\0\2\0\0\0\0\0\0\1\0\0\0\0\x20\0\0\0\x10" || continue
			put 256 '"'$D/state/state.db'"'
			put 446 "\x80\0\2\0\x83\0\x3f\0\1\0\0\0\xff\xff\0\0"
			put 510 "\x55\xaa"
			put 65600 _BHRfS_M && echo "forged $disk"
		done' | grep -c forged | grep -x 1
	crictl statsp -o json --id "$pod" | jq -e '.stats | length == 1' >/dev/null
	kill_bulkheadd
	start_bulkheadd
	assert_consistent
	[ "$(pod_field "$pod" .state)" = SANDBOX_READY ]
	crictl stats -a -o json >/dev/null
	crictl imagefsinfo >/dev/null
	crictl stopp "$pod"
	exec 9<"$disk"
	head -c 3 <&9 | grep -x QFI
	remove_pod "$pod"
	# It was seen who opened it: this test.
	eventually 20 grep -qx bash "$FT/openers"
	exec 9<&-
	# QEMU opens what it has anew, to read, when it lets go of a disk.
	[ "$(grep -v '^qemu-system-x86$' "$FT/openers")" = $'watching\nbash' ]
}

@test "a privileged container that mounts the pod's share gets no more of the host than its volumes as they were given" {
	mkdir -p "$D/vol/ro" "$D/vol/rw"
	echo kept >"$D/vol/ro/file"
	echo secret >"$D/vol/secret"
	# A pod of its own: the test before wrote over the other's scratch disk.
	pod=$(run_pod sharing)
	run run_once "$pod" sharing prober "exec 2>&1
		mkdir /s && mount -t virtiofs pod /s && echo mounted
		cat /ro/file; mount -o remount,rw /ro && echo remounted
		for file in /ro/file \$(find /s -name file); do echo hostile >\$file; rm \$file; done
		find /s -name secret; cat /s/../secret /s/*/../secret /s/*/../../secret
		ln -s $D/vol/secret /rw/link && cat /rw/link
		mknod /rw/disk b 8 0 && echo made a device
		echo mine >/rw/mine; echo end" ".linux.security_context.privileged = true | .mounts = [
		{container_path: \"/ro\", host_path: \"$D/vol/ro\", readonly: true},
		{container_path: \"/rw\", host_path: \"$D/vol/rw\"}]"
	echo "$output"
	[ "$(tail -n 1 <<<"$output")" = end ]
	grep -qx mounted <<<"$output"
	grep -qx remounted <<<"$output"
	grep -qx kept <<<"$output"
	run grep -E '^secret$|made a device' <<<"$output"
	[ "$status" -eq 1 ]
	[ "$(cat "$D/vol/ro/file" "$D/vol/secret" "$D/vol/rw/mine")" = $'kept\nsecret\nmine' ]
	remove_pod "$pod"
}
