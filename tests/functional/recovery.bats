#!/usr/bin/env bats
# What the end of a process leaves: bulkheadd killed, a machine killed.

load lib/bulkheadd

setup_file() {
	instance_setup
	export BULKHEAD_FAULTS=$FT/faults
	start_bulkheadd
	pull_busybox
}

teardown_file() {
	instance_teardown
}

setup() {
	bulkheadd_runs || start_bulkheadd
}

teardown() {
	remove_all_pods
	! mountpoint -q "$D/logs/small" || umount "$D/logs/small"
}

pod_is() {
	[ "$(pod_field "$1" .state)" = "$2" ]
}

crash() {
	kill_bulkheadd
	start_bulkheadd
	assert_consistent
}

@test "killed five times, bulkheadd finds a container again that logs, and no line is lost or doubled" {
	pod=$(run_pod logging)
	id=$(run_script "$pod" main 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done; exit 9')
	for _ in 1 2 3 4 5; do
		sleep 0.5
		crash
		[ "$(pod_field "$pod" .state)" = SANDBOX_READY ]
	done
	wait_state "$id" CONTAINER_EXITED 120
	[ "$(container_field "$id" .exitCode)" = 9 ]
	cmp <(seq 20000) <(output_of logging main)
	remove_pod "$pod"
}

@test "a container that ends while bulkheadd is down has its exit code, time and last output recorded" {
	pod=$(run_pod away)
	mkdir "$FT/away"
	id=$(run_script "$pod" main 'while [ ! -e /v/end ]; do sleep 0.1; done; seq 3000; touch /v/ended; exit 33' \
		'.mounts = [{container_path: "/v", host_path: "'"$FT"'/away"}]')
	kill_bulkheadd
	touch "$FT/away/end"
	eventually 60 [ -e "$FT/away/ended" ]
	sleep 2
	back=$(date +%s)
	start_bulkheadd
	[ "$(finish "$id")" = 33 ]
	cmp <(seq 3000) <(output_of away main)
	finished=$(date -d "$(container_field "$id" .finishedAt)" +%s)
	[ "$finished" -le "$back" ]
	remove_pod "$pod"
}

small_is_whole() {
	cmp <(seq 2000) <(output_of small main)
}

# The disk of its log is full when it ends: the guest keeps what could not be written.
@test "what of a container's log there was no room for at its end is there after a restart, once" {
	mkdir -p "$D/logs/small"
	mount -t tmpfs -o size=512k none "$D/logs/small"
	pod=$(run_pod small)
	head -c 500k /dev/zero >"$D/logs/small/filler"
	id=$(run_script "$pod" main 'seq 2000')
	wait_state "$id" CONTAINER_EXITED 60
	[ "$(output_of small main | wc -l)" -lt 2000 ]
	kill_bulkheadd
	rm "$D/logs/small/filler"
	start_bulkheadd
	eventually 20 small_is_whole
	crash
	sleep 1
	small_is_whole
	remove_pod "$pod"
}

log_is_whole() { # POD N
	cmp <(seq "$2") <(output_of "$1" main)
}

# One of them fills what the guest keeps, and waits; the other ends.
@test "logs that a start could not resume are resumed later, and no line is lost or doubled" {
	local runs ends id short
	mkdir "$FT/later"
	runs=$(run_pod runs)
	ends=$(run_pod ends)
	id=$(run_script "$runs" main 'while [ ! -e /v/go ]; do sleep 0.1; done; seq 200000; exit 5' \
		'.mounts = [{container_path: "/v", host_path: "'"$FT"'/later"}]')
	short=$(run_script "$ends" main 'while [ ! -e /v/go ]; do sleep 0.1; done; seq 3000; exit 6' \
		'.mounts = [{container_path: "/v", host_path: "'"$FT"'/later"}]')
	kill_bulkheadd
	echo "fail Start/log" >"$BULKHEAD_FAULTS"
	start_bulkheadd
	touch "$FT/later/go"
	[ "$(finish "$short")" = 6 ]
	[ -z "$(output_of ends main)" ]
	[ "$(container_field "$id" .state)" = CONTAINER_RUNNING ]
	rm "$BULKHEAD_FAULTS"
	eventually 60 log_is_whole ends 3000
	[ "$(finish "$id")" = 5 ]
	eventually 60 log_is_whole runs 200000
	crash
	sleep 1
	log_is_whole ends 3000
	remove_pod "$runs"
	remove_pod "$ends"
}

@test "after a crash a pod can be used as before" {
	pod=$(run_pod used)
	id=$(run_container "$pod" main)
	created=$(create_container "$pod" created '.command = ["sh", "-c", "exit 3"]')
	address=$(pod_field "$pod" .network.ip)
	crash
	[ "$(pod_field "$pod" .network.ip)" = "$address" ]
	eventually 20 ping -c 1 -W 5 "$address"
	[ "$(crictl exec -s "$id" echo hello)" = hello ]
	crictl start "$created"
	[ "$(finish "$created")" = 3 ]
	other=$(run_script "$pod" other 'exit 0')
	[ "$(finish "$other")" = 0 ]
	crictl stop -t 1 "$id"
	remove_pod "$pod"
}

@test "a graceful restart keeps pods, containers and images" {
	pod=$(run_pod kept '.labels = {a: "b"}')
	id=$(run_container "$pod" main)
	restart_bulkheadd
	[ "$(crictl pods -q --label a=b)" = "$pod" ]
	[ "$(container_field "$id" .state)" = CONTAINER_RUNNING ]
	crictl inspecti "$IMAGE" >/dev/null
	remove_pod "$pod"
}

@test "a machine that is killed reads as NOTREADY, its containers as failed with a reason" {
	pod=$(run_pod dying)
	id=$(run_container "$pod" main)
	kill_processes "guest=bh-$pod,"
	wait_state "$id" CONTAINER_EXITED
	[ "$(container_field "$id" .exitCode)" = 137 ]
	[ "$(container_field "$id" .reason)" = Error ]
	[ -n "$(container_field "$id" .message)" ]
	eventually 20 pod_is "$pod" SANDBOX_NOTREADY
	refused NotFound "does not run" create_container "$pod" more
	crictl rm "$id"
	remove_pod "$pod"
}

@test "a machine that is killed while bulkheadd is down reads the same" {
	pod=$(run_pod alone)
	id=$(run_container "$pod" main)
	kill_bulkheadd
	kill_processes "guest=bh-$pod,"
	start_bulkheadd
	wait_state "$id" CONTAINER_EXITED
	[ "$(container_field "$id" .exitCode)" = 137 ]
	eventually 20 pod_is "$pod" SANDBOX_NOTREADY
	remove_pod "$pod"
}

# A guest that is up and does not answer: what carries its bytes stands still.
@test "a pod that does not answer keeps neither the start nor other pods waiting, and ends with a reason" {
	pod=$(run_pod hung)
	id=$(run_container "$pod" main)
	well=$(run_pod well)
	other=$(run_container "$well" main)
	kill_bulkheadd
	helper=$(pgrep -f "bulkhead-vsock .*/vm/$pod/")
	kill -STOP "$helper"
	logged=$(wc -l <"$D/log")
	start_bulkheadd
	tail -n "+$((logged + 1))" "$D/log" | grep "serving before all pods are found again"
	eventually 60 crictl exec -s "$other" true
	[ "$(crictl exec -s "$other" echo hello)" = hello ]
	[ "$(pod_field "$well" .state)" = SANDBOX_READY ]
	wait_state "$id" CONTAINER_EXITED 60
	[ "$(container_field "$id" .exitCode)" = 137 ]
	[ -n "$(container_field "$id" .message)" ]
	eventually 20 pod_is "$pod" SANDBOX_NOTREADY
	assert_consistent
	remove_pod "$pod"
	remove_pod "$well"
}

# The guest's first process loses its code: its end is the kernel's panic.
crash_agent() {
	crictl exec "$1" sh -c 'at=$(grep -m 1 "r-xp" /proc/1/maps | cut -d- -f1)
		dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$((0x$at / 4096)) count=400 conv=notrunc' >&2
}

@test "a machine whose virtiofsd, vsock device or agent ends is ended, with a reason, and leaves nothing" {
	local how pod id
	for how in agent virtiofsd bulkhead-vsock; do
		pod=$(run_pod losing)
		id=$(run_container "$pod" main '.linux.security_context = {privileged: true,
			namespace_options: {pid: 2}}')
		case $how in
		agent) crash_agent "$id" 3>&- & ;;
		*) kill_processes "$how .*/vm/$pod/" ;;
		esac
		wait_state "$id" CONTAINER_EXITED 60
		[ "$(container_field "$id" .exitCode)" = 137 ]
		[ -n "$(container_field "$id" .message)" ]
		eventually 20 pod_is "$pod" SANDBOX_NOTREADY
		echo "$how: $(container_field "$id" .message)"
		assert_consistent
		remove_pod "$pod"
	done
}

@test "a machine whose console's helper ends goes on, writes there as before, and leaves nothing" {
	snapshot_host
	pod=$(run_pod mute)
	id=$(run_container "$pod" main '.linux.security_context.privileged = true')
	kill_processes "bulkhead-console .*/vm/$pod/"
	crictl exec -s "$id" sh -c 'for i in $(seq 500); do echo "<0>a line that nobody keeps" >/dev/kmsg; done; echo wrote'
	crash
	[ "$(pod_field "$pod" .state)" = SANDBOX_READY ]
	[ "$(crictl exec -s "$id" echo hello)" = hello ]
	crictl stopp "$pod"
	[ "$(container_field "$id" .exitCode)" = 137 ]
	remove_pod "$pod"
	rm -rf "$D/logs/mute"
	assert_host_unchanged
}

# finds TEXT: fsck says so.
finds() {
	local found
	! found=$("$BUILD/cri-server/cli/bulkheadctl" fsck --config "$D/config.yaml") && grep -F -- "$1" <<<"$found" && return
	echo "fsck has not found '$1' but: $found" >&2
	return 1
}

# As with records from a backup.
@test "a container that no record knows is found, goes at the start, and what its guest reports of it is of no account; so goes a pod" {
	pod=$(run_pod restored)
	forgotten=$(run_container "$pod" forgotten)
	mkdir "$FT/restored"
	reporting=$(run_script "$pod" reporting 'while [ ! -e /v/end ]; do sleep 0.1; done; touch /v/ended' \
		'.mounts = [{container_path: "/v", host_path: "'"$FT"'/restored"}]')
	id=$(run_script "$pod" main 'while [ ! -e /end ]; do sleep 0.1; done; exit 5')
	kill_bulkheadd
	sqlite3 -cmd ".timeout 5000" "$D/state/state.db" "DELETE FROM record WHERE id IN ('$forgotten', '$reporting')"
	touch "$FT/restored/end"
	eventually 60 [ -e "$FT/restored/ended" ]
	finds "its guest has the container '$forgotten', which has no record"
	start_bulkheadd
	assert_consistent
	crictl exec -s "$id" touch /end || true # the container's end may come before its own
	[ "$(finish "$id")" = 5 ]
	kill_bulkheadd
	sqlite3 "$D/state/state.db" "DELETE FROM record WHERE id = '$pod'"
	start_bulkheadd
	assert_consistent
	[ -z "$(crictl ps -aq)" ]
}

@test "an address that host-local may give away, and one that it keeps for nobody, are found" {
	pod=$(run_pod leased)
	lease=$(grep -l "$pod" "/var/lib/cni/networks/$NET"/10.*)
	mv "$lease" "$FT/lease"
	finds "host-local may give its address away"
	sed -e "s/$pod/$(tr 0-9a-f a-f0-9 <<<"$pod")/" "$FT/lease" >"$lease"
	finds "which has no record"
	mv "$FT/lease" "$lease"
	assert_consistent
	remove_pod "$pod"
}

@test "bulkheadd killed at ten moments of a pod's bring-up leaves nothing" {
	crash
	snapshot_host
	for delay in 0.05 0.2 0.4 0.7 1 1.3 1.6 2 2.5 3; do
		run_pod half 3>&- >/dev/null 2>&1 &
		sleep "$delay"
		kill_bulkheadd
		wait $! || true
		start_bulkheadd
		# One that was ready is a pod; the client has only not heard of it.
		crictl pods -q | xargs -r "$TOOLS/crictl" --config "$D/crictl.yaml" rmp -f
		rm -f "$D"/pods/*
		assert_host_unchanged
	done
}

@test "bulkheadd killed while a pod is removed leaves nothing" {
	snapshot_host
	for delay in 0.02 0.1 0.3 0.6; do
		pod=$(run_pod leaving)
		run_container "$pod" main >/dev/null
		crictl rmp -f "$pod" 3>&- >/dev/null 2>&1 &
		sleep "$delay"
		kill_bulkheadd
		wait $! || true
		start_bulkheadd
		crictl rmp -f "$pod" >/dev/null 2>&1 || true
		rm -rf "$D"/pods/* "$D/logs/leaving"
		assert_host_unchanged
	done
}
