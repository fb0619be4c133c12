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

# on_terminal COMMAND: under a pseudo-terminal. script's own input does not end: it would tell the terminal, which would
# echo that.
on_terminal() {
	local hold
	hold=$(mktemp -u "$D/hold.XXXXXX") && mkfifo "$hold"
	timeout 60 script -qec "stty cols 200 rows 37; $1" /dev/null <>"$hold" | tr -d '\r'
}

lines_are() {
	[ "$(wc -l <"$1" 2>/dev/null)" = "$2" ]
}

# ask_port HOST PORT WORD: a line to an echo server and back.
ask_port() {
	local line
	exec 7<>"/dev/tcp/$1/$2" && echo "$3" >&7 && read -r -t 60 line <&7 && [ "$line" = "$3" ]
}

@test "port-forward: both loopbacks, many connections, large data, a refused port" {
	local port address client i
	ctl cp "$BUILD/tests/functional/tcp_echo" main:/tmp
	ctl exec "$ID" /tmp/tcp_echo 7000
	background_ctl port-forward pod :7000 :7002 >"$D/forward" 2>"$D/refused"
	client=$!
	eventually 30 grep -q '^Forwarding from \[::1\]:.* -> 7002$' "$D/forward"
	port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) -> 7000$/\1/p' "$D/forward")
	grep -q "^Forwarding from \[::1\]:$port -> 7000\$" "$D/forward"
	for ((i = 0; i < 40; i++)); do
		[ $((i % 2)) = 0 ] && address=127.0.0.1 || address=::1
		(ask_port "$address" "$port" "$i" && echo ok >>"$D/oks") 3>&- &
	done
	eventually 90 lines_are "$D/oks" 40

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
	timeout 60 cat <&7 || true
	exec 7>&-
	eventually 30 grep -q "^an error occurred forwarding $port -> 7002: .*Connection refused" "$D/refused"
	kill -INT "$client"
	wait "$client"

	run ctl port-forward pod 0
	[ "$status" -eq 1 ]
	[[ $output == *"'0' is not [LOCAL:]REMOTE"* ]]
	run ctl port-forward nope 80
	[[ $output == *"no pod has the id or name 'nope'"* ]]
}

@test "lists as JSON and YAML; what others chose is escaped; colour on terminals only" {
	local ctl="$BUILD/cri-server/cli/bulkheadctl --socket $D/run/bulkhead.sock"
	create_container "$POD" hostile '.labels = {evil: "\u001b[31mred"} | .annotations = {evil: "\u202e31m"} |
		.metadata.attempt = 7' >/dev/null
	ctl ps -a -o json >"$D/ps"
	jq -e '.containers | map(select(.metadata.name == "hostile"))[0] | .labels.evil == "\u001b[31mred" and
		.annotations.evil == "\u202e31m" and .metadata.attempt == 7 and .state == "CONTAINER_CREATED"' "$D/ps"
	[ "$(ctl pods -o json | jq -r '.items[0].id')" = "$POD" ]
	ctl images --output=json | jq -e '.images[0].size | tonumber > 1000'
	ctl pods -o yaml | grep -qx "  - id: \"$POD\""
	for form in json yaml table; do
		run ctl ps -a -o "$form"
		[[ $output == *hostile* && $output != *$'\e'* && $output != *$'\xe2\x80\xae'* ]]
	done
	run ctl ps -o xml
	[ "$status" -eq 2 ]
	[[ $output == *"--output: 'xml' is not one of json|yaml|table"* ]]
	[[ $(TERM=xterm on_terminal "$ctl pods") == *$'\e[1mPOD ID'* ]]
	[[ $(NO_COLOR=1 TERM=xterm on_terminal "$ctl pods") != *$'\e'* ]]
	[[ $(ctl pods) != *$'\e'* ]]
}

@test "inspect: containers, pods and images, with what the runtime says beyond CRI" {
	local id
	[ "$(ctl inspect "${ID:0:8}" | jq -r '.status.id, .info.sandboxID' | paste -sd,)" = "$ID,$POD" ]
	[ "$(ctl inspect main | jq -r .status.state)" = CONTAINER_RUNNING ]
	ctl inspect --type pod pod | jq -e '.status.state == "SANDBOX_READY" and (.info.netns | startswith("/")) and
		.info.bringUpMs.boot > 0'
	id=$(ctl inspect "$IMAGE" | jq -r .status.id)
	[[ $id == sha256:* ]]
	[ "$(ctl inspect --type image "$id" main pod 2>/dev/null | jq -r .status.id)" = "$id" ]
	[ "$(ctl inspect main pod | jq -r 'map(.status.metadata.name) | join(",")')" = main,pod ]
	ctl inspect -o yaml main | grep -qx '  state: "CONTAINER_RUNNING"'
	run ctl inspect nope
	[ "$status" -eq 1 ]
	[[ $output == *"no container, pod or image 'nope'"* ]]
}

@test "stats: what pods use and what they cost the host; live on a terminal" {
	local ctl="$BUILD/cri-server/cli/bulkheadctl --socket $D/run/bulkhead.sock" row
	ctl stats -c >"$D/stats"
	read -r -a row < <(grep '^pod ' "$D/stats")
	[[ ${row[1]} == *% && ${row[2]} == *B && ${row[3]} -gt 0 && ${row[6]} == *s && ${row[7]} == *MB ]]
	grep -q '^ *main  *[0-9.]*%  *[0-9.]*[kM]*B ' "$D/stats"
	ctl stats -o json pod | jq -e '.stats[0] | .host.memoryPssBytes > 10000000 and .host.cpuSeconds >= 0 and
		(.linux.memory.workingSetBytes.value | tonumber > 0)'
	script -qfc "stty cols 120 rows 10; exec $ctl stats --interval 1" "$D/typescript" >/dev/null 3>&- &
	eventually 20 times "$D/typescript" $'\e\[H\e\[J' 3
	kill $!
	run ctl stats --interval 0
	[ "$status" -eq 1 ]
}

# times FILE PATTERN N: so many lines have it.
times() {
	[ "$(grep -c "$2" "$1")" -ge "$3" ]
}

@test "events: a container's life, as lines and as JSON" {
	local id client other
	background_ctl events >"$D/events"
	client=$!
	background_ctl events -o json >"$D/events.json"
	other=$!
	eventually 20 events_flow
	id=$(run_script "$POD" brief 'exit 3')
	wait_state "$id" CONTAINER_EXITED
	crictl rm "$id" >/dev/null
	eventually 20 grep -q "deleted container $id" "$D/events"
	grep -q "Z created container $id brief pod $POD pod\$" "$D/events"
	grep -q "Z started container $id brief pod $POD pod\$" "$D/events"
	grep -q "Z stopped container $id brief exit=3 pod $POD pod\$" "$D/events"
	eventually 20 json_events_are CREATED,STARTED,STOPPED,DELETED "$id"
	kill "$client" "$other"
}

# json_events_are TYPES ID
json_events_are() {
	[ "$(jq -r "select(.containerId == \"$2\").containerEventType | ltrimstr(\"CONTAINER_\") | rtrimstr(\"_EVENT\")" \
		"$D/events.json" | paste -sd,)" = "$1" ]
}

# Both clients get events: one that is made until then says so.
events_flow() {
	crictl rm "$(create_container "$POD" probe)" >/dev/null
	grep -q probe "$D/events" && grep -q probe "$D/events.json"
}

@test "logs: --since, --timestamps, with --tail and -f; controls are escaped on a terminal" {
	local ctl="$BUILD/cri-server/cli/bulkheadctl --socket $D/run/bulkhead.sock" id first
	id=$(run_script "$POD" talker 'echo one; sleep 1; printf "\033[31mtwo\n"; sleep 2; echo err >&2; sleep 2; echo three')
	ctl logs -f -t --tail 100 "$id" >"$D/followed" 2>"$D/errors"
	[ "$(cut -d' ' -f2 "$D/followed" | tr -d '\033' | paste -sd,)" = 'one,[31mtwo,three' ]
	grep -qE '^20[0-9-]*T[0-9:.]*Z err$' "$D/errors"
	first=$(tail -n 1 "$D/followed" | cut -d' ' -f1)
	[ "$(ctl logs --since "$first" "$id" 2>&1)" = three ]
	[ "$(ctl logs --since 1h --tail 2 "$id" 2>&1)" = "$(printf 'err\nthree')" ]
	[ -z "$(ctl logs --since 0s "$id" 2>&1)" ]
	[[ $(on_terminal "$ctl logs $id") == *'\x1b[31mtwo'* ]]
	[[ $(on_terminal "$ctl logs --raw $id") == *$'\e[31mtwo'* ]]
	run ctl logs --since yesterday "$id"
	[ "$status" -eq 1 ]
	[[ $output == *"--since: 'yesterday' is neither"* ]]
}

@test "console: what the guest's kernel wrote, escaped on a terminal" {
	local ctl="$BUILD/cri-server/cli/bulkheadctl --socket $D/run/bulkhead.sock"
	ctl console pod | grep -q 'bulkhead-agent: starting'
	printf 'forged \033[2J line\r\n' >>"$D/run/vm/$POD/console"
	ctl console pod | grep -q $'forged \e\\[2J line'
	on_terminal "$ctl console pod" >"$D/console"
	grep -qxF 'forged \x1b[2J line' "$D/console"
	run ctl console nope
	[ "$status" -eq 1 ]
}

@test "console --shell: a shell in the guest, where the configuration permits one" {
	local ctl="$BUILD/cri-server/cli/bulkheadctl --socket $D/run/bulkhead.sock" code
	run ctl console --shell pod id
	[ "$status" -eq 1 ]
	[[ $output == *"permits no debug console: hypervisor.debug_console is not set"* ]]
	run ctl console pod id
	[ "$status" -eq 1 ]
	ctl exec "$ID" sh -c '! ls /run/volumes 2>/dev/null'

	sed -i "s|^hypervisor:|&\n  debug_console: $(command -v busybox)|" "$D/config.yaml"
	restart_bulkheadd
	# In the agent's namespaces, as its root, with all rights; the streams are apart.
	[ "$(ctl console --shell pod sh -c 'readlink /proc/self/ns/mnt')" = \
		"$(ctl console --shell pod busybox readlink /proc/1/ns/mnt)" ]
	ctl console --shell pod sh -c 'cat /proc/1/comm; id -u; ls /run/volumes; echo apart >&2; exit 9' \
		>"$D/shell" 2>"$D/apart" || code=$?
	[ "$code" = 9 ]
	[ "$(paste -sd ' ' "$D/shell")" = 'init 0 console' ]
	[ "$(cat "$D/apart")" = apart ]
	[ "$(ctl console --shell pod sh -c 'cd /proc/1/root; cat proc/self/cgroup')" = 0::/guest/exec-4 ]
	[ "$(echo 'echo read' | ctl console --shell pod)" = read ]
	on_terminal "$ctl console --shell pod sh -c 'until stty size | grep -x \"37 200\"; do sleep 0.1; done; kill -9 \$\$'; echo code \$?" >"$D/shell"
	grep -aq "37 200\$" "$D/shell"
	grep -aq "code 137\$" "$D/shell"
	run ctl console --shell pod nonsense
	[ "$status" -eq 1 ]
	[[ $output == *'"nonsense": executable file not found'* ]]
	grep -q "debug console opened.*pod=$POD command=sh " "$D/log"
	grep -q "debug console ended.*pod=$POD command=sh " "$D/log"

	# What it started ends with it; containers neither see it nor are reached by its name.
	ctl console --shell pod sh -c 'sleep 1234 >/dev/null 2>&1 &'
	eventually 20 ctl console --shell pod sh -c '! ps | grep -q "[s]leep 1234"'
	ctl exec "$ID" sh -c '! ls /run/volumes 2>/dev/null'
	run crictl exec -s "guest:$POD" id
	[ "$status" -ne 0 ]
	run crictl attach "guest:$POD"
	[ "$status" -ne 0 ]
	run ctl console --shell nope
	[ "$status" -eq 1 ]
}

@test "console --shell: a guest that does not answer keeps no other from being looked at" {
	local other vm
	other=$(run_pod other)
	vm=$(cut -d' ' -f1 "$D/state/libvirt/run/qemu/bh-$other.pid")
	kill -STOP "$vm"
	ctl console --shell other sh -c : 3>&- &
	sleep 1
	timeout 5 "$BUILD/cri-server/cli/bulkheadctl" --socket "$D/run/bulkhead.sock" console --shell pod sh -c :
	kill -CONT "$vm"
	wait $!
	remove_pod "$other"
}

@test "help and completion are the table's" {
	local ctl="$BUILD/cri-server/cli/bulkheadctl" command COMP_WORDS COMP_CWORD COMPREPLY
	ctl help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p' >"$D/commands"
	[ "$(wc -l <"$D/commands")" -gt 15 ]
	while read -r command; do
		ctl help "$command" >"$D/help"
		grep -q "^Usage: bulkheadctl $command" "$D/help"
		ctl "$command" --help | cmp - "$D/help"
	done <"$D/commands"
	run ctl help nope
	[ "$status" -eq 2 ]

	# shellcheck source=/dev/null
	. <("$ctl" completion bash)
	complete_words() {
		COMP_WORDS=(bulkheadctl "$@")
		COMP_CWORD=$#
		_bulkheadctl
		echo "${COMPREPLY[*]}"
	}
	[ "$(complete_words po)" = "pods port-forward" ]
	[ "$(complete_words -s /run/x ps -)" = "--help --all --output" ]
	[ "$(complete_words ps -o y)" = yaml ]
	[ "$(complete_words help stat)" = stats ]
	[ -z "$(complete_words logs --since '')" ]
}

@test "the manual pages have every command, option and key" {
	local ctl="$BUILD/cri-server/cli/bulkheadctl" make="$REPOSITORY/packaging/make-man" command option key
	"$make" commands "$ctl" "$REPOSITORY/packaging/man/bulkheadctl.1" >"$D/ctl.1"
	"$make" configuration "$REPOSITORY/docs/configuration.md" >"$D/config.5"
	# They are compared as they are read.
	for page in ctl.1 config.5; do
		groff -man -T utf8 -ww -z "$D/$page" 2>"$D/warnings"
		[ ! -s "$D/warnings" ]
		groff -man -T ascii -rLL=200n "$D/$page" 2>/dev/null | sed -e 's/\x1b\[[0-9;]*m//g' -e 's/.\x08//g' >"$D/$page.txt"
	done
	while read -r command; do
		sed -n "/^ *bulkheadctl $command\( \|$\)/,/^ *bulkheadctl /p" "$D/ctl.1.txt" >"$D/section"
		while read -r option; do
			grep -qwe "$option" "$D/section" || { echo "$command $option" && false; }
		done < <("$ctl" help "$command" | grep -oE '^ .{6}--[a-z-]+|^  -., --[a-z-]+' | grep -o '[-][-].*')
	done < <("$ctl" help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p')
	while read -r key; do
		grep -qwF "$key" "$D/config.5.txt" || { echo "key $key" && false; }
	done < <(sed -nE 's/.*(STRING|NUMBER|BOOLEAN|_PTR|_MAPPING)\("([a-z_]+)".*/\2/p; s/.*\.key = "([a-z_]+)".*/\1/p' \
		"$REPOSITORY/cri-server/config.c" | sort -u)
}

@test "cp: files and trees in and out; an archive that means harm leaves the host alone" {
	local id
	mkdir -p "$D/cp/tree/sub" "$D/cp/out"
	head -c 300000 /dev/urandom >"$D/cp/tree/sub/data"
	ln -s sub "$D/cp/tree/link"
	printf x >"$D/cp/-dash"
	ctl cp "$D/cp/tree" main:/tmp
	ctl cp "$D/cp/tree/sub/data" main:/tmp/renamed
	[ "$(ctl exec "$ID" readlink /tmp/tree/link)" = sub ]
	[ "$(ctl exec "$ID" stat -c %u:%g /tmp/tree/sub/data)" = 0:0 ]
	run ctl cp main:/tmp/tree "$D/cp/out"
	[ "$status" -eq 0 ]
	[[ $output == "1 symbolic links, devices or the like were left out" ]]
	cmp "$D/cp/tree/sub/data" "$D/cp/out/tree/sub/data"
	ctl cp "$ID:/tmp/renamed" "$D/cp/out/back"
	cmp "$D/cp/tree/sub/data" "$D/cp/out/back"
	(cd "$D/cp" && ctl cp ./-dash main:/tmp && ctl cp main:/tmp/-dash out)
	[ -f "$D/cp/out/-dash" ]

	run ctl cp main:/nonexistent "$D/cp/out"
	[ "$status" -eq 1 ]
	[[ $output == *"the container's tar failed with 1: "*nonexistent* ]]
	run ctl cp "$D/cp/tree" main:/nonexistent/x
	[ "$status" -eq 1 ]
	run ctl cp --limit 0 main:/tmp/renamed "$D/cp/out/large"
	[ "$status" -eq 1 ]
	[[ $output == *"the container sends more than 0 MiB"* && ! -e $D/cp/out/large ]]
	run ctl cp "$D/cp/tree" "$D/cp/out"
	[ "$status" -eq 1 ]

	# A tar of the container's own.
	id=$(run_container "$POD" harmful)
	tar -cPf "$D/cp/evil.tar" --transform 's,^.*/data,x/../../escaped,' "$D/cp/tree/sub/data"
	printf '#!/bin/sh\ncat /evil.tar; printf "\\033[2Jgone" >&2; exit 3\n' >"$D/cp/tar"
	chmod 0755 "$D/cp/tar"
	ctl cp "$D/cp/evil.tar" harmful:/
	ctl exec "$id" sh -c 'rm -f /bin/tar.real; mv /bin/tar /bin/tar.real' || true
	ctl exec -i "$id" sh -c 'for p in /bin /usr/bin; do rm -f $p/tar; done; cat >/bin/tar; chmod 755 /bin/tar' <"$D/cp/tar"
	run ctl cp harmful:/x "$D/cp/out"
	[ "$status" -eq 1 ]
	[[ $output == *"'x/../../escaped': no proper name"* && $output != *$'\e'* ]]
	# What it said before is not the reason why it was not heard to its end.
	ctl exec -i "$id" sh -c 'cat >/bin/tar' < <(printf '#!/bin/sh\necho words >&2; sleep 1; cat /evil.tar /evil.tar')
	run ctl cp harmful:/x "$D/cp/out"
	[ "$status" -eq 1 ]
	[[ $output == *"'x/../../escaped': no proper name"* ]]
	[ ! -e "$D/cp/escaped" ] && [ ! -e "$D/escaped" ]
	crictl rm -f "$id" >/dev/null
}

@test "sessions on which nothing comes or goes stay, for they are pinged" {
	local client line
	printf 'streaming:\n  idle_timeout_ms: 12000\n' >>"$D/config.yaml"
	restart_bulkheadd
	ctl cp "$BUILD/tests/functional/tcp_echo" main:/tmp/quiet_echo
	ctl exec "$ID" /tmp/quiet_echo 7003
	background_ctl port-forward pod :7003 >"$D/forward" 2>"$D/lost"
	client=$!
	eventually 30 grep -q '^Forwarding from 127.0.0.1' "$D/forward"
	exec 7<>"/dev/tcp/127.0.0.1/$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' "$D/forward")"
	echo before >&7
	read -r -t 60 line <&7
	[ "$(ctl exec -i "$ID" sh -c 'sleep 16; echo quiet')" = quiet ]
	echo after >&7
	read -r -t 60 line <&7
	[ "$line" = after ]
	exec 7>&-
	[ ! -s "$D/lost" ]
	kill -INT "$client"
	wait "$client"
}

# The last test: it takes the pod away.
@test "port-forward says what a pod that has stopped has to say" {
	local client port
	background_ctl port-forward pod :7000 >"$D/forward" 2>"$D/lost"
	client=$!
	eventually 30 grep -q '^Forwarding' "$D/forward"
	port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' "$D/forward")
	crictl stopp "$POD" >/dev/null
	exec 7<>"/dev/tcp/127.0.0.1/$port"
	timeout 60 cat <&7
	exec 7>&-
	eventually 20 grep "^an error occurred forwarding $port -> 7000: error forwarding port 7000 to pod $POD" "$D/lost"
	kill -INT "$client"
	wait "$client"
	run ctl port-forward pod 7000
	[ "$status" -eq 1 ]
	[[ $output == *"does not run"* ]]
}
