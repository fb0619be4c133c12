# A bulkheadd of a test file's own, driven by crictl: everything it makes is below one directory, /tmp/bhftN,
# and its pods' addresses are on a bridge of the same name.
#
#   setup_file() { instance_setup; start_bulkheadd; … }
#   teardown_file() { instance_teardown; }
#
# Processes that outlive a function are kept by pid below the directory, so that teardown ends them after a
# failure too. VARIANT chooses the build; of a sanitizer's every report fails the file.

# shellcheck source=tests/functional/lib/images.bash
. "$BATS_TEST_DIRNAME/lib/images.bash"

REPOSITORY=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
BUILD=${BULKHEAD_BUILD:-$REPOSITORY/build/${VARIANT:-release}}
TOOLS=$("$REPOSITORY/tests/install-tools" --print-dir)

# ---- the instance ----

# Reserves a number, makes the directory and its files: FT is the directory, D the instance in use (the same
# but where a test makes a second one), NET the network's and the bridge's name, SUBNET its first three bytes.
instance_setup() {
	local n
	for ((n = 1; n < 250; n++)); do
		mkdir -m 0755 "/tmp/bhft$n" 2>/dev/null && break
	done
	export FT=/tmp/bhft$n NET=bhft$n SUBNET=10.215.$n
	# Of a run by the same number that was killed.
	remove_cgroups
	lose_rules
	rm -rf "/var/lib/cni/networks/$NET"
	mkdir "$FT/bin" "$FT/guest" "$FT/cni" "$FT/reports"
	# The machine's helpers write there as another user.
	chmod 1777 "$FT/reports"
	sanitizer_setup
	# Copies: the programs of a test run are the ones it began with, and machines' users must reach the guest's.
	cp "$BUILD"/cri-server/bulkheadd "$BUILD"/cri-server/image/bulkhead-unpack \
		"$BUILD"/hypervisor/vsock/bulkhead-vsock "$FT/bin/" || return 1
	find "$BUILD/hypervisor" -name bulkhead-console -type f -exec cp {} "$FT/bin/" \;
	cp "${BULKHEAD_KERNEL:-$("$REPOSITORY/guest-image/build-kernel" --print-dir)/vmlinux}" \
		"$FT/guest/vmlinux" || return 1
	cp "$BUILD/guest/initramfs.cpio" "$FT/guest/" || return 1
	write_conflist >"$FT/cni/10-$NET.conflist"
	make_instance "$FT"
	use_instance "$FT"
}

# Of every program that a test starts: also of those that run as another user, who must find the file.
sanitizer_setup() {
	local options=log_path=$FT/reports/r:exitcode=66
	export ASAN_OPTIONS=$options:detect_leaks=1 UBSAN_OPTIONS=$options:print_stacktrace=1
	install -m 0644 "$REPOSITORY/tests/tsan.supp" "$FT/"
	export TSAN_OPTIONS=$options:suppressions=$FT/tsan.supp:print_suppressions=0
}

write_conflist() {
	jq -n --arg net "$NET" --arg subnet "$SUBNET.0/24" '{
		cniVersion: "1.0.0", name: $net, plugins: [
			{type: "bridge", bridge: $net, isGateway: true, ipMasq: true, hairpinMode: true,
			  ipam: {type: "host-local", ranges: [[{subnet: $subnet}]],
				 routes: [{dst: "0.0.0.0/0"}]}},
			{type: "portmap", capabilities: {portMappings: true}}]}'
}

# make_instance DIR [SED-EXPRESSION]: configuration and directories of one bulkheadd; the expression changes
# the configuration.
make_instance() {
	local dir=$1
	mkdir -p "$dir/logs" "$dir/pods"
	sed -e "${2:-}" >"$dir/config.yaml" <<-END
		state_dir: $dir/state
		run_dir: $dir/run
		log_level: debug
		hypervisor:
		  kernel: $FT/guest/vmlinux
		  initramfs: $FT/guest/initramfs.cpio
		  vsock_helper: $FT/bin/bulkhead-vsock
		  boot_timeout_ms: 60000
		network:
		  conf_dir: $FT/cni
		images:
		  unpack_helper: $FT/bin/bulkhead-unpack
		runtime_handlers:
		  - name: ""
		    memory_mib: 256
		  - name: big
		    memory_mib: 384
	END
	cat >"$dir/crictl.yaml" <<-END
		runtime-endpoint: unix://$dir/run/bulkhead.sock
		image-endpoint: unix://$dir/run/bulkhead.sock
		timeout: 120
	END
}

use_instance() {
	export D=$1
}

# Ends everything and removes the directory; fails when records and host differed, CNI's plugins left something, or
# a sanitizer wrote a report.
instance_teardown() {
	# Without a directory of its own all that follows would be about the whole machine.
	[ -n "${FT:-}" ] || return 1
	local pidfile inconsistent=0 leaked=0 reports=0 report path
	for pidfile in "$FT"/pid "$FT"/*/pid; do
		[ -e "$pidfile" ] || continue
		use_instance "$(dirname "$pidfile")"
		[ -e "$D/config.yaml" ] || continue
		remove_all_pods || true
		! bulkheadd_runs || assert_consistent 2>&3 || inconsistent=1
		stop_bulkheadd || kill_bulkheadd || true
	done
	end_processes
	# What was killed a moment ago may still be at it.
	while read -r _ _ _ _ path _; do
		umount "$path" || umount --lazy "$path"
	done < <(grep " $FT/" /proc/self/mountinfo | tac)
	report=$(plugins_state)
	if [ -n "$report" ]; then
		printf "what CNI's plugins left:\n%s\n" "$report" | sed -e 's/^/# /' >&3
		leaked=1
	fi
	lose_rules
	ip link delete "$NET" 2>/dev/null || true
	rm -rf "/var/lib/cni/networks/$NET"
	for report in "$FT"/reports/*; do
		[ -s "$report" ] || continue # helpers open theirs before they leave the host's files
		echo "# $report:" >&3
		sed -e 's/^/# /' "$report" | head -n 200 >&3
		reports=1
	done
	# gcc's UBSan beside ASan knows no log_path: it writes to stderr.
	report=$(grep -sF -A 20 "runtime error: " "$FT"/log "$FT"/*/log || true)
	if [ -n "$report" ]; then
		echo "$report" | sed -e "s/^/# /" >&3
		reports=1
	fi
	remove_cgroups
	[ -n "${BULKHEAD_KEEP:-}" ] || rm -rf "$FT"
	return $((reports + inconsistent + leaked))
}

remove_cgroups() {
	local path
	while read -r path; do
		find "$path" -depth -type d -exec rmdir {} \;
	done < <(for D in "$FT" "$FT"/*/; do D=${D%/} own_cgroups; done | sort -r) 2>/dev/null
	find /sys/fs/cgroup -depth -type d \( -path "*/bulkhead-test/$NET" -o -path "*/bulkhead-test/$NET/*" \) \
		-exec rmdir {} + 2>/dev/null || true
	# The last instance takes what they share.
	rmdir /sys/fs/cgroup/bulkhead-test /sys/fs/cgroup/*/bulkhead-test 2>/dev/null || true
}

remove_all_pods() {
	local pods
	pods=$(timeout 60 "$TOOLS/crictl" --config "$D/crictl.yaml" pods -q 2>/dev/null) || return 1
	# shellcheck disable=SC2086 # ids are words
	[ -z "$pods" ] || crictl rmp -f -a >/dev/null 2>&1
}

# Machines and helpers that are left of this directory's instances.
end_processes() {
	local pid
	for pid in $(own_processes | cut -d' ' -f1); do
		kill -KILL "$pid" 2>/dev/null || true
	done
	return 0
}

# ---- bulkheadd ----

# Starts it in the background, without waiting.
launch_bulkheadd() {
	"$FT/bin/bulkheadd" --config "$D/config.yaml" >>"$D/log" 2>&1 </dev/null 3>&- &
	echo $! >"$D/pid"
	disown $!
	# Until then the process bears the shell's name.
	eventually 20 bulkheadd_was_executed $!
}

bulkheadd_was_executed() {
	! kill -0 "$1" 2>/dev/null || grep -qs config.yaml "/proc/$1/cmdline"
}

# Starts it and waits until it answers.
start_bulkheadd() {
	local i
	launch_bulkheadd
	for ((i = 0; i < 1200; i++)); do
		bulkheadd_runs || break
		[ ! -S "$D/run/bulkhead.sock" ] || ! crictl version >/dev/null 2>&1 || return 0
		sleep 0.1
	done
	echo "bulkheadd does not answer; its log ends:" >&2
	tail -n 20 "$D/log" >&2
	return 1
}

# kill_processes PATTERN: those whose command line has it. The end of one may end another before its turn.
kill_processes() {
	local found
	mapfile -t found < <(pgrep -f -- "$1")
	kill -KILL "${found[@]}"
}

# pod_processes POD: those of its machine on the host: QEMU, and helpers with their children.
pod_processes() {
	local pid
	for pid in $(cat "$D/run/vm/$1"/*.pid "$D/state/libvirt/run/qemu/bh-$1.pid" | cut -d' ' -f1); do
		echo "$pid"
		tr ' ' '\n' <"/proc/$pid/task/$pid/children"
	done
}

bulkheadd_runs() {
	local pid
	pid=$(cat "$D/pid" 2>/dev/null) && grep -qs bulkheadd "/proc/$pid/cmdline"
}

# wait_bulkheadd SECONDS: until it ended.
wait_bulkheadd() {
	local i
	for ((i = 0; i < $1 * 20; i++)); do
		bulkheadd_runs || return 0
		sleep 0.05
	done
	echo "bulkheadd still runs after $1 s" >&2
	return 1
}

stop_bulkheadd() {
	end_bulkheadd TERM 60
}

kill_bulkheadd() {
	end_bulkheadd KILL 30
}

# end_bulkheadd SIGNAL SECONDS: it may end by itself before the signal.
end_bulkheadd() {
	bulkheadd_runs || return 0
	kill "-$1" "$(cat "$D/pid")" 2>/dev/null || true
	wait_bulkheadd "$2"
}

restart_bulkheadd() {
	stop_bulkheadd && start_bulkheadd
}

crictl() {
	"$TOOLS/crictl" --config "$D/crictl.yaml" "$@"
}

ctl() {
	"$BUILD/cri-server/cli/bulkheadctl" --socket "$D/run/bulkhead.sock" "$@"
}

# Every record has its reality, every reality its record, as users ask; what is in motion is given SETTLE seconds.
assert_consistent() {
	local found
	found=$("$BUILD/cri-server/cli/bulkheadctl" fsck --settle "${SETTLE:-10}" --config "$D/config.yaml" 2>&1) && return
	echo "fsck: $found" >&2
	return 1
}

# raw METHOD [SECONDS]: a request that crictl would not make, packed on stdin.
raw() {
	"$BUILD/tests/functional/raw_call" "$D/run/bulkhead.sock" "$@"
}

# ---- images ----

# A busybox image on this node: IMAGE is its reference.
pull_busybox() {
	[ -e "$FT/img/oci-layout" ] || make_busybox_layout "$FT/img" >/dev/null || return 1
	export IMAGE=oci:$FT/img:latest
	crictl pull "$IMAGE" >/dev/null
}

# ---- pods and containers ----

# pod_config NAME [JQ-FILTER]: a sandbox configuration that no other test has.
pod_config() {
	jq -n --arg name "$1" --arg uid "$1-$RANDOM$RANDOM" --arg logs "$D/logs/$1" '{
		metadata: {name: $name, uid: $uid, namespace: "default", attempt: 0},
		hostname: $name, log_directory: $logs,
		linux: {cgroup_parent: "/bulkhead-test/'"$NET"'"}}'" | ${2:-.}"
}

# run_pod NAME [JQ-FILTER [RUNP-OPTION…]]: prints the id.
run_pod() {
	local name=$1 filter=${2:-.} config id
	shift $(($# < 2 ? $# : 2))
	config=$(mktemp "$D/pods/new.XXXXXX")
	pod_config "$name" "$filter" >"$config"
	id=$(crictl runp "$@" "$config") || {
		rm -f "$config"
		return 1
	}
	mv "$config" "$D/pods/$id"
	echo "$id"
}

remove_pod() {
	crictl rmp -f "$1" >/dev/null
	rm -f "$D/pods/$1"
}

# container_config NAME [JQ-FILTER]: a container that sleeps, unless the filter says otherwise.
container_config() {
	jq -n --arg name "$1" --arg image "$IMAGE" '{
		metadata: {name: $name}, image: {image: $image}, command: ["sleep", "1000000"],
		log_path: ($name + ".log"), linux: {}}'" | ${2:-.}"
}

# create_container POD NAME [JQ-FILTER]: prints the id.
create_container() {
	local config code=0
	config=$(mktemp "$D/pods/container.XXXXXX")
	container_config "$2" "${3:-.}" >"$config"
	crictl create "$1" "$config" "$D/pods/$1" || code=$?
	rm -f "$config"
	return "$code"
}

# run_container POD NAME [JQ-FILTER]: creates and starts; prints the id.
run_container() {
	local id
	id=$(create_container "$@") && crictl start "$id" >/dev/null && echo "$id"
}

# run_script POD NAME SCRIPT [JQ-FILTER]: a container that runs a shell script; prints the id.
run_script() {
	run_container "$1" "$2" ".command = [\"sh\", \"-c\", $(jq -n --arg s "$3" '$s')] | ${4:-.}"
}

# container_field ID JQ-PATH, pod_field ID JQ-PATH: from the status.
container_field() {
	crictl inspect "$1" | jq -r ".status$2"
}

pod_field() {
	crictl inspectp "$1" | jq -r ".status$2"
}

# wait_state ID STATE [SECONDS]: until a container is in it (CONTAINER_EXITED, …).
wait_state() {
	local i state
	for ((i = 0; i < ${3:-60} * 10; i++)); do
		state=$(container_field "$1" .state) || return 1
		[ "$state" != "$2" ] || return 0
		sleep 0.1
	done
	echo "container $1 is $state, not $2, after ${3:-60} s" >&2
	return 1
}

# finish ID: waits for its end and prints its exit code.
finish() {
	wait_state "$1" CONTAINER_EXITED && container_field "$1" .exitCode
}

# output_of POD-NAME CONTAINER-NAME [stdout|stderr]: what it wrote, put together from its log.
output_of() {
	cat_log "$D/logs/$1/$2.log" "${3:-stdout}"
}

# cat_log FILE STREAM: a line of tag P goes on in the next line of its stream.
cat_log() {
	awk -v stream="$2" '$2 == stream {
		tag = $3
		sub(/^[^ ]+ [^ ]+ [PF] /, "")
		printf "%s%s", $0, tag == "F" ? "\n" : ""
	}' "$1"
}

# run_once POD-ID POD-NAME NAME SCRIPT [JQ-FILTER]: runs a script to its end and prints its output; its exit
# code is this one's.
run_once() {
	local id code
	id=$(run_script "$1" "$3" "$4" "${5:-.}") || return 125
	code=$(finish "$id") || return 125
	output_of "$2" "$3"
	output_of "$2" "$3" stderr >&2
	crictl rm "$id" >/dev/null
	rm -f "$D/logs/$2/$3.log"
	return "$code"
}

# eventually SECONDS COMMAND…: until it succeeds.
eventually() {
	local i limit=$(($1 * 10))
	shift
	for ((i = 0; i < limit; i++)); do
		! "$@" >/dev/null 2>&1 || return 0
		sleep 0.1
	done
	echo "not within $((limit / 10)) s: $*" >&2
	return 1
}

# shellcheck disable=SC2154 # status and output are bats'
# refused CODE TEXT COMMAND…: it fails with this gRPC code and a message that contains TEXT.
refused() {
	local code=$1 text=$2
	shift 2
	run "$@"
	if [ "$status" -eq 0 ]; then
		echo "succeeded, and should have been refused with $code: $*" >&2
		return 1
	fi
	if ! grep -qF "code = $code" <<<"$output" || ! grep -qF -- "$text" <<<"$output"; then
		printf 'not %s with "%s" but: %s\n' "$code" "$text" "$output" >&2
		return 1
	fi
}

# ---- what the host has ----

# "PID name" for each process of this directory's instances but bulkheadd itself: a second one is a
# child that never came to run its program, and has a thread's name.
own_processes() {
	local proc name main
	main=$(cat "$D/pid" 2>/dev/null) || true
	for proc in $(grep -laF "$FT/" /proc/[0-9]*/cmdline 2>/dev/null); do
		proc=${proc%/cmdline}
		name=$(cat "$proc/comm" 2>/dev/null) || continue
		[ "${proc#/proc/}" != "$main" ] || continue
		case $name:$(readlink "$proc/exe") in
		qemu* | bulkhead* | virtiofsd:* | skopeo:* | *:"$FT"/bin/bulkheadd*) echo "${proc#/proc/} $name" ;;
		esac
	done
}

# Namespaces of pods.
own_netns() {
	find "$D/run/netns" -name 'bh-*' 2>/dev/null
}

# in_netns POD COMMAND…: in the pod's network namespace on the host.
in_netns() {
	local pod=$1
	shift
	nsenter --net="$D/run/netns/bh-$pod" "$@"
}

# Cgroups of this instance's machines: their own, and those in which the embedded driver, which names them after
# its root's hash, filters devices.
own_cgroups() {
	local hash
	hash=$(printf %s "$D/state/libvirt" | sha256sum)
	find /sys/fs/cgroup -type d -name "qemu-embed-${hash:0:8}-*" 2>/dev/null
	find /sys/fs/cgroup -type d -path "*/bulkhead-test/$NET/bulkhead-*" 2>/dev/null
}

# A rule of the plugins of the instance's networks, whose names begin with NET; for grep -E.
plugin_rule() {
	printf 'name: \\\\"%s(-[a-z0-9]+)?\\\\"' "$NET"
}

# What CNI's plugins hold for the instance's pods: addresses, and rules.
plugins_state() {
	{
		iptables-save
		ip6tables-save
	} 2>/dev/null | grep -E "$(plugin_rule)|$SUBNET\." | sed -e 's/^/rule /'
	find "/var/lib/cni/networks/$NET" -type f -name '[0-9a-f]*' -printf 'lease %f\n' 2>/dev/null || true
}

# Of the plugins' rules none is left, as of a kernel that starts.
lose_rules() {
	local family rules
	for family in iptables ip6tables; do
		rules=$("$family-save" -t nat | grep -E "$(plugin_rule)") || continue
		{
			echo "*nat"
			# Jumps from chains that others share, then the chains of their own that these led to.
			sed -n -E 's/^-A (POSTROUTING|CNI-HOSTPORT-DNAT) /-D \1 /p' <<<"$rules"
			sed -n -E 's/^-A (POSTROUTING|CNI-HOSTPORT-DNAT) .* -j (CNI-.*)/-F \2\n-X \2/p' <<<"$rules"
			echo COMMIT
		} | "$family-restore" --noflush --wait
	done
}

host_state() {
	own_processes | sed -e 's/^[0-9]* /process /'
	own_netns | sed -e 's/^/netns /'
	ip -o link show master "$NET" 2>/dev/null | awk '{print "port", $2}'
	ip -o link | sed -n -E -e 's/^[0-9]+: (bh[0-9a-f]{8,})[:@].*/tap \1/p'
	grep -F " $D/" /proc/self/mountinfo | awk '$5 !~ "/run/netns$" {print "mount", $5}'
	own_cgroups | sed -e 's/^/cgroup /'
	find "$D/state" "$D/run" \( ! -type d -o -path "$D/run/vm/*" -o -path '*/images/tmp/*' \) \
		! -name 'state.db*' ! -path '*/libvirt/cache/*' -printf 'file %y %p\n' 2>/dev/null || true
	plugins_state
	[ ! -e "$D/state/state.db" ] ||
		sqlite3 -cmd '.timeout 5000' "$D/state/state.db" 'SELECT "record", kind, id FROM record'
}

# Call it where nothing is in motion; then assert_host_unchanged after what must leave nothing. A tap that the host has
# now is on its way into a pod of somebody else's.
snapshot_host() {
	host_state | grep -v '^tap ' | sort >"$FT/before"
}

assert_host_unchanged() {
	local i
	# A process that was killed and its cgroup may take a moment.
	for ((i = 0; i < 60; i++)); do
		host_state | sort >"$FT/after"
		! cmp -s "$FT/before" "$FT/after" || {
			assert_consistent
			return
		}
		sleep 0.3
	done
	echo "the host is not as before:" >&2
	diff "$FT/before" "$FT/after" >&2
	return 1
}
