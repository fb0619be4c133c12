#!/usr/bin/env bats
# GetContainerEvents and the other streams; ends that nobody asked for: out of memory, a machine's death.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	"$TOOLS/crictl" --config "$D/crictl.yaml" events -o json >"$D/events" 2>"$D/events.err" 3>&- &
	LISTENER=$!
	eventually 20 connected
	sleep 1
	POD=$(run_pod told '.labels = {app: "told"} | .linux.resources = {memory_limit_in_bytes: 134217728}')
	export POD LISTENER
}

teardown_file() {
	kill "$LISTENER" 2>/dev/null || true
	instance_teardown
}

# The listener is, and asks for events in a moment.
connected() {
	readlink "/proc/$LISTENER"/fd/* | grep -q '^socket:'
}

# types_of ID: the events of a container or pod, in order.
types_of() {
	jq -rs --arg id "$1" '[.[] | select(.containerId == $id) | .containerEventType | sub("CONTAINER_"; "") |
		sub("_EVENT"; "")] | join(" ")' "$D/events"
}

# told ID TYPES: these are the events of it.
told() {
	[ "$(types_of "$1")" = "$2" ]
}

# event ID TYPE: the last event of this type.
event() {
	jq -s --arg id "$1" --arg type "CONTAINER_$2_EVENT" '[.[] | select(.containerId == $id and .containerEventType == $type)] |
		last' "$D/events"
}

@test "a pod's and a container's events come in order, with full status" {
	id=$(run_script "$POD" life "exit 3" '.labels = {role: "life"}')
	finish "$id"
	eventually 20 told "$id" "CREATED STARTED STOPPED"
	event "$id" STOPPED | jq -e --arg pod "$POD" --arg id "$id" '.podSandboxStatus.id == $pod and
		.podSandboxStatus.state == "SANDBOX_READY" and .podSandboxStatus.network.ip != "" and
		.podSandboxStatus.labels == {app: "told"} and (.createdAt | tonumber) > 1000000000000000000 and
		(.containersStatuses[] | select(.id == $id) | .state == "CONTAINER_EXITED" and .exitCode == 3 and
		.reason == "Error" and .labels == {role: "life"})'
	event "$id" STARTED | jq -e --arg id "$id" '.containersStatuses[] | select(.id == $id) |
		(.startedAt | tonumber) > 0'
	crictl rm "$id"
	eventually 20 told "$id" "CREATED STARTED STOPPED DELETED"
	event "$id" DELETED | jq -e '.containersStatuses == []'
	eventually 20 told "$POD" "CREATED STARTED"
}

@test "a program that does not exist: created and stopped, never started" {
	id=$(create_container "$POD" missing '.command = ["/nowhere"]')
	run crictl start "$id"
	[ "$status" -ne 0 ]
	eventually 20 told "$id" "CREATED STOPPED"
	event "$id" STOPPED | jq -e --arg id "$id" '.containersStatuses[] | select(.id == $id) | .reason == "StartError"'
	crictl rm "$id"
}

@test "out of memory: OOMKilled and 137, in status and event" {
	id=$(run_script "$POD" hungry "exec tail /dev/zero" '.linux.resources = {memory_limit_in_bytes: 16777216}')
	[ "$(finish "$id")" -eq 137 ]
	[ "$(container_field "$id" .reason)" = OOMKilled ]
	eventually 20 told "$id" "CREATED STARTED STOPPED"
	event "$id" STOPPED | jq -e --arg id "$id" '.containersStatuses[] | select(.id == $id) |
		.reason == "OOMKilled" and .exitCode == 137'
	crictl rm "$id"
}

@test "out of memory: a child that is killed makes the reason OOMKilled, with the container's own exit code" {
	id=$(run_script "$POD" parent "tail /dev/zero; exit 7" '.linux.resources = {memory_limit_in_bytes: 16777216}')
	[ "$(finish "$id")" -eq 7 ]
	[ "$(container_field "$id" .reason)" = OOMKilled ]
	crictl rm "$id"
}

@test "out of memory of the whole guest takes the eater, not the pod" {
	id=$(run_script "$POD" eater "exec tail /dev/zero")
	wait_state "$id" CONTAINER_EXITED 60
	[ "$(container_field "$id" .exitCode)" -eq 137 ]
	[ "$(container_field "$id" .reason)" = OOMKilled ]
	[ "$(pod_field "$POD" .state)" = SANDBOX_READY ]
	crictl rm "$id"
}

# has_one METHOD: of a guest that is slow to answer there are no figures yet.
has_one() {
	[ "$(raw "$1" </dev/null)" = 1 ]
}

@test "lists come as streams too" {
	id=$(run_container "$POD" listed)
	[ "$(raw StreamContainers </dev/null)" = 1 ]
	[ "$(raw StreamPodSandboxes </dev/null)" = 1 ]
	eventually 30 has_one StreamContainerStats
	eventually 30 has_one StreamPodSandboxStats
	eventually 30 has_one StreamPodSandboxMetrics
	crictl rm -f "$id"
	[ -z "$(raw StreamContainers </dev/null)" ]
}

@test "a machine's death ends its containers with a reason, and the pod is not ready at once" {
	pod=$(run_pod doomed)
	id=$(run_container "$pod" victim)
	kill_processes "guest=bh-$pod,"
	wait_state "$id" CONTAINER_EXITED
	[ "$(container_field "$id" .exitCode)" -ne 0 ]
	[ -n "$(container_field "$id" .reason)" ]
	[ -n "$(container_field "$id" .message)" ]
	not_ready() { [ "$(pod_field "$pod" .state)" = SANDBOX_NOTREADY ]; }
	eventually 20 not_ready
	eventually 20 told "$id" "CREATED STARTED STOPPED"
	eventually 20 told "$pod" "CREATED STARTED STOPPED"
	remove_pod "$pod"
	eventually 20 told "$pod" "CREATED STARTED STOPPED DELETED"
	eventually 20 told "$id" "CREATED STARTED STOPPED DELETED"
}

@test "a server that stops ends the streams" {
	stop_bulkheadd
	gone() { ! kill -0 "$LISTENER"; }
	eventually 20 gone
	start_bulkheadd
}
