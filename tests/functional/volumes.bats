#!/usr/bin/env bats
# Volumes: what CRI calls mounts, from the host's files to what a container sees of them.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	POD=$(run_pod pod)
	export POD
	V=$FT/volumes
	KUBELET=$FT/kubelet/pods/uid
	export V KUBELET
	mkdir -p "$V"
	cp "$BUILD/tests/functional/volume_client" "$V/client"
}

teardown_file() {
	losetup -j "$V/image" | cut -d: -f1 | xargs -r losetup -d
	instance_teardown
}

# once SCRIPT MOUNTS [JQ-FILTER]: its output, from a container in the shared pod with these mounts.
once() {
	run_once "$POD" pod once "$1" ".mounts = [$2] | ${3:-.}"
}

# mount CONTAINER-PATH HOST-PATH [FIELDS]: one mount in JSON.
mount_of() {
	jq -nc --arg c "$1" --arg h "$2" "{container_path: \$c, host_path: \$h} + {${3:-}}"
}

# atomic_volume DIR CONTENT: writes the key "key" as a kubelet does, old or new.
atomic_volume() {
	local dir=$1 new
	mkdir -p "$dir"
	new=$(mktemp -d "$dir/..2024_XXXXXX")
	chmod 0755 "$new"
	echo "$2" >"$new/key"
	local old
	old=$(readlink "$dir/..data") || true
	ln -s "$(basename "$new")" "$dir/..data_tmp"
	mv -T "$dir/..data_tmp" "$dir/..data"
	[ -n "$old" ] || ln -s ..data/key "$dir/key"
	[ -z "$old" ] || rm -rf "${dir:?}/$old"
}

# share_names: what is in the shared pod's share.
share_names() {
	ls "$D/run/vm/$POD/share"
}

# ---- files and directories of the host ----

@test "directories, files and symlinked paths of the host are mounted, read and written" {
	mkdir -p "$V/dir/sub"
	echo deep >"$V/dir/sub/file"
	echo alone >"$V/file"
	ln -sfn dir "$V/link"
	[ "$(once 'cat /a/sub/file /f; echo new >/a/new; echo more >>/f; ls -d /b/sub' \
		"$(mount_of /a "$V/link"), $(mount_of /f "$V/file"), $(mount_of /b/c/d "$V/dir"), $(mount_of /b "$V/dir")")" = \
		"$(printf 'deep\nalone\n/b/sub')" ]
	[ "$(cat "$V/dir/new")" = new ]
	[ "$(cat "$V/file")" = "$(printf 'alone\nmore')" ]
	rm -rf "$V/dir/c"
}

@test "a host path that is missing becomes a directory" {
	[ "$(once 'echo x >/m/x; echo done' "$(mount_of /m "$V/missing/path")")" = "done" ]
	[ -f "$V/missing/path/x" ]
}

@test "the status tells the mounts as they were asked for" {
	id=$(create_container "$POD" told ".mounts = [$(mount_of /a "$V" 'readonly: true')]")
	crictl inspect "$id" | jq -e --arg v "$V" '.status.mounts | length == 1 and
		.[0].containerPath == "/a" and .[0].hostPath == $v and .[0].readonly == true'
	crictl rm "$id"
}

@test "what a machine cannot do is refused by name" {
	# shellcheck disable=SC2317 # by refused
	try() {
		create_container "$POD" refused ".mounts = [$1]"
	}
	mkfifo "$V/fifo"
	refused Unimplemented "is a FIFO" try "$(mount_of /x "$V/fifo")"
	refused Unimplemented "is a socket" try "$(mount_of /x "$D/run/bulkhead.sock")"
	refused Unimplemented "is a device" try "$(mount_of /x /dev/ptmx)"
	refused Unimplemented "bidirectional propagation" try "$(mount_of /x "$V" 'propagation: 2')"
	refused Unknown "not absolute" try "$(mount_of /x relative)"
	refused Unknown "container path" try "$(mount_of / "$V")"
	rm "$V/fifo"
	[ -z "$(share_names)" ]
}

@test "a container may have a thousand mounts" {
	mkdir -p "$V/often"
	local mounts
	mounts=$(jq -nc --arg h "$V/often" '[range(1000) | {container_path: "/m/\(.)", host_path: $h}]')
	run once 'grep -c " /m/" /proc/mounts' "${mounts:1:-1}"
	[ "$output" = 1000 ]
	run once true "${mounts:1:-1}, $(mount_of /one/more "$V/often")"
	[[ $output == *"1001 mounts"* ]]
}

@test "a device that every kernel has is mounted over what the image has there, and is the guest's" {
	[ "$(once "wc -c </bin/vi; echo x >/bin/vi; head -c 3 /z | wc -c; stat -c %F /r" \
		"$(mount_of /bin/vi /dev/null), $(mount_of /z /dev/zero 'readonly: true'), $(mount_of /r /dev/random)")" = \
		"$(printf '0\n3\ncharacter special file')" ]
	[ -z "$(share_names)" ]
}

@test "read-only holds against a privileged container, which the host need not trust" {
	mkdir -p "$V/ro"
	echo kept >"$V/ro/file"
	run once 'mount -o remount,rw /ro; echo bad >/ro/file; echo bad >/ro/new; umount /ro; cat /ro/file; ls /' \
		"$(mount_of /ro "$V/ro" 'readonly: true')" \
		'.linux.security_context.privileged = true'
	[ "$(cat "$V/ro/file")" = kept ]
	[ ! -e "$V/ro/new" ]
}

@test "read-only is for the topmost mount alone, recursive read-only for all below" {
	mkdir -p "$V/tree/below"
	mount -t tmpfs tmpfs "$V/tree/below"
	run once 'touch /t/x; touch /t/below/x && echo below' "$(mount_of /t "$V/tree" 'readonly: true')"
	[ "$(grep -c '^below$' <<<"$output")" = 1 ]
	[ ! -e "$V/tree/x" ]
	[ -e "$V/tree/below/x" ]
	run once 'touch /t/y; touch /t/below/y; mount -o remount,rw /t/below; touch /t/below/y' \
		"$(mount_of /t "$V/tree" 'readonly: true, recursive_read_only: true')" \
		'.linux.security_context.privileged = true'
	[ ! -e "$V/tree/y" ]
	[ ! -e "$V/tree/below/y" ]
	umount "$V/tree/below"
	# shellcheck disable=SC2317 # by refused
	try() {
		create_container "$POD" refused ".mounts = [$(mount_of /t "$V/tree" "recursive_read_only: true, $1")]"
	}
	refused Unknown readonly try 'readonly: false'
	refused Unknown private try 'readonly: true, propagation: 1'
	refused Unknown private try 'readonly: true, propagation: 2'
	crictl info | jq -e '.runtimeHandlers | length > 0 and all(.features.recursive_read_only_mounts)'
}

@test "mounts made later on the host appear with host-to-container propagation, and only then" {
	mkdir -p "$V/later" "$V/private"
	mount --bind "$V/private" "$V/private"
	mount --make-private "$V/private"
	refused Unknown "neither shared" create_container "$POD" refused \
		".mounts = [$(mount_of /f "$V/private" 'propagation: 1')]"
	umount "$V/private"
	mount --bind "$V/later" "$V/later"
	mount --make-shared "$V/later"
	mkdir "$V/later/point"
	id=$(run_container "$POD" follows ".mounts = [$(mount_of /f "$V/later" 'propagation: 1'),
		$(mount_of /p "$V/later")]")
	crictl exec -s "$id" ls /f/point /p/point
	mount -t tmpfs tmpfs "$V/later/point"
	touch "$V/later/point/seen"
	eventually 20 crictl exec -s "$id" test -e /f/point/seen
	run crictl exec -s "$id" test -e /p/point/seen
	[ "$status" -ne 0 ]
	# What a guest has seen it may have open.
	umount -l "$V/later/point"
	# shellcheck disable=SC2317 # by eventually
	gone() {
		! crictl exec -s "$id" test -e /f/point/seen
	}
	eventually 20 gone
	crictl rm -f "$id"
	umount "$V/later"
}

# same HOST-FILE PATH: whether the container $id reads what the host has.
same() {
	[ "$(sha256sum <"$1")" = "$(crictl exec -s "$id" sha256sum "$2" | sed -e 's|  .*|  -|')" ]
}

@test "what the host does to a file that is open in the pod is seen there: growth, cuts, changes, another in its place" {
	local dir=$V/open
	mkdir -p "$dir"
	head -c 300000 /dev/urandom >"$dir/f"
	# The file stays open, with its pages in the guest's cache.
	id=$(run_script "$POD" holder 'exec 3</v/f; cat /v/f >/dev/null; echo holds; sleep 1000' \
		".mounts = [$(mount_of /v "$dir")] | .linux.security_context.namespace_options.pid = 1")
	eventually 10 grep -q holds "$D/logs/pod/holder.log"
	same "$dir/f" /proc/1/fd/3
	head -c 1000000 /dev/urandom >>"$dir/f"
	eventually 20 same "$dir/f" /v/f
	truncate -s 1000 "$dir/f"
	eventually 20 same "$dir/f" /v/f
	truncate -s 200000 "$dir/f"
	eventually 20 same "$dir/f" /v/f
	head -c 4096 /dev/urandom | dd of="$dir/f" bs=4096 seek=3 conv=notrunc status=none
	eventually 20 same "$dir/f" /proc/1/fd/3
	cp "$dir/f" "$V/old"
	head -c 200000 /dev/urandom >"$dir/new"
	mv "$dir/new" "$dir/f"
	eventually 20 same "$dir/f" /v/f
	same "$V/old" /proc/1/fd/3
	rm "$dir/f"
	eventually 20 crictl exec -s "$id" test ! -e /v/f
	same "$V/old" /proc/1/fd/3
	# What the pod wrote is the host's when it is written, and may change there.
	crictl exec -s "$id" sh -c 'dd if=/dev/urandom of=/v/big bs=1M count=32 2>/dev/null; echo end >>/v/big'
	[ "$(stat -c %s "$dir/big")" = $((32 * 1048576 + 4)) ]
	same "$dir/big" /v/big
	echo changed | dd of="$dir/big" seek=20000 conv=notrunc status=none
	eventually 20 same "$dir/big" /v/big
	crictl rm -f "$id"
}

# ---- one pod, several containers ----

@test "containers of a pod share a volume's files, locks and memory maps, also as a subPath" {
	local empty=$KUBELET/volumes/kubernetes.io~empty-dir/both sub=$KUBELET/volume-subpaths/both/reader/0
	mkdir -p "$empty/sub" "$sub"
	mount --bind "$empty/sub" "$sub"
	local client
	client=$(mount_of /client "$V/client" 'readonly: true')
	reader=$(run_container "$POD" reader ".mounts = [$client, $(mount_of /s "$sub"), $(mount_of /r "$empty" 'readonly: true')]")
	writer=$(run_container "$POD" writer ".mounts = [$client, $(mount_of /w "$empty")]")
	[ "$(share_names | wc -l)" = 2 ]
	crictl exec -s "$writer" sh -c 'echo shared >/w/sub/file'
	[ "$(crictl exec -s "$reader" cat /s/file)" = shared ]
	[ "$(crictl exec -s "$reader" stat -c %d:%i /s/file)" = "$(crictl exec -s "$writer" stat -c %d:%i /w/sub/file)" ]
	locks='/client lock "$0" >/l 2>&1 & until grep -q locked /l; do sleep 0.1; done'
	crictl exec -s "$reader" sh -c "$locks; kill \$!; wait \$!; true" /s/lock
	crictl exec -s "$writer" sh -c "$locks" /w/sub/lock
	run crictl exec -s "$reader" timeout 20 /client lock /s/lock
	[ "$status" -eq 1 ]
	run crictl exec -s "$reader" touch /r/x
	[ "$status" -ne 0 ]
	[ "$(crictl exec -s "$reader" cat /r/sub/file)" = shared ]
	crictl rm -f "$reader" "$writer"
	umount "$sub"
	[ -z "$(share_names)" ]

}

@test "an emptyDir of medium Memory is the guest's, has its limit, and outlives its container" {
	local memory=$KUBELET/volumes/kubernetes.io~empty-dir/memory sub=$KUBELET/volume-subpaths/memory/c/0
	mkdir -p "$memory" "$sub"
	mount -t tmpfs -o size=2m,mode=1777 tmpfs "$memory"
	mkdir "$memory/sub"
	mount --bind "$memory/sub" "$sub"
	run once 'dd if=/dev/zero of=/m/big bs=1M count=4; stat -c %s /m/big; rm /m/big; echo kept >/s/file' \
		"$(mount_of /m "$memory"), $(mount_of /s "$sub")"
	grep -qx 2097152 <<<"$output"
	[ -z "$(ls "$memory/sub")" ]
	[ "$(once 'cat /m/sub/file; stat -c %a /m' "$(mount_of /m "$memory")")" = "$(printf 'kept\n1777')" ]
	# How a kubelet gives a pod another size of it.
	[ "$(once 'df -k /dev/shm | tail -n 1' "$(mount_of /dev/shm "$memory")" | awk '{print $2}')" = 2048 ]
	umount "$sub" "$memory"
}

@test "/dev/shm has 64 MiB and is the pod's" {
	id=$(run_container "$POD" shm)
	crictl exec -s "$id" sh -c 'echo x >/dev/shm/x'
	[ "$(once 'cat /dev/shm/x; df -k /dev/shm | tail -n 1' '' | awk 'NR == 1 {print} NR == 2 {print $2}')" = "$(printf 'x\n65536')" ]
	crictl rm -f "$id"
}

# ---- what the kubelet keeps up to date ----

@test "an update of a configMap, secret, projected or downward volume wakes who watches it" {
	local kind mounts dirs=()
	mounts=("$(mount_of /client "$V/client")")
	for kind in configmap secret projected downward-api; do
		dirs+=("$KUBELET/volumes/kubernetes.io~$kind/v")
		atomic_volume "${dirs[-1]}" old
		mounts+=("$(mount_of "/$kind" "${dirs[-1]}" 'readonly: true')")
	done
	id=$(run_container "$POD" watcher "$(printf '.mounts = [%s]' "$(
		IFS=,
		echo "${mounts[*]}"
	)") | .command = [\"sh\", \"-c\", \"for k in configmap secret projected downward-api; do
		/client watch /\$k & done; wait\"]")
	# shellcheck disable=SC2317
	watching() {
		[ "$(grep -c watching "$D/logs/pod/watcher.log")" = 4 ]
	}
	eventually 20 watching

	for kind in configmap secret projected downward-api; do
		atomic_volume "$KUBELET/volumes/kubernetes.io~$kind/v" new
		begin=$(date +%s%N)
		eventually 20 sh -c "[ \"\$('$TOOLS/crictl' --config '$D/crictl.yaml' exec -s '$id' cat '/$kind/key')\" = new ]"
		# Within two seconds of a quiet machine.
		[ $(($(date +%s%N) - begin)) -lt 15000000000 ]
		# IN_MOVED_TO
		eventually 20 grep -qE "/$kind: 80 \.\.data\$" "$D/logs/pod/watcher.log"

	done
	[ "$(crictl exec -s "$id" readlink /secret/key)" = ..data/key ]
	eventually 20 eval '[ "$(crictl exec -s "$id" ls -A /secret | grep -c .)" = 3 ]'
	# Taken up again after the daemon's death, with what changed meanwhile.
	kill_bulkheadd
	atomic_volume "$KUBELET/volumes/kubernetes.io~secret/v" newest
	start_bulkheadd
	[ "$(crictl exec -s "$id" cat /secret/key)" = newest ]
	atomic_volume "$KUBELET/volumes/kubernetes.io~secret/v" last
	eventually 20 sh -c "[ \"\$('$TOOLS/crictl' --config '$D/crictl.yaml' exec -s '$id' cat /secret/key)\" = last ]"
	crictl rm -f "$id"
}

@test "a secret inside a read-only configMap is mounted, and a volume beyond the bound is served" {
	local config=$KUBELET/volumes/kubernetes.io~configmap/outer secret=$KUBELET/volumes/kubernetes.io~secret/inner
	local big=$KUBELET/volumes/kubernetes.io~projected/big
	atomic_volume "$config" outer
	atomic_volume "$secret" inner
	atomic_volume "$big" big
	head -c 4000000 /dev/zero >"$big/..data/blob"
	run once 'cat /c/key /c/nested/key; stat -L -c %s /big/..data/blob; touch /c/x; touch /c/nested/x; ls -A /c' \
		"$(mount_of /c/nested "$secret" 'readonly: true'), $(mount_of /c "$config" 'readonly: true'),
		 $(mount_of /big "$big")"
	grep -qx outer <<<"$output"
	grep -qx inner <<<"$output"
	grep -qx 4000000 <<<"$output"
	[ "$(grep -cx x <<<"$output")" = 0 ]
}

@test "what a pod writes to a volume that the kubelet keeps is bounded, and not the host's" {
	local config=$KUBELET/volumes/kubernetes.io~configmap/written
	atomic_volume "$config" kept
	run once 'dd if=/dev/zero of=/c/blob bs=1M count=64; du -m /c/blob | cut -f 1' "$(mount_of /c "$config")"
	grep -q "No space left on device" <<<"$output"
	[ "$(grep -xE "[0-9]+" <<<"$output")" -lt 48 ]
	[ ! -e "$config/blob" ]
}

@test "a writable layer has a limit where one is asked for, which no other container feels" {
	other=$(run_container "$POD" other)
	run once 'dd if=/dev/zero of=/big bs=1M count=16; sync; du -m /big | cut -f 1; mkdir /directory' '' \
		'.annotations = {"bulkhead.io/writable-layer-mib": "8"} | .linux.security_context.privileged = true'
	# Blocks for data and for a directory: what a full disk says, and nothing of quotas.
	[ "$(grep -c "No space left on device" <<<"$output")" = 2 ]
	[ "$(grep -ci quota <<<"$output")" = 0 ]
	grep -qx "[78]" <<<"$output"
	crictl exec -s "$other" dd if=/dev/zero of=/big bs=1M count=16
	crictl rm -f "$other"
	refused Unknown "is not 1 to" create_container "$POD" refused \
		'.annotations = {"bulkhead.io/writable-layer-mib": "8Mi"}'
}

@test "no container takes its files out of the account that limits them" {
	local privileged
	for privileged in false true; do
		run once 'mkdir /free; /client project 0 /free; dd if=/dev/zero of=/free/big bs=1M count=16; du -m /free/big | cut -f 1' \
			"$(mount_of /client "$V/client")" \
			".annotations = {\"bulkhead.io/writable-layer-mib\": \"8\"} | .linux.security_context.privileged = $privileged"
		grep -qx "project: Invalid argument" <<<"$output"
		grep -q "No space left on device" <<<"$output"
		grep -qx "[78]" <<<"$output"
	done
}

# ---- images ----

@test "an image is a read-only volume, whole or a part of it, and the status tells its digest" {
	mkdir -p "$V/layer/data/sub"
	echo upper >"$V/layer/data/sub/file"
	make_busybox_layout "$FT/img" two >/dev/null
	tar_tree "$V/layer" "$V/layer.tar"
	add_layer "$FT/img:two" "$V/layer.tar"
	crictl pull "oci:$FT/img:two" >/dev/null
	image() {
		jq -nc --arg c "$1" --arg i "$2" "{container_path: \$c, image: {image: \$i}, readonly: true} + {${3:-}}"
	}
	run once 'cat /two/data/sub/file /part/file /file; /one/bin/busybox echo one; touch /two/x; touch /part/x; mount -o remount,rw /two; touch /two/y' \
		"$(image /one "$IMAGE"), $(image /two "oci:$FT/img:two"),
		 $(image /part "oci:$FT/img:two" 'image_sub_path: "data/sub"'),
		 $(image /file "oci:$FT/img:two" 'image_sub_path: "data/sub/file"')" \
		'.linux.security_context.privileged = true'
	[ "$(grep -cx upper <<<"$output")" = 3 ]
	[ "$(grep -cx one <<<"$output")" = 1 ]
	[ "$(grep -c "Read-only file system" <<<"$output")" -ge 3 ]
	id=$(create_container "$POD" imaged ".mounts = [$(image /two "oci:$FT/img:two")]")
	crictl inspect "$id" | jq -e '.status.mounts[0] | .containerPath == "/two" and (.image.imageRef // .image.image_ref | startswith("sha256:"))'
	crictl rm "$id"
	# shellcheck disable=SC2317 # by refused
	try() {
		create_container "$POD" refused ".mounts = [$1]"
	}
	refused Unknown "read-only" try "$(image /x "$IMAGE" 'readonly: false')"
	refused NotFound "pull it first" try "$(image /x no-such-image)"
	refused Unknown "data/none" try "$(image /x "oci:$FT/img:two" 'image_sub_path: "data/none"')"
	refused Unknown "etc" try "$(image /x "oci:$FT/img:two" 'image_sub_path: "../../../../etc/no"')"
}

# ---- devices ----

@test "a block device of the host is a disk of the machine, writable or not, and is given back" {
	truncate -s 8M "$V/image"
	LOOP=$(losetup -f --show "$V/image")
	echo "from the host" | dd of="$LOOP" conv=sync,fsync status=none
	device() {
		jq -nc --arg h "$LOOP" --arg p "$1" '{host_path: $h, container_path: "/dev/xvda", permissions: $p}'
	}
	[ "$(once 'head -c 13 /dev/xvda; echo "from the guest" | dd of=/dev/xvda conv=fsync,notrunc status=none' \
		'' ".devices = [$(device rw)]")" = "from the host" ]
	[ "$(head -c 14 "$LOOP")" = "from the guest" ]
	run once 'head -c 14 /dev/xvda; echo bad | dd of=/dev/xvda conv=fsync status=none; mknod /tmp/b b 8 0; dd if=/tmp/b of=/dev/null count=1' \
		'' ".devices = [$(device r)]"
	grep -q "from the guest" <<<"$output"
	[ "$status" -ne 0 ]
	[ "$(head -c 14 "$LOOP")" = "from the guest" ]
	# Also the whole of the guest does not write what QEMU has read-only.
	run once 'for d in /dev/sd*; do echo bad | dd of=$d conv=fsync status=none seek=1000; done; echo end' \
		'' ".devices = [$(device r)] | .linux.security_context.privileged = true"
	[ "$(dd if="$LOOP" skip=1000 count=1 status=none | head -c 3 | tr -d '\0')" = "" ]
	losetup -d "$LOOP"
	eventually 20 sh -c "! losetup '$LOOP' 2>/dev/null"
	[ -z "$(find /dev -maxdepth 1 -name "bulkhead-$POD-*")" ]
}

@test "of the host's character devices those are given that every kernel has" {
	[ "$(once 'ls /dev/my-null /dev/fuse; echo x >/dev/my-null; head -c 4 /dev/my-zero | wc -c' '' \
		'.devices = [{host_path: "/dev/null", container_path: "/dev/my-null", permissions: "rw"},
			{host_path: "/dev/zero", container_path: "/dev/my-zero", permissions: "r"},
			{host_path: "/dev/fuse", container_path: "/dev/fuse", permissions: "rwm"}]')" = \
		"$(printf '/dev/fuse\n/dev/my-null\n4')" ]
	# shellcheck disable=SC2317 # by refused
	try() {
		create_container "$POD" refused ".devices = [{host_path: \"$1\", container_path: \"/dev/x\", permissions: \"$2\"}]"
	}
	refused Unimplemented "a character device of the host" try /dev/kmsg rw
	refused Unimplemented "a directory" try /dev rw
	refused Unknown permissions try /dev/null x
	refused NotFound /dev/no-such try /dev/no-such rw
}

# ---- what must not be, and what must not be left ----


@test "a privileged container does not reach the host's files beyond its volumes" {
	mkdir -p "$V/open"
	run once 'ln -s / /v/root; ln -s ../../.. /v/up; mkdir /tmp/s; mount -t virtiofs pod /tmp/s && ls -a /tmp/s &&
		touch /tmp/s/made; mkdir /tmp/s/made2; ls /tmp/s/*/..; cat /v/root/bhft /tmp/s/*/../../../etc/hostname;
		mknod /v/disk b 8 0; cat /v/up/etc/hostname; echo end' \
		"$(mount_of /v "$V/open")" '.linux.security_context.privileged = true'
	grep -q end <<<"$output"
	[ "$(grep -cxF "$(hostname)" <<<"$output")" = 0 ]
	[ ! -e "$D/run/vm/$POD/share/made" ]
	[ ! -b "$V/open/disk" ]
	[ -L "$V/open/root" ]
}

@test "a volume that was just looked for in the share leaves no mount" {
	local id watcher name
	mkdir -p "$V/looked-for"
	watcher=$(run_container "$POD" watcher '.linux.security_context = {privileged: true, namespace_options: {pid: 2}}')
	id=$(run_container "$POD" user ".mounts = [$(mount_of /v "$V/looked-for")]")
	name=$(crictl exec -s "$watcher" sh -c 'cd /proc/1/root/run/share && stat -c %n * */.' | head -n 1)
	[ -n "$name" ]
	crictl rm -f "$id"
	[ "$(crictl exec -s "$watcher" sh -c "grep -c ' /run/share/$name ' /proc/1/mounts || true")" = 0 ]
	crictl rm -f "$watcher"
}

@test "containers that come and go leave no mount, file or descriptor" {
	local pid child
	pid=$(cut -d' ' -f1 "$D/run/vm/$POD/virtiofsd.pid")
	child=$(cat "/proc/$pid/task/$pid/children")
	child=${child% }
	mkdir -p "$V/crash"
	seq 50 | (cd "$V/crash" && xargs touch)
	loop() {
		for _ in 1 2 3 4; do
			once 'ls -l /c' "$(mount_of /c "$V/crash"), $(mount_of /f "$V/crash/1")" >/dev/null
		done
	}
	loop
	local mounts fds
	mounts=$(wc -l <"/proc/$child/mountinfo")
	fds=$(find "/proc/$child/fd" -mindepth 1 | wc -l)
	loop
	[ "$(wc -l <"/proc/$child/mountinfo")" = "$mounts" ]
	eventually 20 sh -c "[ \$(find /proc/$child/fd -mindepth 1 | wc -l) -le $fds ]"
	[ -z "$(share_names)" ]
}

@test "the end of virtiofsd ends its pod, and a pod leaves nothing of its volumes" {
	snapshot_host
	pod=$(run_pod short)
	id=$(run_container "$pod" c ".mounts = [$(mount_of /v "$V")]")
	kill -KILL "$(cut -d' ' -f1 "$D/run/vm/$pod/virtiofsd.pid")"
	wait_state "$id" CONTAINER_EXITED
	[ "$(container_field "$id" .exitCode)" = 137 ]
	crictl inspect "$id" | jq -e '.status.message | contains("virtiofsd")'
	remove_pod "$pod"
	assert_host_unchanged
}
