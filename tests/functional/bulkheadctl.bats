#!/usr/bin/env bats
# What bulkheadctl has beyond crictl: one pod with one container serves all tests.

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

# A bulkheadctl in the background; its pid is in $!.
background_ctl() {
	"$BUILD/cri-server/cli/bulkheadctl" --socket "$D/run/bulkhead.sock" "$@" 3>&- &
}

# on_terminal COMMAND: under a pseudo-terminal.
on_terminal() {
	timeout 60 script -qec "stty cols 200 rows 37; $1" /dev/null </dev/null | tr -d '\r'
}

lines_are() {
	[ "$(wc -l <"$1" 2>/dev/null)" = "$2" ]
}

# ask_port HOST PORT WORD: a line to an echo server and back.
ask_port() {
	local line
	exec 7<>"/dev/tcp/$1/$2" && echo "$3" >&7 && read -r -t 20 line <&7 && [ "$line" = "$3" ]
}

@test "port-forward: both loopbacks, many connections, large data, a refused port" {
	local port address client i
	ctl exec "$ID" sh -c 'nc -ll -p 7000 -e cat >/dev/null 2>&1 & nc -ll -p 7001 -e md5sum >/dev/null 2>&1 &'
	background_ctl port-forward pod :7000 :7001 :7002 >"$D/forward" 2>"$D/refused"
	client=$!
	eventually 20 grep -q '^Forwarding from \[::1\]:.* -> 7002$' "$D/forward"
	port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) -> 7000$/\1/p' "$D/forward")
	grep -q "^Forwarding from \[::1\]:$port -> 7000\$" "$D/forward"
	for ((i = 0; i < 40; i++)); do
		[ $((i % 2)) = 0 ] && address=127.0.0.1 || address=::1
		(ask_port "$address" "$port" "$i" && echo ok >>"$D/oks") 3>&- &
	done
	eventually 40 lines_are "$D/oks" 40

	# One that is not read does not hold another up.
	exec 8<>"/dev/tcp/127.0.0.1/$port"
	timeout 2 dd if=/dev/zero bs=64k count=1000 >&8 2>/dev/null || true
	ask_port 127.0.0.1 "$port" still
	exec 8>&-

	head -c 3000000 /dev/urandom >"$D/data"
	exec 7<>"/dev/tcp/127.0.0.1/$port"
	(cat "$D/data" >&7) 3>&- &
	timeout 60 head -c 3000000 <&7 >"$D/back"
	exec 7>&-
	cmp "$D/data" "$D/back"

	port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) -> 7002$/\1/p' "$D/forward")
	exec 7<>"/dev/tcp/127.0.0.1/$port"
	timeout 20 cat <&7 || true
	exec 7>&-
	eventually 20 grep -q "^an error occurred forwarding $port -> 7002: .*Connection refused" "$D/refused"
	kill -INT "$client"
	wait "$client"

	run ctl port-forward pod 0
	[ "$status" -eq 1 ]
	[[ $output == *"'0' is not [LOCAL:]REMOTE"* ]]
	run ctl port-forward nope 80
	[[ $output == *"no pod has the id or name 'nope'"* ]]
}

# The last test: it takes the pod away.
@test "port-forward says what a pod that has stopped has to say" {
	local client port
	background_ctl port-forward pod :7000 >"$D/forward" 2>"$D/lost"
	client=$!
	eventually 20 grep -q '^Forwarding' "$D/forward"
	port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' "$D/forward")
	crictl stopp "$POD" >/dev/null
	exec 7<>"/dev/tcp/127.0.0.1/$port"
	timeout 20 cat <&7
	exec 7>&-
	cat "$D/lost"
	grep -q "^an error occurred forwarding $port -> 7000: error forwarding port 7000 to pod $POD" "$D/lost"
	kill -INT "$client"
	wait "$client"
	run ctl port-forward pod 7000
	[ "$status" -eq 1 ]
	[[ $output == *"does not run"* ]]
}
