#!/usr/bin/env bats
# Exec, attach and port-forward, by crictl over both of its transports and by bulkheadctl.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	POD=$(run_pod pod)
	ID=$(run_container "$POD" main)
	export POD ID
}

teardown_file() {
	instance_teardown
}

# exec_by TRANSPORT ARGUMENT…: crictl exec without a terminal; its stdin is passed on with -i.
exec_by() {
	local transport=$1
	shift
	timeout 60 "$TOOLS/crictl" --config "$D/crictl.yaml" exec --transport "$transport" "$@"
}

@test "stdout, stderr, stdin and the exit code, over both transports" {
	for transport in spdy websocket; do
		exec_by "$transport" "$ID" sh -c 'echo out; echo err >&2' >"$D/out" 2>"$D/err"
		[ "$(cat "$D/out")" = out ]
		[ "$(cat "$D/err")" = err ]
		[ "$(echo hello | exec_by "$transport" -i "$ID" cat)" = hello ]
		run exec_by "$transport" "$ID" sh -c 'exit 42'
		[[ $output == *"code 42"* || $output == *"status 42"* ]]
		[ "$status" -ne 0 ]
	done
}

@test "a program that is not there is an error, and no session is left" {
	run exec_by spdy "$ID" /nonexistent
	[ "$status" -ne 0 ]
	[[ $output == *nonexistent* ]]
}
