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

recover() {
	if ! start_bulkheadd 2>/dev/null; then
		rm -f "$BULKHEAD_FAULTS"
		start_bulkheadd || return 1
	fi
	rm -f "$BULKHEAD_FAULTS"
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
		wait_bulkheadd 10 || { echo "$point was not reached" >&2; return 1; }
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

@test "every method that bulkheadd lists is tried here" {
	diff <("$FT/bin/bulkheadd" --list-steps | sed -e 's,/.*,,' | sort -u) \
		<(sed -n -e 's/^\tat_each_point \([A-Za-z]*\) .*/\1/p' "$BATS_TEST_FILENAME" | sort -u)
}
