#!/usr/bin/env bats
# Exec, attach and port-forward, by crictl over both of its transports.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	# 500 processes take more than a small machine has.
	POD=$(run_pod pod . --runtime big)
	ID=$(run_container "$POD" main)
	export POD ID
}

teardown_file() {
	instance_teardown
}

# exec_by TRANSPORT ARGUMENT…: crictl exec as a session of the streaming server.
exec_by() {
	local transport=$1
	shift
	timeout 60 "$TOOLS/crictl" --config "$D/crictl.yaml" exec --transport "$transport" "$@"
}

# A client of its own process group's, in the background: its pid is in $!.
background_crictl() {
	"$TOOLS/crictl" --config "$D/crictl.yaml" "$@" 3>&- &
}

# on_terminal COMMAND: under a pseudo-terminal of 101 columns and 37 rows.
on_terminal() {
	timeout 60 script -qec "stty cols 101 rows 37; $1" /dev/null </dev/null | tr -d '\r'
}

# url METHOD-LETTERS…: asks for a URL; the request's bytes after the container's id.
url() {
	printf '\x0a\x20%s%b' "$ID" "$2" | raw "$1" | grep -ao 'http://.*'
}
EXEC_TRUE='\x12\x04true\x28\x01' # cmd: true; stdout: true

in_container() {
	crictl exec -s "$ID" "$@"
}

# runs_inside PATTERN, which does not match itself.
runs_inside() {
	in_container sh -c "ps | grep -q '$1'"
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

# Under a pseudo-terminal: its size changes again and again, until a process has begun and saw that.
RESIZE='(while sleep 0.5; do stty cols 9$((i = (i + 1) % 10)) rows 20 </dev/tty; done) & resizer=$!;'
AWAIT_SIZE='trap "stty size; exit 3" WINCH; i=0; while [ $i -lt 400 ]; do sleep 0.1; i=$((i + 1)); done'

@test "a terminal has its size from the start, and another one when it changes" {
	local crictl="$TOOLS/crictl --config $D/crictl.yaml"
	for transport in spdy websocket; do
		run on_terminal "$crictl exec --transport $transport -it $ID sh -c 'stty size; tty; echo \$TERM'"
		[[ $output == *"37 101"*"/dev/pts/"*xterm* ]]
	done
	run on_terminal "$RESIZE $crictl exec -it $ID sh -c '$AWAIT_SIZE'; kill \$resizer"
	[[ $output == *"20 9"* ]]
}

# STREAM_MIB=1024 for the whole GiB.
@test "tens of MiB go in and out unharmed" {
	local mib=${STREAM_MIB:-32} sum
	head -c "${mib}M" /dev/urandom >"$D/large"
	sum=$(sha256sum <"$D/large")
	for transport in spdy websocket; do
		[ "$(timeout 900 "$TOOLS/crictl" --config "$D/crictl.yaml" exec --transport "$transport" -i "$ID" cat \
			<"$D/large" | sha256sum)" = "$sum" ]
	done
	rm "$D/large"
}

@test "who vanishes takes his process along, with its children, with a terminal too; not the container" {
	local client
	background_crictl exec -i "$ID" sh -c 'sleep 4242 & sleep 4243; true'
	client=$!
	eventually 10 runs_inside '[s]leep 4243'
	kill -KILL "$client"
	eventually 10 not runs_inside '[s]leep 424'
	mkfifo "$D/keys"
	script -qec "exec $TOOLS/crictl --config $D/crictl.yaml exec -it $ID sleep 4244" /dev/null \
		<>"$D/keys" >/dev/null 2>&1 3>&- &
	eventually 10 runs_inside '[s]leep 4244'
	kill -KILL "$(pgrep -f -- "exec -it $ID sleep 4244" | tail -n 1)"
	eventually 10 not runs_inside '[s]leep 4244'
	[ "$(container_field "$ID" .state)" = CONTAINER_RUNNING ]
}

@test "the end of stdin is the process's, which may go on, whatever its client" {
	[ "$(exec_by spdy -i "$ID" sh -c 'cat; sleep 1; echo after' <<<before)" = $'before\nafter' ]
	[ "$(exec_by websocket -i "$ID" sh -c 'cat; sleep 1; echo after' <<<before)" = $'before\nafter' ]
}

@test "a process is what its container is: user, groups, capabilities, environment" {
	local id want show='echo $WHO; grep -E "^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)" /proc/self/status'
	id=$(run_script "$POD" user "$show; echo; sleep 1000" '.envs = [{key: "WHO", value: "me"}] | .linux.security_context = {
		run_as_user: {value: 1234}, run_as_group: {value: 2345}, supplemental_groups: [3456, 4567],
		capabilities: {add_capabilities: ["NET_ADMIN"], drop_capabilities: ["CHOWN"]}}')
	eventually 10 grep -q Seccomp_filters "$D/logs/pod/user.log"
	want=$(output_of pod user)
	grep -q $'^Groups:\t2345 3456 4567' <<<"$want"
	[ "$(exec_by spdy "$id" sh -c "$show")" = "$want" ]
	[ "$(crictl exec -s "$id" sh -c "$show; echo")" = "$want" ]
	crictl rm -f "$id" >/dev/null
}

@test "exec while the container is stopping: it runs until the container ends, and ends with it" {
	local id stopping client
	id=$(run_script "$POD" stopping 'trap "touch /stopping" TERM; touch /ready; until [ -e /end ]; do sleep 0.1; done')
	eventually 20 crictl exec -s "$id" ls /ready
	crictl stop --timeout 100 "$id" >/dev/null 3>&- &
	stopping=$!
	eventually 20 crictl exec -s "$id" ls /stopping
	[ "$(exec_by spdy "$id" echo still)" = still ]
	exec_by websocket "$id" sh -c 'touch /end; sleep 1078' >/dev/null 2>"$D/ended" 3>&- &
	client=$!
	wait "$stopping"
	! wait "$client" || false
	grep -qE '137|its container ended' "$D/ended"
	run exec_by spdy "$id" true
	[[ $output == *"is not running"* ]]
	crictl rm "$id" >/dev/null
}

not() {
	! "$@"
}

@test "a client that does not read holds its own process up, and nobody else" {
	background_crictl exec "$ID" dd if=/dev/zero bs=1M count=100000 >"$D/slow" 2>/dev/null
	local client=$!
	sleep 1
	kill -STOP "$client"
	sleep 1
	[ "$(exec_by spdy "$ID" echo quick)" = quick ]
	local before after
	before=$(awk '/VmRSS/ { print $2 }' "/proc/$(cat "$D/pid")/status")
	sleep 2
	after=$(awk '/VmRSS/ { print $2 }' "/proc/$(cat "$D/pid")/status")
	kill -KILL "$client"
	rm -f "$D/slow"
	[ "$after" -lt $((before + 4096)) ]
	eventually 10 not runs_inside 'dd [i]f'
}

# The clients that are attached, or were.
attachments() {
	grep -c "streaming session began kind=attach" "$D/log" || true
}

# attached COUNT: there are more than that were.
attached() {
	[ "$(attachments)" -gt "$1" ]
}

@test "several clients are attached, from the start; one detaches; stdin is theirs; the log has all" {
	local id before
	id=$(create_container "$POD" reader '.command = ["sh", "-c", "echo begun; while read l; do echo got $l; done"] |
		.stdin = true | .log_path = "reader.log"')
	before=$(attachments)
	background_crictl attach --transport websocket "$id" >"$D/first"
	local first=$!
	eventually 20 attached "$before"
	crictl start "$id" >/dev/null
	eventually 10 grep -qx begun "$D/first"
	echo one | timeout 60 "$TOOLS/crictl" --config "$D/crictl.yaml" attach -i "$id" >"$D/second" &
	local second=$!
	eventually 10 grep -qx "got one" "$D/first"
	eventually 10 grep -qx "got one" "$D/second"
	kill "$first" "$second"
	[ "$(container_field "$id" .state)" = CONTAINER_RUNNING ]
	grep -q 'stdout F got one' "$D/logs/pod/reader.log"
	crictl rm -f "$id" >/dev/null
}

@test "stdin_once: the end of the first client's stdin is the end of the process's" {
	local id
	id=$(run_container "$POD" once '.command = ["cat"] | .stdin = true | .stdin_once = true | .log_path = "once.log"')
	[ "$(echo hello | timeout 60 "$TOOLS/crictl" --config "$D/crictl.yaml" attach -i "$id")" = hello ]
	eventually 10 exited "$id"
	[ "$(container_field "$id" .exitCode)" = 0 ]
	crictl rm "$id" >/dev/null
}

exited() {
	[ "$(container_field "$1" .state)" = CONTAINER_EXITED ]
}

@test "an attached client that does not read does not hold the log up" {
	local id before
	id=$(create_container "$POD" writer '.command = ["sh", "-c", "dd if=/dev/zero bs=1M count=20 2>/dev/null; echo; echo end"] |
		.log_path = "writer.log"')
	before=$(attachments)
	background_crictl attach "$id" >/dev/null 2>"$D/cut"
	local client=$!
	eventually 20 attached "$before"
	kill -STOP "$client"
	crictl start "$id" >/dev/null
	eventually 30 exited "$id"
	tail -n 1 "$D/logs/pod/writer.log" | grep -q 'F end'
	kill -CONT "$client"
	eventually 20 grep -q "waited for this client" "$D/cut"
	crictl rm "$id" >/dev/null
}

# start_echo PORT: a server in the container that sends back what comes.
start_echo() {
	exec_by spdy -i "$ID" sh -c "cat >/tmp/echo && chmod 755 /tmp/echo && /tmp/echo $1 && rm /tmp/echo" \
		<"$BUILD/tests/functional/tcp_echo"
}

# forwarded PORT: the local port, which its client has found free, that leads to it.
forwarded() {
	sed -n "s/^Forwarding from 127.0.0.1:\([0-9]*\) -> $1\$/\1/p" "$D/forward"
}

# hostname_at PORT: what the web server behind it says.
hostname_at() {
	exec 7<>"/dev/tcp/127.0.0.1/$1"
	printf 'GET /hostname HTTP/1.0\r\n\r\n' >&7
	timeout 60 grep -x pod <&7
	exec 7>&-
}

@test "port-forward: many connections, both transports, and what a refused port says" {
	local server port ip
	ip=$(pod_field "$POD" .network.ip)
	start_echo 7000
	# On the pod's address alone, and on the loopback of IPv6 alone.
	exec_by spdy "$ID" sh -c "httpd -p $ip:7001 -h /etc && httpd -p '[::1]:7003' -h /etc"
	for transport in spdy websocket; do
		background_crictl port-forward --transport "$transport" "$POD" :7000 :7001 :7002 :7003 >"$D/forward" 2>&1
		server=$!
		eventually 30 grep -q "Forwarding from.*7003" "$D/forward"
		port=$(forwarded 7000)
		for ((i = 0; i < 20; i++)); do
			(exec 7<>"/dev/tcp/127.0.0.1/$port" && echo "$i" >&7 && read -r -t 60 line <&7 && [ "$line" = "$i" ] && echo ok >>"$D/oks") 3>&- &
		done
		eventually 90 lines_are "$D/oks" 20
		rm "$D/oks"
		hostname_at "$(forwarded 7001)"
		hostname_at "$(forwarded 7003)"
		exec 7<>"/dev/tcp/127.0.0.1/$(forwarded 7002)"
		timeout 60 cat <&7 || true
		exec 7>&-
		eventually 30 grep -q "127.0.0.1: Connection refused" "$D/forward"
		kill "$server" 2>/dev/null || true # crictl ends when a port is refused
	done
	in_container killall httpd
}

lines_are() {
	[ "$(wc -l <"$1" 2>/dev/null)" = "$2" ]
}

gone() {
	! kill -0 "$1" 2>/dev/null
}

@test "bulkheadctl: exec -it, attach, run -it" {
	local ctl="$BUILD/cri-server/cli/bulkheadctl --socket $D/run/bulkhead.sock" id
	run on_terminal "$ctl exec -it $ID sh -c 'stty size; exit 7'; echo code \$?"
	[[ $output == *"37 101"*"code 7"* ]]
	run on_terminal "$RESIZE $ctl exec -it $ID sh -c '$AWAIT_SIZE'; kill \$resizer"
	[[ $output == *"20 9"* ]]
	# The terminal is as before also where a signal ends it, as when nobody reads any more.
	run on_terminal "stty -g; $ctl exec -it $ID yes | head -c 1 >/dev/null; stty -g"
	# "^@" is what script says at the end of its own input, echoed.
	[ "${lines[0]#*^@}" = "${lines[1]#*^@}" ]
	head -c 3000000 /dev/urandom >"$D/data"
	ctl exec -i "$ID" cat <"$D/data" >"$D/back"
	cmp "$D/data" "$D/back"
	run ctl exec -i "$ID" /nonexistent </dev/null
	[ "$status" -eq 1 ]
	[[ $output == *nonexistent* ]]
	id=$(run_container "$POD" ctl-once '.command = ["cat"] | .stdin = true | .stdin_once = true')
	[ "$(echo hello | ctl attach -i "$id")" = hello ]
	crictl rm -f "$id" >/dev/null
	run on_terminal "$ctl run -t $IMAGE sh -c 'tty; stty size; exit 5'; echo code \$?"
	[[ $output == *"/dev/pts/0"*"code 5"* ]]
	[ "$(echo word | ctl run -i "$IMAGE" sed s/w/W/)" = Word ]
	# While its streams are passed on too, a signal ends it and takes the pod away.
	"$BUILD/cri-server/cli/bulkheadctl" --socket "$D/run/bulkhead.sock" run -i --name signalled "$IMAGE" \
		sh -c 'echo runs; exec sleep 1000' </dev/null >"$D/signalled" 3>&- &
	id=$!
	eventually 60 grep -q runs "$D/signalled"
	kill "$id"
	eventually 60 gone "$id"
	wait "$id" || [ "$?" -eq 143 ]
	[ -z "$(crictl pods -q --name signalled)" ]
}

# typed LINE: typed at the terminal behind fd 9, until the container has answered. It may not be there from the start.
typed() {
	printf '%s\n' "$1" >&9
	sleep 0.2
	grep -q "^got $1.\$" "$D/screen"
}

@test "bulkheadctl attach -it: Ctrl-P Ctrl-Q leaves the container to itself" {
	local id terminal
	id=$(run_container "$POD" keys '.command = ["sh", "-c", "while read -r l; do echo \"got $l\" | cat -v; done"] |
		.stdin = true | .tty = true')
	mkfifo "$D/typed"
	exec 9<>"$D/typed"
	for word in one two; do
		timeout 60 script -qec "exec $BUILD/cri-server/cli/bulkheadctl --socket $D/run/bulkhead.sock attach -it $id" /dev/null \
			<&9 >"$D/screen" 3>&- 9>&- &
		terminal=$!
		eventually 20 typed "$word"
		# Ctrl-P alone is the container's.
		printf 'a\020b\n' >&9
		eventually 20 grep -qF 'got a^Pb' "$D/screen"
		printf '\020' >&9
		sleep 0.2
		printf '\021' >&9
		wait "$terminal"
	done
	exec 9>&-
	# The first of the two keys is not left behind, at the begin of the next client's line.
	! grep -qF 'got ^P' "$D/screen" || false
	[ "$(container_field "$id" .state)" = CONTAINER_RUNNING ]
	# What is no terminal has no keys.
	printf 'c\020\021d\n' | timeout 60 "$BUILD/cri-server/cli/bulkheadctl" --socket "$D/run/bulkhead.sock" attach -i "$id" \
		>"$D/screen" 3>&- &
	terminal=$!
	eventually 20 grep -qE 'got c\^P(\^Q)?d' "$D/screen"
	kill "$terminal"
	crictl rm -f "$id" >/dev/null
}

@test "requests that cannot be are refused when they are made" {
	run crictl exec -it "$(printf '0%.0s' {1..32})" sh
	[ "$status" -ne 0 ]
	printf '\x0a\x20%s\x12\x04true' "$ID" | { ! raw Exec >"$D/err"; }
	grep -q "one of stdin, stdout, or stderr" "$D/err"
	printf '\x0a\x20%s\x12\x04true\x18\x01\x30\x01' "$ID" | { ! raw Exec >"$D/err"; }
	grep -q "tty and stderr" "$D/err"
}

@test "a token is good once, for its own path, and must be known" {
	local token
	token=$(url Exec "$EXEC_TRUE")
	code() {
		curl -s -o /dev/null -w '%{http_code}' "$@"
	}
	[ "$(code "${token/exec/attach}")" = 404 ]
	[ "$(code "${token%?}")" = 404 ]
	[ "$(code "${token%/*}/$(printf '0%.0s' {1..32})")" = 404 ]
	[ "$(code -X PUT "$token")" = 405 ]
	[ "$(code "$token")" = 400 ] # no upgrade
	[ "$(code "$token")" = 404 ] # it was used
	token=$(url Exec "$EXEC_TRUE")
	[ "$(code -H 'Connection: Upgrade' -H 'Upgrade: SPDY/3.1' -H 'X-Stream-Protocol-Version: v9' "$token")" = 403 ]
	token=$(url Exec "$EXEC_TRUE")
	[ "$(code -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' "$token")" = 400 ]
	[ "$(code -H "X: $(head -c 40000 /dev/zero | tr '\0' x)" "$token")" = 431 ]
}

@test "10,000 connections that say nothing cost little, hold nobody up, and are closed" {
	local token port host pid before
	pid=$(cat "$D/pid")
	token=$(url Exec "$EXEC_TRUE")
	host=${token#http://} host=${host%%/*} port=${host##*:}
	before=$(awk '/VmRSS/ { print $2 }' "/proc/$pid/status")
	drip "$port" >"$D/drips" 3>&- &
	# Of a read, more than 128 says that its time is over.
	bash -c "ulimit -n 20000; for ((i = 0; i < 10000; i++)); do exec {fd}<>/dev/tcp/127.0.0.1/$port || exit 1; [ \$((i % 2)) = 0 ] || printf 'GET /' >&\$fd; done; echo open; read -r -t 30 _ <&\$fd; [ \$? -gt 128 ] || echo closed" >"$D/idle" 2>&1 3>&- &
	eventually 30 grep -qx open "$D/idle"
	[ "$(exec_by spdy "$ID" echo still)" = still ]
	# ThreadSanitizer remembers each of them.
	[ "${VARIANT:-release}" = tsan ] || [ $(($(awk '/VmRSS/ { print $2 }' "/proc/$pid/status") - before)) -lt 262144 ]
	# Bytes that drip renew no deadline.
	eventually 20 grep -qx cut "$D/drips"
	eventually 30 grep -qx closed "$D/idle"
	eventually 20 fds_below "$pid" 1000
}

# drip PORT: a request that never ends.
drip() {
	trap '' PIPE
	exec 7<>"/dev/tcp/127.0.0.1/$1"
	printf 'GET / HTTP/1.1\r\nX: ' >&7
	for ((i = 0; i < 200; i++)); do
		printf x >&7 2>/dev/null || break
		sleep 0.2
	done
	[ "$i" = 200 ] || echo cut
}

fds_below() {
	set -- "$2" "/proc/$1/fd/"*
	[ $(($# - 1)) -lt "$1" ]
}
threads_are() {
	[ "$(threads)" -le "$1" ]
}

threads() {
	set -- "/proc/$(cat "$D/pid")/task/"*
	echo $#
}

fds() {
	set -- "/proc/$(cat "$D/pid")/fd/"*
	echo $#
}

# SYNCS=500 for as many ExecSyncs at once, EXECS=100 where time is short.
@test "500 execs at once leave no thread, no descriptor, no process" {
	local before_threads before_fds before_memory n=${EXECS:-500} syncs=${SYNCS:-100} pid
	pid=$(cat "$D/pid")
	before_threads=$(threads)
	before_fds=$(fds)
	before_memory=$(awk '/VmRSS/ { print $2 }' "/proc/$pid/status")
	timeout 600 "$BUILD/tests/functional/exec_load" "$D/run/bulkhead.sock" "$ID" "$n" "$syncs"
	[ "${VARIANT:-release}" = tsan ] || [ $(($(awk '/VmHWM/ { print $2 }' "/proc/$pid/status") - before_memory)) -lt 262144 ]
	# Workers end when they had nothing to do for a while; gRPC keeps some of its own more than before.
	eventually 60 threads_are "$((before_threads + 20))"
	eventually 30 fds_below "$pid" "$((before_fds + 1))"
	eventually 10 eval '[ "$(in_container sh -c "ls -d /proc/[0-9]* | wc -l")" -lt 8 ]'
}

@test "bulkheadd dies: an exec ends with it, and nothing of it is left in the guest" {
	background_crictl exec -i "$ID" sh -c 'sleep 4250 & sleep 4251'
	eventually 10 runs_inside '[s]leep 4251'
	kill_bulkheadd
	start_bulkheadd
	eventually 10 not runs_inside '[s]leep 425'
	[ "$(container_field "$ID" .state)" = CONTAINER_RUNNING ]
}

# lost_again FILE COUNT
lost_again() {
	[ "$(grep -c "connecting again$" "$1")" = "$2" ]
}

@test "with a certificate the URLs are https, and all works through TLS" {
	local server url port line
	openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
		-keyout "$D/key.pem" -out "$D/cert.pem" 2>/dev/null
	printf 'streaming:\n  tls_certificate: %s\n  tls_key: %s\n' "$D/cert.pem" "$D/key.pem" >>"$D/config.yaml"
	restart_bulkheadd
	url=$(printf '\x0a\x20%s%b' "$ID" "$EXEC_TRUE" | raw Exec | grep -ao 'https://127.0.0.1:[0-9]*')
	exec 6<>"/dev/tcp/127.0.0.1/${url##*:}"
	head -c 4M /dev/urandom >"$D/large"
	for transport in spdy websocket; do
		exec_by "$transport" -i "$ID" cat <"$D/large" >"$D/back"
		cmp "$D/large" "$D/back"
	done
	start_echo 7100
	background_crictl port-forward "$POD" :7100 >"$D/forward" 2>&1
	server=$!
	eventually 30 grep -q "Forwarding from.*7100" "$D/forward"
	exec 7<>"/dev/tcp/127.0.0.1/$(forwarded 7100)"
	echo through >&7
	read -r -t 60 line <&7
	[ "$line" = through ]
	exec 7>&-
	kill "$server"
	[ "$(curl -s --cacert "$D/cert.pem" -o /dev/null -w '%{http_code}' "$url/exec/none")" = 404 ]
	# Who does not speak TLS, or does not speak, is cut off.
	[ -z "$(curl -s -m 5 "http://${url#https://}/")" ]
	timeout 20 cat <&6
	exec 6>&-
	eventually 20 fds_below "$(cat "$D/pid")" 200

	# bulkheadctl trusts whom it is told to; its port-forward outlives bulkheadd.
	run ctl exec -i "$ID" true </dev/null
	[ "$status" -eq 1 ]
	[[ $output == *"certificate is not trusted for 127.0.0.1"* ]]
	ctl --tls-ca "$D/cert.pem" exec -i "$ID" cat <"$D/large" >"$D/back"
	cmp "$D/large" "$D/back"
	# Where the configuration of this host says it, without being told.
	unshare -m sh -c 'mount -t tmpfs none /etc && mkdir /etc/bulkhead && cp "$1" /etc/bulkhead/config.yaml && shift && "$@"' \
		- "$D/config.yaml" "$BUILD/cri-server/cli/bulkheadctl" --socket "$D/run/bulkhead.sock" exec -i "$ID" cat \
		<"$D/large" >"$D/back"
	cmp "$D/large" "$D/back"
	# When nobody reads any more it ends as programs do, without a word.
	{ timeout 60 "$BUILD/cri-server/cli/bulkheadctl" --socket "$D/run/bulkhead.sock" --tls-ca "$D/cert.pem" exec -i "$ID" yes \
		</dev/null 2>"$D/said" || echo "$?" >"$D/code"; } | head -c 1000 >/dev/null
	[ "$(cat "$D/code")" = 141 ]
	[ ! -s "$D/said" ]
	rm "$D/forward" # of the one before, or it might be taken for what this one says
	"$BUILD/cri-server/cli/bulkheadctl" --socket "$D/run/bulkhead.sock" --tls-ca "$D/cert.pem" \
		port-forward "$POD" :7100 >"$D/forward" 2>"$D/lost" 3>&- &
	server=$!
	eventually 20 grep -qs "^Forwarding from 127" "$D/forward"
	port=$(forwarded 7100)
	kill_bulkheadd
	eventually 20 grep -q "connecting again$" "$D/lost"
	start_bulkheadd
	eventually 110 grep -q "^connected again" "$D/lost"
	exec 7<>"/dev/tcp/127.0.0.1/$port"
	echo anew >&7
	read -r -t 60 line <&7
	[ "$line" = anew ]
	exec 7>&-
	# Also while it waits for an answer it ends at once.
	kill_bulkheadd
	eventually 20 lost_again "$D/lost" 2
	rm -f "$D/run/bulkhead.sock"
	launch_bulkheadd
	eventually 60 test -S "$D/run/bulkhead.sock"
	kill -STOP "$(cat "$D/pid")"
	sleep 1.5
	kill "$server"
	line=$SECONDS
	wait "$server"
	[ $((SECONDS - line)) -lt 15 ]
	kill -CONT "$(cat "$D/pid")"
	eventually 60 crictl version
}

# What the tests above ran, and was to end with them.
guest_is_quiet() {
	in_container ps >"$D/ps" && ! grep -E "dd if|sleep 4242|stty|root +cat\$" "$D/ps"
}

@test "nothing is left of all that: no thread, no descriptor, no process in the guest" {
	eventually 20 fds_below "$(cat "$D/pid")" 200
	eventually 20 guest_is_quiet || {
		cat "$D/ps"
		false
	}
}
