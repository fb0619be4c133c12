#!/usr/bin/env bats
# Machines of a libvirtd (hypervisor.libvirt_uri), which is the test's own: it and bulkheadd are in a mount namespace
# in which libvirt's directories are empty. Skips where there is none.

load lib/bulkheadd

setup_file() {
	[ -x /usr/sbin/libvirtd ] || return 0
	instance_setup
	make_instance "$FT" 's|^hypervisor:|&\n  libvirt_uri: qemu:///system|'
	use_instance "$FT"
	start_libvirtd
	start_bulkheadd
	pull_busybox
}

setup() {
	[ -x /usr/sbin/libvirtd ] || skip "no libvirtd"
}

teardown_file() {
	[ -x /usr/sbin/libvirtd ] || return 0
	local code=0
	instance_teardown || code=$?
	[ -z "${LIBVIRTD:-}" ] || kill "$LIBVIRTD"
	return "$code"
}

# The configuration is what docs/configuration.md asks for.
start_libvirtd() {
	# shellcheck disable=SC2016 # the other bash's
	unshare --mount --propagation private bash -c '
		for dir in /etc /run /var/cache /var/lib /var/log; do
			mkdir -p "$dir/libvirt" && mount -t tmpfs -o mode=755 none "$dir/libvirt" || exit 1
		done
		printf "%s\n" "security_driver = \"none\"" "cgroup_controllers = [ \"devices\" ]" "stdio_handler = \"file\"" \
			>/etc/libvirt/qemu.conf
		exec /usr/sbin/libvirtd --pid-file "$1/libvirtd.pid"' libvirtd "$FT" >"$FT/libvirtd.log" 2>&1 </dev/null 3>&- &
	export LIBVIRTD=$!
	disown "$LIBVIRTD"
	eventually 60 test -S "/proc/$LIBVIRTD/root/run/libvirt/libvirt-sock"
}

# In the places of the library's.
launch_bulkheadd() {
	nsenter --mount="/proc/$LIBVIRTD/ns/mnt" "$FT/bin/bulkheadd" --config "$D/config.yaml" \
		>>"$D/log" 2>&1 </dev/null 3>&- &
	echo $! >"$D/pid"
	disown $!
	eventually 20 bulkheadd_was_executed $!
}

assert_consistent() {
	local found
	found=$(nsenter --mount="/proc/$LIBVIRTD/ns/mnt" \
		"$BUILD/cri-server/cli/bulkheadctl" fsck --settle 10 --config "$D/config.yaml" 2>&1) && return
	echo "fsck: $found" >&2
	return 1
}

# owners: of what all machines read.
owners() {
	stat -c '%u:%g %a %n' "$FT/guest"/* "$D/state/images/layers"/*
}

@test "a machine of a libvirtd has a user of its own, and what all machines read stays root's" {
	local pod id qemu before
	before=$(owners)
	pod=$(run_pod pod)
	id=$(run_container "$pod" one)
	qemu=$(cat "/proc/$LIBVIRTD/root/run/libvirt/qemu/bh-$pod.pid")
	[ "$(stat -c %u "/proc/$qemu/fd")" -gt $((0x70000000)) ]
	[ "$(stat -c %u "/proc/$qemu/fd")" = "$(stat -c %u "$D/state/scratch/$pod.ext4")" ]
	[ "$(owners)" = "$before" ]
	restart_bulkheadd
	[ "$(crictl exec -s "$id" echo still)" = still ]
	remove_pod "$pod"
	[ "$(owners)" = "$before" ]
}
