#!/usr/bin/env bats
# Mistakes: each is refused with its code and a message that helps, and leaves nothing.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	POD=$(run_pod pod)
	export POD
	# Tests that need a bulkheadd of another configuration make it here.
	export OTHER=$FT/other
}

teardown_file() {
	instance_teardown
}

setup() {
	use_instance "$FT"
	snapshot_host
}

teardown() {
	if [ -e "$OTHER/config.yaml" ]; then
		use_instance "$OTHER"
		remove_all_pods || true
		stop_bulkheadd
		umount "$OTHER/run/netns" 2>/dev/null || true
		rm -rf "$OTHER"
	fi
	use_instance "$FT"
}

# other SED-EXPRESSION: makes a second instance whose configuration differs; the first one's libvirt cache
# spares it the probe.
other() {
	make_instance "$OTHER" "$1"
	use_instance "$OTHER"
	mkdir -p "$OTHER/state/libvirt"
	cp -a "$FT/state/libvirt/cache" "$OTHER/state/libvirt/"
}

# refuses_to_start TEXT: bulkheadd ends at once with a message that contains it.
refuses_to_start() {
	rm -f "$D/log"
	launch_bulkheadd
	wait_bulkheadd 30
	grep -F "bulkheadd cannot run" "$D/log" | grep -F -- "$1" || {
		tail -n 5 "$D/log" >&2
		return 1
	}
}

@test "unknown ids are NotFound, and for stop and remove success" {
	unknown=0123456789abcdef0123456789abcdef
	refused NotFound "$unknown" crictl inspectp "$unknown"
	refused NotFound "$unknown" crictl inspect "$unknown"
	refused NotFound "$unknown" crictl start "$unknown"
	refused NotFound "$unknown" crictl exec -s "$unknown" true
	refused NotFound "$unknown" crictl logs -r "$unknown"
	cp "$D/pods/$POD" "$D/pods/$unknown"
	refused NotFound "$unknown" create_container "$unknown" c
	rm "$D/pods/$unknown"
	crictl stopp "$unknown"
	crictl stop "$unknown"
	assert_host_unchanged
}

@test "a pod without metadata, or with half of it, is refused" {
	refused UNKNOWN "must include metadata" raw RunPodSandbox </dev/null
	refused UNKNOWN "name, namespace and uid" raw RunPodSandbox \
		< <(printf '\012\005\012\003\012\001x')
	assert_host_unchanged
}

@test "a host name or port that cannot be is refused" {
	refused Unknown "hostname" run_pod bad '.hostname = ("x" * 65)'
	refused Unknown "port mapping 0" run_pod bad \
		'.port_mappings = [{container_port: 70000, host_port: 80}]'
	assert_host_unchanged
}

@test "a container without metadata or image is refused" {
	refused UNKNOWN "metadata" raw CreateContainer < <(printf '\012\040%s' "$POD")
	refused UNKNOWN "image" raw CreateContainer \
		< <(printf '\012\040%s\022\005\012\003\012\001x' "$POD")
	assert_host_unchanged
}

@test "a container of an image that is not here is refused by its name" {
	refused NotFound "no-such-image" create_container "$POD" bad '.image = {image: "no-such-image"}'
	assert_host_unchanged
}

@test "a container name that the pod has already is refused, and names the other" {
	id=$(create_container "$POD" taken)
	refused Unknown "$id" create_container "$POD" taken
	crictl rm "$id"
	assert_host_unchanged
}

@test "what is not built yet is refused by name: CDI devices" {
	refused Unimplemented CDI create_container "$POD" bad '.CDI_devices = [{name: "vendor.example/device=one"}]'
	assert_host_unchanged
}

@test "a container starts once, and stops as often as one likes" {
	id=$(run_container "$POD" twice)
	refused Unknown "started before" crictl start "$id"
	crictl stop "$id"
	crictl stop "$id"
	refused Unknown "started before" crictl start "$id"
	crictl rm "$id"
	assert_host_unchanged
}

@test "a log path outside the pod's directory is refused" {
	refused Unknown "log path" create_container "$POD" bad '.log_path = "../../etc/passwd"'
	assert_host_unchanged
}

@test "a CNI plugin that is missing is named, and nothing is left" {
	mv "$FT/cni/10-$NET.conflist" "$FT/conflist"
	jq '.plugins += [{type: "no-such-plugin"}]' "$FT/conflist" >"$FT/cni/10.conflist"
	run run_pod bad
	mv "$FT/conflist" "$FT/cni/10-$NET.conflist"
	rm "$FT/cni/10.conflist"
	[ "$status" -ne 0 ]
	grep -qF "code = Unknown" <<<"$output"
	[[ $output == *no-such-plugin* ]]
	assert_host_unchanged
}

@test "a CNI plugin that fails is quoted, and what the others did is undone" {
	mv "$FT/cni/10-$NET.conflist" "$FT/conflist"
	jq '.plugins += [{type: "tuning", sysctl: {"net.core.no_such_setting": "1"}}]' \
		"$FT/conflist" >"$FT/cni/10.conflist"
	run run_pod bad
	mv "$FT/conflist" "$FT/cni/10-$NET.conflist"
	rm "$FT/cni/10.conflist"
	[ "$status" -ne 0 ]
	grep -qF "code = Unknown" <<<"$output"
	[[ $output == *tuning* && $output == *no_such_setting* ]]
	assert_host_unchanged
}

@test "without a CNI configuration the node is not NetworkReady, and a pod is refused" {
	mkdir "$FT/no-cni"
	other "s|conf_dir: .*|conf_dir: $FT/no-cni|"
	start_bulkheadd
	crictl info | jq -e '.status.conditions | map({(.type): .status}) | add ==
		{RuntimeReady: true, NetworkReady: false}'
	run run_pod bad
	[ "$status" -ne 0 ]
	grep -qF "code = Unknown" <<<"$output"
	[[ $output == *"$FT/no-cni"* ]]
	# It is ready once there is one, without a restart.
	cp "$FT/cni/10-$NET.conflist" "$FT/no-cni/"
	crictl info | jq -e '.status.conditions | map(.status) | all'
}

@test "a guest kernel that is missing is named" {
	other "s|kernel: .*|kernel: $FT/guest/absent|"
	launch_bulkheadd
	eventually 30 grep -F "$FT/guest/absent" "$D/log" || {
		start_bulkheadd
		snapshot_host
		run run_pod bad
		[ "$status" -ne 0 ]
		[[ $output == *"$FT/guest/absent"* ]]
		assert_host_unchanged
	}
}

@test "a guest that never answers: the error quotes its console, and nothing is left" {
	# A kernel without an initramfs that it can run panics; told so, it then waits instead of ending.
	head -c 4096 /dev/zero >"$FT/guest/hangs.cpio"
	other "s|initramfs: .*|initramfs: $FT/guest/hangs.cpio|; s|boot_timeout_ms: .*|boot_timeout_ms: 12000\n  kernel_arguments: panic=0|"
	start_bulkheadd
	snapshot_host
	run run_pod bad
	[ "$status" -ne 0 ]
	# The console's last lines, quoted: not the word alone.
	[[ $output == *"did not answer in time"*"Kernel panic - not syncing: VFS"* ]]
	assert_host_unchanged
}

@test "a second bulkheadd on the same state is refused, and the first goes on" {
	cp "$FT/config.yaml" "$FT/second.yaml"
	run timeout 30 "$FT/bin/bulkheadd" --config "$FT/second.yaml"
	[ "$status" -eq 1 ]
	[[ $output == *"state.db"* && $output == *"$(cat "$FT/pid")"* ]]
	[ "$(pod_field "$POD" .state)" = SANDBOX_READY ]
	assert_host_unchanged
}

@test "records that are damaged, cut short or a newer bulkheadd's are refused with the remedy, and left as they are" {
	other ""
	local state=$OTHER/state/state.db
	mkdir -p "${state%/*}"
	head -c 8192 /dev/urandom >"$state"
	refuses_to_start "Restore it from a backup"
	rm "$state"
	sqlite3 "$FT/state/state.db" ".backup $state"
	sqlite3 "$state" "PRAGMA journal_mode = DELETE; PRAGMA user_version = 99; UPDATE writer SET version = '9.9'"
	refuses_to_start "newer bulkheadd (9.9,"
	truncate -s 4096 "$state"
	cp "$state" "$FT/state.before"
	refuses_to_start "Restore it from a backup"
	cmp "$state" "$FT/state.before"
}

@test "a libvirt root that cannot be written is named" {
	touch "$FT/a-file"
	other "s|^hypervisor:|&\n  libvirt_uri: qemu:///embed?root=$FT/a-file/root|"
	refuses_to_start "$FT/a-file"
}

@test "a state directory that cannot be made is named" {
	touch "$FT/a-file"
	other "s|^state_dir: .*|state_dir: $FT/a-file/state|"
	refuses_to_start "$FT/a-file"
}

@test "an unknown key in the configuration is named with its line" {
	other "s|^network:|&\n  bin_dir: /opt|"
	line=$(grep -n "bin_dir:" "$D/config.yaml" | cut -d: -f1)
	refuses_to_start "bin_dir"
	refuses_to_start "line: $line"
}

@test "a configuration file that is missing is named" {
	run timeout 30 "$FT/bin/bulkheadd" --config /no/such/file
	[ "$status" -eq 1 ]
	[[ $output == *"/no/such/file"* ]]
	run "$FT/bin/bulkheadd" superfluous
	[ "$status" -eq 2 ]
}

@test "an empty id is refused by every method that takes one" {
	for method in StopPodSandbox RemovePodSandbox StartContainer StopContainer RemoveContainer \
		ExecSync ReopenContainerLog; do
		run raw "$method" </dev/null
		[ "$status" -eq 1 ] || {
			echo "$method takes an empty id" >&2
			return 1
		}
		[[ $output == *"code = UNKNOWN"*" is empty"* ]]
	done
	[ "$(pod_field "$POD" .state)" = SANDBOX_READY ]
	assert_host_unchanged
}
