#!/usr/bin/env bats
# ExecSync.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	POD=$(run_pod pod)
	ID=$(run_container "$POD" main '.envs = [{key: "A", value: "b"}] | .working_dir = "/tmp" |
		.linux.security_context.namespace_options = {pid: 1}')
	export POD ID
}

teardown_file() {
	instance_teardown
}

# crictl adds a newline to the output and writes both streams to its stdout, ctl does neither.
sync() {
	crictl exec -s "$@"
}

@test "stdout, stderr and the exit code come back apart" {
	ctl exec "$ID" sh -c 'echo out; echo err >&2' >"$D/out" 2>"$D/err"
	[ "$(head -n 1 "$D/out")" = out ]
	grep -qx err "$D/err"
	run sync "$ID" sh -c 'echo before; exit 42'
	[ "$status" -ne 0 ]
	[[ $output == *"before"* ]]
	[[ $output == *"non-zero exit code: 42"* || $output == *"42"* ]]
}

@test "a command runs as the container does: environment, directory, user, namespaces" {
	[ "$(sync "$ID" sh -c 'echo $A; pwd; id -u; cat /proc/1/comm')" = $'b\n/tmp\n0\nsleep' ]
}

@test "at its timeout a command is killed with all its children" {
	begin=$(date +%s)
	refused DeadlineExceeded "timeout" sync --timeout 1 "$ID" sh -c 'sleep 4321 & sleep 4321'
	[ $(($(date +%s) - begin)) -lt 60 ]
	eventually 20 no_process "sleep 4321"
}

no_process() {
	local found
	found=$(sync "$ID" sh -c 'cat /proc/[0-9]*/cmdline | tr "\0" " "') && [[ $found != *"$1"* ]]
}

@test "megabytes of output arrive unchanged" {
	ctl exec "$ID" seq 1000000 >"$D/out"
	cmp <(seq 1000000) "$D/out"
}

@test "a command that closes its output is waited for" {
	run sync "$ID" sh -c 'exec >&- 2>&-; sleep 12; exit 3'
	[[ $output == *"exited with 3"* || $output == *"exit code: 3"* ]]
}

@test "of more than 16 MiB of output the rest is left out, and the command ends by itself" {
	# crictl ends what it prints with newlines of its own.
	[ "$(sync "$ID" sh -c 'head -c 20m /dev/zero; touch /tmp/all-written' | tr -d "\n" | wc -c)" -eq $((16 * 1024 * 1024 - 1024)) ]
	sync "$ID" rm /tmp/all-written
}

@test "a missing command is an error that names it" {
	run sync "$ID" no-such-program
	[ "$status" -ne 0 ]
	[[ $output == *"no-such-program"*'executable file not found in $PATH'* ]]
}

@test "exec is refused in a container that does not run" {
	dead=$(run_script "$POD" dead 'exit 0')
	finish "$dead"
	refused Unknown "does not run" sync "$dead" true
	crictl rm "$dead"
	created=$(create_container "$POD" created)
	refused Unknown "does not run" sync "$created" true
	crictl rm "$created"
	refused NotFound "not found" sync "$dead" true
}

@test "a container that ends ends the commands in it" {
	id=$(run_script "$POD" ending 'sleep 3')
	begin=$(date +%s)
	run sync "$id" sleep 100
	[ "$status" -ne 0 ]
	[ $(($(date +%s) - begin)) -lt 60 ]
	[ "$(finish "$id")" = 0 ]
	crictl rm "$id"
}

@test "twelve commands run at the same time and do not mix" {
	for n in $(seq 12); do
		ctl exec "$ID" sh -c "seq $((n * 1000)) $((n * 1000 + 999)); sleep 1; echo end" \
			>"$D/concurrent$n" 3>&- &
	done
	wait
	for n in $(seq 12); do
		cmp <(seq $((n * 1000)) $((n * 1000 + 999)); echo end) "$D/concurrent$n"
	done
}

@test "a hundred commands one after the other leave no process in the guest" {
	for _ in $(seq 100); do
		sync "$ID" true >/dev/null
	done
	eventually 20 processes_are_few
}

# The container's, those that look, and what was killed at its timeout: this container's first process reaps nothing.
processes_are_few() {
	[ "$(sync "$ID" sh -c 'ls -d /proc/[0-9]* | wc -l')" -le 6 ]
}

@test "what a command leaves behind with its output open does not hold the call" {
	begin=$(date +%s)
	[ "$(sync "$ID" sh -c 'sleep 300 & echo started')" = started ]
	[ $(($(date +%s) - begin)) -lt 100 ]
}
