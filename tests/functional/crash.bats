#!/usr/bin/env bats
# bulkheadd kills itself at every boundary between two steps of every method that changes something. It lists
# them itself (--list-steps): a new step is covered without a change here; a new method needs a trial. After
# each death it is started with the same order to die, so that recovery dies there too where it passes.

load lib/bulkheadd

setup_file() {
	instance_setup
	export BULKHEAD_FAULTS=$FT/faults
	start_bulkheadd
	pull_busybox
	mkdir "$FT/volume" "$FT/layer"
	echo small >"$FT/layer/file"
	tar_tree "$FT/layer" "$FT/layer.tar"
	umoci init --layout "$FT/small"
	umoci new --image "$FT/small:latest"
	add_layer "$FT/small:latest" "$FT/layer.tar"
	run_pod shared >"$FT/shared"
}

teardown_file() {
	instance_teardown
}

points() {
	"$FT/bin/bulkheadd" --list-steps | grep "^$1/"
}

# At a boundary of an undo: the method's last step fails.
give_order() {
	local last
	echo "kill $1" >"$BULKHEAD_FAULTS"
	case $1 in
	*/undo)
		last=$(points "${1%%/*}" | grep -v -e /undo -e /done | tail -n 1)
		echo "fail $last" >>"$BULKHEAD_FAULTS"
		;;
	esac
}

# What a start has not finished yet when it serves may die after it.
recover() {
	start_bulkheadd 2>/dev/null || true
	rm -f "$BULKHEAD_FAULTS"
	bulkheadd_runs || start_bulkheadd || return 1
	assert_consistent
}

# at_each_point METHOD PREPARE TRY CONVERGE: functions. The call dies with bulkheadd; made again as a kubelet
# would, it must reach what it was for.
at_each_point() {
	local point
	for point in $(points "$1"); do
		"$2" || { echo "$point: cannot prepare" >&2; return 1; }
		give_order "$point"
		"$3" >/dev/null 2>&1 3>&- || true
		wait_bulkheadd 20 || { echo "$point was not reached" >&2; return 1; }
		recover || { echo "$point: not recovered" >&2; return 1; }
		"$4" || { echo "$point: repeated, it does not converge" >&2; return 1; }
		assert_consistent || { echo "$point: inconsistent in the end" >&2; return 1; }
	done
}

named() {
	crictl "$1" -q --name '^victim$' ${2:+-a}
}

new_config() {
	pod_config victim >"$FT/victim"
}

run_victim() {
	crictl runp "$FT/victim"
}

victim_runs() {
	local id
	id=$(named pods) || return 1
	[ -n "$id" ] || id=$(run_victim) || return 1
	[ "$(pod_field "$id" .state)" = SANDBOX_READY ] && remove_pod "$id"
}

@test "RunPodSandbox" {
	at_each_point RunPodSandbox new_config run_victim victim_runs
}

create_victim() {
	create_container "$(cat "$FT/shared")" victim ".mounts = [{host_path: \"$FT/volume\", container_path: \"/v\"}] |
		.command = [\"sh\", \"-c\", \"trap : TERM; echo ready; while :; do sleep 1; done\"]" >"$FT/container"
}

victim_is_created() {
	local id
	id=$(named ps all) || return 1
	[ -n "$id" ] || create_victim || return 1
	[ -n "$id" ] || id=$(cat "$FT/container")
	crictl start "$id" >/dev/null && [ "$(container_field "$id" .state)" = CONTAINER_RUNNING ] &&
		crictl rm -f "$id" >/dev/null
}

@test "CreateContainer" {
	at_each_point CreateContainer true create_victim victim_is_created
}

# It never ran, and reads as one that could not be started.
shows_failed() {
	[ "$(container_field "$(named ps all)" '|"\(.state) \(.exitCode) \(.reason)"')" = "CONTAINER_EXITED 128 StartError" ]
}

@test "half-made, and its removal fails at the start: no success, and it goes when it is asked again" {
	echo "kill CreateContainer/created" >"$BULKHEAD_FAULTS"
	create_victim >/dev/null 2>&1 3>&- || true
	wait_bulkheadd 10
	echo "fail RemoveContainer/guest" >"$BULKHEAD_FAULTS"
	start_bulkheadd
	eventually 60 shows_failed
	rm "$BULKHEAD_FAULTS"
	crictl rm "$(named ps all)" >/dev/null
	assert_consistent
}

pod_is_shown() {
	[ "$(pod_field "$(named pods)" .state)" = SANDBOX_NOTREADY ]
}

@test "a half-made pod that cannot be removed at the start is shown, and goes when it is asked for" {
	new_config
	echo "kill RunPodSandbox/boot" >"$BULKHEAD_FAULTS"
	run_victim >/dev/null 2>&1 3>&- || true
	wait_bulkheadd 10
	echo "fail StopPodSandbox/network" >"$BULKHEAD_FAULTS"
	start_bulkheadd
	eventually 60 pod_is_shown
	rm "$BULKHEAD_FAULTS"
	remove_pod "$(named pods)"
	victim_runs
	assert_consistent
}

start_victim() {
	crictl start "$(cat "$FT/container")" >/dev/null
}

victim_started() {
	local id state
	id=$(cat "$FT/container")
	state=$(container_field "$id" .state) || return 1
	[ "$state" != CONTAINER_CREATED ] || start_victim || return 1
	[ "$(container_field "$id" .state)" = CONTAINER_RUNNING ] && crictl rm -f "$id" >/dev/null
}

@test "StartContainer" {
	at_each_point StartContainer create_victim start_victim victim_started
}

start_new_victim() {
	rm -f "$D/logs/shared/victim.log"
	create_victim && start_victim && eventually 20 grep -q ready "$D/logs/shared/victim.log"
}

stop_victim() {
	crictl stop -t 1 "$(cat "$FT/container")" >/dev/null
}

victim_stopped() {
	local id
	id=$(cat "$FT/container")
	stop_victim && [ "$(container_field "$id" .state)" = CONTAINER_EXITED ] &&
		[ "$(container_field "$id" .exitCode)" = 137 ] && crictl rm "$id" >/dev/null
}

@test "StopContainer" {
	at_each_point StopContainer start_new_victim stop_victim victim_stopped
}

remove_victim() {
	crictl rm -f "$(cat "$FT/container")" >/dev/null
}

victim_removed() {
	local id
	id=$(named ps all) || return 1
	[ -z "$id" ] || remove_victim
}

@test "RemoveContainer" {
	at_each_point RemoveContainer start_new_victim remove_victim victim_removed
}

new_pod() {
	run_pod victim >"$FT/pod" && run_container "$(cat "$FT/pod")" main >"$FT/container"
}

stop_pod() {
	crictl stopp "$(cat "$FT/pod")" >/dev/null
}

pod_stopped() {
	local id
	id=$(cat "$FT/pod")
	stop_pod && [ "$(pod_field "$id" .state)" = SANDBOX_NOTREADY ] &&
		[ "$(container_field "$(cat "$FT/container")" .state)" = CONTAINER_EXITED ] && remove_pod "$id"
}

@test "StopPodSandbox" {
	at_each_point StopPodSandbox new_pod stop_pod pod_stopped
}

rm_pod() {
	crictl rmp -f "$(cat "$FT/pod")" >/dev/null
}

pod_removed() {
	local id
	id=$(named pods) || return 1
	[ -z "$id" ] || rm_pod
}

@test "RemovePodSandbox" {
	at_each_point RemovePodSandbox new_pod rm_pod pod_removed
}

pull_small() {
	crictl pull "oci:$FT/small:latest" >/dev/null
}

small_is_there() {
	pull_small && crictl inspecti "oci:$FT/small:latest" >/dev/null && remove_small
}

@test "PullImage" {
	at_each_point PullImage true pull_small small_is_there
}

remove_small() {
	crictl rmi "oci:$FT/small:latest" >/dev/null
}

small_is_gone() {
	crictl inspecti "oci:$FT/small:latest" >/dev/null 2>&1 || return 0
	remove_small
}

@test "RemoveImage" {
	at_each_point RemoveImage pull_small remove_small small_is_gone
}

more_memory() {
	MIB=$((${MIB:-320} + 16))
}

update_victim() {
	crictl update --memory $((MIB << 20)) "$(cat "$FT/container")" >/dev/null
}

victim_updated() {
	local id
	id=$(cat "$FT/container")
	update_victim && [ "$(container_field "$id" .resources.linux.memoryLimitInBytes)" = $((MIB << 20)) ] &&
		[ "$(crictl exec -s "$id" cat /sys/fs/cgroup/memory.max)" = $((MIB << 20)) ]
}

@test "UpdateContainerResources" {
	start_new_victim
	at_each_point UpdateContainerResources more_memory update_victim victim_updated
	remove_victim
}

# A request for so many MiB, which the guest has when it is done: field 4 as a varint of 5 bytes.
update_pod() {
	local bytes=$((MIB << 20)) varint i
	for ((i = 0; i < 5; i++)); do
		varint+=$(printf '\\x%02x' $((bytes >> 7 * i & 127 | (i < 4 ? 128 : 0))))
	done
	printf '\x0a\x20%s\x1a\x06\x20'"$varint" "$(cat "$FT/shared")" | raw UpdatePodSandboxResources
}

pod_updated() {
	update_pod && [ "$(crictl exec -s "$(cat "$FT/container")" awk '/^MemTotal/ {print int($2 / 1024)}' \
		/proc/meminfo)" -gt "$MIB" ]
}

@test "UpdatePodSandboxResources" {
	start_new_victim
	at_each_point UpdatePodSandboxResources more_memory update_pod pod_updated
	remove_victim
}

# As a kubelet rotates: away with the file, then a new one.
rotate() {
	mv "$D/logs/shared/victim.log" "$D/logs/shared/victim.log.$((ROTATED = ${ROTATED:-10} + 1))"
}

reopen_log() {
	crictl logs -r "$(cat "$FT/container")" >/dev/null
}

wrote_after_rotation() {
	[ -s "$D/logs/shared/victim.log" ]
}

log_is_reopened() {
	reopen_log && eventually 20 wrote_after_rotation &&
		cat "$D"/logs/shared/victim.log.* "$D/logs/shared/victim.log" >"$FT/whole" &&
		cat_log "$FT/whole" stdout | awk '$0 != NR - 1 {print NR ": " $0; exit 1}'
}

@test "ReopenContainerLog" {
	rm -f "$D"/logs/shared/victim.log*
	run_script "$(cat "$FT/shared")" victim 'i=0; while :; do echo $i; i=$((i + 1)); sleep 0.1; done' >"$FT/container"
	eventually 20 wrote_after_rotation
	at_each_point ReopenContainerLog rotate reopen_log log_is_reopened
	remove_victim
}

new_cidr() {
	CIDR=10.$((RANDOM % 256)).0.0/16
}

update_config() {
	crictl update-runtime-config --pod-cidr "$CIDR"
}

# It was recorded before the answer that the death cost.
config_is_recorded() {
	sqlite3 -cmd '.timeout 5000' "$D/state/state.db" "SELECT CAST(body AS TEXT) FROM record WHERE id = 'pod_cidr'" |
		grep -qF "$CIDR" && update_config >/dev/null
}

@test "UpdateRuntimeConfig" {
	at_each_point UpdateRuntimeConfig new_cidr update_config config_is_recorded
}

@test "every method that changes something has boundaries, and every one that has is tried here" {
	"$FT/bin/bulkheadd" --list-steps | sed -e 's,/.*,,' | sort -u >"$FT/listed"
	# The others tell, stream, or run a command for as long as their caller waits; checkpoints are refused.
	diff "$FT/listed" <(sed -n -e 's/^\trpc \([A-Za-z]*\)(.*/\1/p' "$REPOSITORY/cri-server/proto/cri.proto" |
		grep -vE '^(List|Stream|Get)|Status$|Stats$|^(Version|RuntimeConfig|ImageFsInfo|Attach|Exec|ExecSync|PortForward|CheckpointContainer)$' |
		sort -u)
	diff "$FT/listed" <(sed -n -e 's/^\tat_each_point \([A-Za-z]*\) .*/\1/p' "$BATS_TEST_FILENAME" | sort -u)
}
