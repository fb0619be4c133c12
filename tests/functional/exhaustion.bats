#!/usr/bin/env bats
# The host runs out of disk, inodes, descriptors, processes or memory: what is asked for then fails and says why,
# the pod that is there goes on and loses nothing, nothing is left, and once there is room again all works.

load lib/bulkheadd

setup_file() {
	instance_setup
	mkdir "$FT/state"
	truncate -s 400M "$FT/disk"
	mkfs.ext4 -q -m 0 -N 2048 "$FT/disk"
	mount -o loop "$FT/disk" "$FT/state"
	chmod 0711 "$FT/state"
	export BULKHEAD_FAULTS=$FT/faults
	start_bulkheadd
	pull_busybox
	umoci new --image "$FT/img:more" 2>/dev/null
	head -c 3000000 /dev/urandom >"$FT/noise"
	mkdir "$FT/root"
	mv "$FT/noise" "$FT/root/"
	tar_tree "$FT/root" "$FT/more.tar"
	add_layer "$FT/img:more" "$FT/more.tar"
	POD=$(run_pod lives)
	C=$(run_script "$POD" counter 'trap "exit 7" TERM; i=0; while :; do echo $i; i=$((i + 1)); sleep 0.1; done')
	export POD C MORE=oci:$FT/img:more
	snapshot_host
}

teardown_file() {
	local code=0
	crictl stop -t 20 "$C" && [ "$(container_field "$C" .exitCode)" = 7 ] || code=1
	[ "$code" -eq 0 ] || echo "# the counter's exit code is not 7" >&3
	instance_teardown
	return "$code"
}

lines() {
	output_of lives counter | wc -l
}

has_more_lines_than() {
	[ "$(lines)" -gt "$1" ]
}

# The pod that is there was not hurt: it can be used, and its log has every line once, and goes on.
assert_lives() {
	local n
	[ "$(crictl exec -s "$C" echo hello)" = hello ]
	n=$(lines)
	eventually 20 has_more_lines_than "$n"
	output_of lives counter | awk '$0 != NR - 1 {print NR ": " $0; exit 1}'
}

# There is room again.
assert_all_works() {
	local pod
	assert_lives
	pod=$(run_pod again)
	[ "$(run_once "$pod" again c 'echo hello')" = hello ]
	remove_pod "$pod"
	rm -rf "$D/logs/again"
	crictl pull "$MORE" >/dev/null
	crictl rmi "$MORE" >/dev/null
	assert_host_unchanged
}

more_pod() {
	run_pod more
}

# What is reserved for blocks that are yet to be written is free again when they are.
fill_disk() {
	local i
	for i in 1 2 3; do
		head -c 1G /dev/zero >"$FT/state/filler.$i" 2>/dev/null || true
		sync -f "$FT/state/filler.$i"
	done
	[ "$(df --output=avail "$FT/state" | tail -n 1)" -lt 8 ]
}

fill_inodes() {
	mkdir "$FT/state/fillers"
	seq 4096 | (cd "$FT/state/fillers" && xargs touch 2>/dev/null) || true
	[ "$(df --output=iavail "$FT/state" | tail -n 1)" -lt 8 ]
}

# The counter's log goes on; what is asked of a guest that wrote to its disk meanwhile may wait for room.
assert_counts() {
	eventually 30 has_more_lines_than "$(lines)"
}

# Started anew where it has nothing, bulkheadd finds the pod as it was.
assert_found_again() {
	kill_bulkheadd
	start_bulkheadd
	[ "$(pod_field "$POD" .state)" = SANDBOX_READY ]
	[ "$(container_field "$C" .state)" = CONTAINER_RUNNING ]
	assert_counts
}

records() {
	sqlite3 "$FT/state/state.db" 'SELECT kind, id FROM record ORDER BY kind, id'
}

answers_or_ended() {
	! bulkheadd_runs || crictl version
}

# few CONTROLLER: a cgroup, GROUP, for bulkheadd, if it runs, and what it starts from then on.
few() {
	GROUP=/sys/fs/cgroup/$1/bulkhead-test/$NET/few
	[ -d "${GROUP%/*}" ] || skip "takes cgroup v1's $1"
	mkdir "$GROUP"
	! bulkheadd_runs || cat "$D/pid" >"$GROUP/cgroup.procs"
}

no_longer_few() {
	! bulkheadd_runs || cat "$D/pid" >"${GROUP%/*}/cgroup.procs"
	eventually 60 rmdir "$GROUP"
}

@test "a full disk: what needs room is refused and says so, ends are recorded, bulkheadd starts, the pod goes on" {
	local before ends
	before=$(records)
	ends=$(run_script "$POD" ends 'trap "exit 5" TERM; while :; do sleep 0.1; done')
	fill_disk
	refused Unknown "o space left" more_pod
	refused Unknown "o space left" crictl pull "$MORE" # skopeo writes it small
	refused Unknown "is full" create_container "$POD" more
	assert_counts
	crictl stop -t 20 "$ends"
	assert_found_again
	[ "$(container_field "$ends" .exitCode)" = 5 ]
	crictl rm "$ends"
	# Of what failed too its beginning and its end.
	[ "$(records)" = "$before" ]
	rm "$FT/state"/filler.*
	assert_all_works
}

@test "no inodes left" {
	fill_inodes
	refused Unknown "No space left" more_pod
	refused Unknown "o space left" crictl pull "$MORE" # skopeo writes it small
	assert_found_again
	rm -r "$FT/state/fillers"
	assert_all_works
}

reaches() {
	crictl exec -s "$C" true
}

@test "no descriptors left" {
	local pid limit
	pid=$(cat "$D/pid")
	limit=$(prlimit --pid "$pid" --nofile --noheadings --output SOFT)
	prlimit --pid "$pid" --nofile="$(($(find "/proc/$pid/fd" -type l | wc -l) + 6)):"
	refused Unknown "Too many open files" more_pod
	assert_counts
	prlimit --pid "$pid" --nofile="$limit:"
	assert_all_works
	kill_bulkheadd
	echo "fail Start/reach" >"$BULKHEAD_FAULTS"
	start_bulkheadd
	refused Unknown "runs but is not reached yet" reaches
	rm "$BULKHEAD_FAULTS"
	eventually 60 reaches
	assert_lives
}

starts_in_group() {
	timeout 60 bash -c 'echo $$ >"$1/cgroup.procs"; exec "$2" --config "$3"' - "$GROUP" "$FT/bin/bulkheadd" \
		"$D/config.yaml"
}

@test "no processes left" {
	local limit
	few pids
	echo 1 >"$GROUP/pids.max" # what there is goes on
	refused Unknown "temporarily unavailable" more_pod
	refused Unknown "temporarily unavailable" crictl pull "$MORE"
	assert_lives
	echo max >"$GROUP/pids.max"
	no_longer_few
	crictl pull "$MORE" >/dev/null
	crictl rmi "$MORE" >/dev/null
	assert_host_unchanged
	kill_bulkheadd
	few pids
	for limit in 4 14; do
		echo "$limit" >"$GROUP/pids.max"
		run starts_in_group
		[ "$status" -eq 1 ]
		grep "Start 32 threads, .* raise the limit of processes" <<<"$output"
	done
	eventually 60 rmdir "$GROUP"
	start_bulkheadd
	assert_lives
}

@test "no memory left for bulkheadd and what it starts: killed or not, it goes on where it was" {
	few memory
	echo 0 >"$GROUP/memory.swappiness"
	echo 1M >"$GROUP/memory.limit_in_bytes"
	run more_pod
	[ "$status" -ne 0 ]
	echo "$output"
	grep -E "code = (Unknown|Unavailable|ResourceExhausted)" <<<"$output"
	grep "^[1-9]" "$GROUP/memory.failcnt"
	echo -1 >"$GROUP/memory.limit_in_bytes"
	eventually 60 answers_or_ended
	bulkheadd_runs || start_bulkheadd
	# Of a bring-up whose undoing failed too, as a kubelet does.
	crictl pods -q --name '^more$' | xargs -r "$TOOLS/crictl" --config "$D/crictl.yaml" rmp -f
	assert_all_works
	no_longer_few
}
