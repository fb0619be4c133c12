#!/usr/bin/env bats
# Containers: their life, what they run as, and what they write.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	POD=$(run_pod pod '.hostname = "the-host"')
	export POD
}

teardown_file() {
	instance_teardown
}

# once SCRIPT [JQ-FILTER]: its output, from a container in the shared pod.
once() {
	run_once "$POD" pod once "$1" "${2:-.}"
}

# sequence FILE N: the file is exactly the lines 1 to N.
sequence() {
	cmp <(seq "$2") "$1"
}

# ---- life ----

@test "a container goes from CREATED over RUNNING to EXITED with its exit code and times" {
	id=$(create_container "$POD" life '.command = ["sh", "-c", "until [ -e /end ]; do sleep 0.1; done; exit 7"]')
	[ "$(container_field "$id" .state)" = CONTAINER_CREATED ]
	crictl start "$id"
	[ "$(container_field "$id" .state)" = CONTAINER_RUNNING ]
	crictl exec -s "$id" touch /end || true # the container's end may come before its own
	[ "$(finish "$id")" = 7 ]
	crictl inspect "$id" | jq -e '.status | .reason == "Error" and .createdAt < .startedAt and
		.startedAt < .finishedAt and .metadata.name == "life" and .image.image != ""'
	crictl rm "$id"
	refused NotFound "not found" crictl inspect "$id"
}

@test "exit code 0 reads as Completed, and a signal as 128 and its number" {
	id=$(run_script "$POD" zero true)
	[ "$(finish "$id")" = 0 ]
	[ "$(container_field "$id" .reason)" = Completed ]
	crictl rm "$id"
	id=$(run_script "$POD" signalled 'sh -c "kill -USR1 \$\$"; exit $?')
	[ "$(finish "$id")" = 138 ]
	crictl rm "$id"
}

@test "a command that is missing is a StartError that names it, and the container can be removed" {
	id=$(create_container "$POD" missing '.command = ["no-such-program"]')
	run crictl start "$id"
	[ "$status" -ne 0 ]
	grep -qF 'code = Unknown' <<<"$output"
	grep -qF 'exec: \"no-such-program\": executable file not found in $PATH' <<<"$output"
	crictl inspect "$id" | jq -e '.status | .state == "CONTAINER_EXITED" and .exitCode == 128 and
		.reason == "StartError" and (.message | contains("no-such-program"))'
	crictl rm "$id"
}

@test "containers are listed by id, pod, state, label and name" {
	id=$(run_container "$POD" listed '.labels = {app: "listed"}')
	done=$(run_script "$POD" done true '.labels = {app: "done"}')
	finish "$done"
	[ "$(crictl ps -q --id "${id:0:12}")" = "$id" ]
	[ "$(crictl ps -q --pod "$POD" --label app=listed)" = "$id" ]
	[ "$(crictl ps -q --name listed)" = "$id" ]
	[ "$(crictl ps -q -a --state exited --label app=done)" = "$done" ]
	[ -z "$(crictl ps -q --state running --label app=done)" ]
	[ -z "$(crictl ps -q --label app=other)" ]
	crictl rm -f "$id" "$done"
}

@test "labels, annotations and log path are kept" {
	id=$(create_container "$POD" kept '.labels = {a: "b"} | .annotations = {"x/y": "z \"ü\""}')
	crictl inspect "$id" | jq -e --arg log "$D/logs/pod/kept.log" '.status |
		.labels == {a: "b"} and .annotations == {"x/y": "z \"ü\""} and .logPath == $log'
	crictl rm "$id"
}

@test "stop gives the grace period to the stop signal" {
	id=$(run_script "$POD" polite 'trap "echo bye; exit 3" TERM; echo up; while :; do sleep 0.1; done')
	eventually 10 test -s "$D/logs/pod/polite.log"
	crictl stop -t 20 "$id"
	[ "$(container_field "$id" .exitCode)" = 3 ]
	[ "$(output_of pod polite)" = $'up\nbye' ]
	crictl stop "$id"
	crictl rm "$id"
}

@test "stop kills what ignores the stop signal once the grace period is over" {
	id=$(run_script "$POD" stubborn 'trap "" TERM; echo up; while :; do sleep 0.1; done')
	eventually 10 test -s "$D/logs/pod/stubborn.log"
	begin=$(date +%s%N)
	crictl stop -t 2 "$id"
	took=$((($(date +%s%N) - begin) / 1000000))
	[ "$took" -ge 2000 ]
	[ "$took" -lt 8000 ]
	[ "$(container_field "$id" .exitCode)" = 137 ]
	crictl rm "$id"
}

@test "a running container is removed by force only through its end" {
	id=$(run_container "$POD" forced)
	crictl rm -f "$id"
	refused NotFound "not found" crictl inspect "$id"
	[ -z "$(crictl ps -a -q --id "$id")" ]
}

@test "a container is restarted in its pod as the next attempt" {
	id=$(run_script "$POD" again 'exit 1')
	finish "$id"
	next=$(run_script "$POD" again 'exit 0' '.metadata.attempt = 1')
	[ "$(finish "$next")" = 0 ]
	[ "$(container_field "$next" .metadata.attempt)" = 1 ]
	[ "$(container_field "$id" .exitCode)" = 1 ]
	crictl rm "$id" "$next"
}

@test "a grandchild that holds stdout does not keep the container alive" {
	id=$(run_script "$POD" orphan 'sleep 1000 & echo started; exit 5')
	[ "$(finish "$id")" = 5 ]
	[ "$(output_of pod orphan)" = started ]
	crictl rm "$id"
}

@test "more memory than the limit ends in OOMKilled and 137" {
	id=$(run_script "$POD" greedy 'exec tail -c 200m /dev/zero' \
		'.linux.resources = {memory_limit_in_bytes: 33554432}')
	[ "$(finish "$id")" = 137 ]
	[ "$(container_field "$id" .reason)" = OOMKilled ]
	crictl rm "$id"
}

# What grows when something is left: in the guest its mounts, processes, cgroups, and files on the scratch disk;
# on the host descriptors, of virtiofsd too, disks, files.
traces() {
	crictl exec -s "$watcher" sh -c 'wc -l </proc/1/mounts; cd /proc/1/root; ls -d dev/sd* | wc -l
		find run -maxdepth 4 | wc -l; find sys/fs/cgroup/pod -type d | wc -l'
	find "$D/state/logs" "$D/state/scratch" "$D/run" | wc -l
	find "/proc/$(cat "$D/pid")/fd" -type l -lname "*/logs/*" | wc -l
	for pid in $(virtiofsds); do
		find "/proc/$pid/fd" -type l | wc -l
	done
}

# virtiofsds: the pod's, which serves as a child of the one that is on record.
virtiofsds() {
	local pid
	pid=$(cut -d' ' -f1 "$D/run/vm/$POD/virtiofsd.pid")
	echo "$pid"
	cat "/proc/$pid/task/$pid/children"
}

# When the first's were looked for, some may still have been on their way out.
no_more_traces() {
	traces >"$D/after"
	paste "$D/before" "$D/after" | awk 'NF == 1 || $2 > $1 {more = 1} END {exit more}'
}

@test "a container that is restarted again and again leaves nothing, in the guest or on the host" {
	local n restarts=${RESTARTS:-30}
	[ -z "${VARIANT:-}" ] || skip "the same under $VARIANT"
	mkdir "$D/volume"
	watcher=$(run_container "$POD" watcher '.linux.security_context = {privileged: true,
		namespace_options: {pid: 2}}')
	for n in $(seq "$restarts"); do
		id=$(run_script "$POD" crash "echo x >/file; echo x >/volume/$n; cat /volume/*; exit 1" \
			".metadata.attempt = $n | .mounts = [{container_path: \"/volume\", host_path: \"$D/volume\"}]")
		wait_state "$id" CONTAINER_EXITED
		crictl rm "$id" >/dev/null
		# From the first on, which may leave caches.
		[ "$n" -gt 1 ] || {
			traces >"$D/before"
			before=$(crictl exec -s "$watcher" sh -c "ls /proc | grep -c '^[0-9]'")
			fds=$(find "/proc/$(cat "$D/pid")/fd" -type l | wc -l)
		}
	done
	eventually 10 no_more_traces || {
		diff "$D/before" "$D/after"
		false
	}
	# Kernel threads come and go, and gRPC's connections.
	after=$(crictl exec -s "$watcher" sh -c "ls /proc | grep -c '^[0-9]'")
	[ "$after" -lt $((before + 10)) ]
	[ "$(find "/proc/$(cat "$D/pid")/fd" -type l | wc -l)" -lt $((fds + 10)) ]
	crictl rm -f "$watcher"
}

# ---- logs ----

@test "stdout and stderr are logged apart, line by line, in the CRI format" {
	id=$(run_script "$POD" format 'echo one; sleep 0.1; echo two >&2; sleep 0.1; printf last')
	finish "$id"
	log=$D/logs/pod/format.log
	cat "$log"
	time='[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{9}Z'
	grep -qxE "$time stdout F one" "$log"
	grep -qxE "$time stderr F two" "$log"
	grep -qxE "$time stdout P last" "$log"
	[ "$(wc -l <"$log")" -eq 3 ]
	crictl rm "$id"
}

@test "a long line is logged in parts and comes out whole" {
	id=$(run_script "$POD" long 'head -c 50000 /dev/zero | tr "\0" x; echo; echo after')
	finish "$id"
	log=$D/logs/pod/long.log
	[ "$(awk '{print $3}' "$log" | tr -d '\n')" = PPPFF ]
	cmp <(cat_log "$log" stdout) <(head -c 50000 /dev/zero | tr '\0' x; echo; echo after)
	crictl rm "$id"
}

@test "a line of megabytes without an end comes out whole, and what follows it too" {
	id=$(run_script "$POD" endless 'seq 1 500000 | tr "\n" " "; echo; echo after; seq 1 1000 >&2')
	wait_state "$id" CONTAINER_EXITED 90
	[ "$(output_of pod endless | sha256sum)" = "$({ seq 1 500000 | tr '\n' ' '; echo; echo after; } | sha256sum)" ]
	sequence <(output_of pod endless stderr) 1000
	crictl rm "$id"
}

@test "nothing is lost of what twenty containers print just before they exit" {
	for n in $(seq 20); do
		id=$(run_script "$POD" "burst$n" 'seq 2000; echo end >&2')
		echo "$id" >>"$D/burst"
	done
	n=0
	while read -r id; do
		n=$((n + 1))
		[ "$(finish "$id")" = 0 ]
		sequence <(output_of pod "burst$n") 2000
		[ "$(output_of pod "burst$n" stderr)" = end ]
		crictl rm "$id" >/dev/null
	done <"$D/burst"
	rm "$D/burst"
}

@test "rotating a log under load loses and doubles no line" {
	id=$(run_script "$POD" rotated 'i=0; until [ -e /end ]; do i=$((i+1)); echo $i; done; echo $i >&2')
	log=$D/logs/pod/rotated.log
	for n in $(seq 8); do
		sleep 0.3
		mv "$log" "$log.$n"
		crictl logs -r "$id"
	done
	crictl exec -s "$id" touch /end || true # the container's end may come before its own
	wait_state "$id" CONTAINER_EXITED 60
	for file in $(ls -v "$log".*) "$log"; do
		cat_log "$file" stdout
	done >"$D/rotated"
	sequence "$D/rotated" "$(cat_log "$log" stderr)"
	[ "$(wc -l <"$D/rotated")" -ge 100 ]
	crictl rm "$id"
}

@test "a container without a log path runs, and its output is dropped" {
	id=$(run_script "$POD" unlogged 'seq 100000; exit 4' 'del(.log_path)')
	[ "$(finish "$id")" = 4 ]
	crictl rm "$id"
}

# ---- what it runs as ----

@test "a container with a terminal has one, and one log stream" {
	id=$(run_script "$POD" tty 'test -t 1 && test -t 2 && echo on a terminal >&2; echo $TERM' \
		'.tty = true')
	[ "$(finish "$id")" = 0 ]
	[ "$(output_of pod tty | tr -d '\r')" = $'on a terminal\nxterm' ]
	crictl rm "$id"
}

@test "environment: the image's, then the container's; working directory" {
	run once 'echo "$PATH $A $HOSTNAME"; pwd' \
		'.envs = [{key: "A", value: "b=c d"}, {key: "PATH", value: "/bin"}] | .working_dir = "/etc"'
	[ "$output" = "/bin b=c d the-host"$'\n'/etc ]
}

@test "a working directory that is missing is made" {
	run once pwd '.working_dir = "/made/for/this"'
	[ "$output" = /made/for/this ]
}

@test "a working directory that is closed to the user is entered all the same, as under runc" {
	mkdir -m 0700 "$FT/closed"
	run once 'pwd; ls . 2>&1' '.working_dir = "/closed" | .linux.security_context.run_as_user = {value: 1234} |
		.mounts = [{host_path: "'"$FT"'/closed", container_path: "/closed"}]'
	[[ $output == "/closed"$'\n'*"Permission denied" ]]
}

@test "the image's command runs where the container gives none; its arguments replace the image's" {
	run once ignored 'del(.command) | .args = ["echo", "from args"]'
	[ "$status" -eq 0 ]
	[ "$output" = "from args" ]
}

@test "users by number and by name, groups from the image's files" {
	run once id '.linux.security_context.run_as_user = {value: 1234}'
	[ "$output" = "uid=1234 gid=0(root) groups=0(root)" ]
	run once 'id -u; id -g; id -G' '.linux.security_context.run_as_username = "www-data"'
	[ "$output" = $'33\n33\n33 100' ]
	run once 'id -u; id -g; id -G' '.linux.security_context = {run_as_user: {value: 65534},
		run_as_group: {value: 77}, supplemental_groups: [5, 6]}'
	[ "$(head -n 2 <<<"$output")" = $'65534\n77' ]
	[[ " $(tail -n 1 <<<"$output") " == *" 5 "* && " $(tail -n 1 <<<"$output") " == *" 6 "* ]]
}

@test "a user that the image does not know is refused by name" {
	run once id '.linux.security_context.run_as_username = "nosuchuser"'
	[ "$status" -eq 125 ]
	[[ $output == *nosuchuser* ]]
	crictl ps -a -q --name once | xargs -r "$TOOLS/crictl" --config "$D/crictl.yaml" rm -f >/dev/null 2>&1 || true
}

@test "the pod's host name, and a root that can be read only" {
	run once 'hostname; touch /x' '.linux.security_context.readonly_rootfs = true'
	[ "${lines[0]}" = the-host ]
	[[ ${lines[1]} == *"Read-only file system"* ]]
}

@test "an image's volumes hold what it has there, and can be written where the root cannot" {
	local image=$IMAGE
	mkdir -p "$FT/volume/data"
	echo seed >"$FT/volume/data/file"
	tar -C "$FT/volume" -cf "$FT/volume.tar" data
	umoci tag --image "$FT/img:latest" volumes
	add_layer "$FT/img:volumes" "$FT/volume.tar"
	configure_image "$FT/img:volumes" --config.volume /data --config.volume / --config.volume /made/here
	IMAGE=oci:$FT/img:volumes
	crictl pull "$IMAGE"
	run once 'cat /data/file; echo more >>/data/file && echo x >/made/here/x && wc -l </data/file; echo >/x' \
		'.linux.security_context.readonly_rootfs = true'
	echo "$output"
	[ "${lines[0]}" = seed ]
	[ "${lines[1]}" = 2 ]
	[[ ${lines[2]} == *"Read-only file system"* ]]
	run once 'cat /data/file'
	[ "$output" = seed ]
	IMAGE=$image
	crictl rmi "oci:$FT/img:volumes"
}

@test "one container's writes are not another's" {
	once 'echo mine >/shared-root; cat /shared-root'
	run once 'cat /shared-root'
	[[ $output == *"No such file"* ]]
}

capabilities() {
	once 'sed -n "s/^CapEff:\t//p" /proc/self/status' ".linux.security_context = $1"
}

@test "capabilities: containerd's defaults, drop, add, and privileged" {
	[ "$(capabilities '{}')" = 00000000a80425fb ]
	[ "$(capabilities '{capabilities: {drop_capabilities: ["ALL"]}}')" = 0000000000000000 ]
	[ "$(capabilities '{capabilities: {drop_capabilities: ["ALL"],
		add_capabilities: ["NET_ADMIN"]}}')" = 0000000000001000 ]
	[ "$(capabilities '{capabilities: {add_capabilities: ["SYS_ADMIN"],
		drop_capabilities: ["CHOWN"]}}')" = 00000000a82425fa ]
	[ "$(capabilities '{privileged: true}')" = 000001ffffffffff ]
}

@test "an unknown capability is refused by name" {
	refused Unknown NO_SUCH create_container "$POD" caps \
		'.linux.security_context.capabilities.add_capabilities = ["NO_SUCH"]'
}

@test "no_new_privs and masked paths reach the process" {
	run once 'grep NoNewPrivs /proc/self/status; cat /proc/cmdline; echo 1 >/proc/sys/kernel/sysrq' \
		'.linux.security_context = {no_new_privs: true, masked_paths: ["/proc/cmdline"],
		 readonly_paths: ["/proc/sys"]}'
	[ "${lines[0]}" = $'NoNewPrivs:\t1' ]
	[[ ${lines[1]} == *"Read-only"* || ${lines[1]} == *"nonexistent"* ]]
}

@test "PID namespaces of the container, of the pod and of the guest" {
	other=$(run_container "$POD" other '.command = ["sleep", "4242"] |
		.linux.security_context.namespace_options = {pid: 0}')
	[ "$(once 'echo $$' '.linux.security_context.namespace_options = {pid: 1}')" = 1 ]
	run once 'cat /proc/[0-9]*/cmdline | tr "\0" " "' \
		'.linux.security_context.namespace_options = {pid: 1}'
	[[ $output != *"sleep 4242"* ]]
	run once 'cat /proc/[0-9]*/cmdline | tr "\0" " "' \
		'.linux.security_context.namespace_options = {pid: 0}'
	[[ $output == *"sleep 4242"* ]]
	run once 'cat /proc/1/comm' '.linux.security_context.namespace_options = {pid: 2}'
	[[ $output != sh && $output != sleep ]]
	crictl rm -f "$other"
}

@test "two containers share the pod's network and IPC, and nothing else" {
	namespaces='for n in net ipc mnt uts; do readlink /proc/self/ns/$n; done'
	server=$(run_script "$POD" server "$namespaces; echo hello | nc -l -p 7777")
	eventually 10 crictl exec -s "$server" sh -c 'netstat -ltn | grep -q :7777'
	run once "nc 127.0.0.1 7777 </dev/null; $namespaces"
	mapfile -t others < <(output_of pod server)
	crictl rm -f "$server"
	[ "${lines[0]}" = hello ]
	[ "${lines[1]} ${lines[2]}" = "${others[0]} ${others[1]}" ]
	[ "${lines[3]}" != "${others[2]}" ]
	[ "${lines[4]}" != "${others[3]}" ]
}
