#!/usr/bin/env bats
# A node as docs/operating.md has it made: what `make install` brings, and no configuration. It has a mount namespace
# of its own, in which /etc and /usr are the host's with what is written to them on top, and /run and /var/lib are
# empty; in its PID namespace all ends with the test.

load lib/bulkheadd

setup_file() {
	instance_setup
	make_busybox_layout "$FT/busybox"
	mkdir "$FT/over"
}

teardown_file() {
	# The default parent of machines' cgroups; another bulkheadd of this host may have it.
	rmdir /sys/fs/cgroup/bulkhead /sys/fs/cgroup/*/bulkhead 2>/dev/null || true
	instance_teardown
}

make_node() {
	local dir
	mount -t tmpfs over "$FT/over"
	for dir in usr etc; do
		mkdir "$FT/over/$dir" "$FT/over/$dir.work"
		mount -t overlay -o "lowerdir=/$dir,upperdir=$FT/over/$dir,workdir=$FT/over/$dir.work" overlay "/$dir"
	done
	MAKEFLAGS="" make -C "$REPOSITORY" install
	mount -t tmpfs run /run
	mount -t tmpfs lib /var/lib
	rm -rf /etc/bulkhead /etc/cni/net.d
	install -D -m 0644 -t /etc/cni/net.d "$FT/cni/10-$NET.conflist"
}

start_node() {
	bulkheadd &
	eventually 60 test -S /run/bulkhead/bulkhead.sock
}

run_node() {
	make_node
	start_node
	bulkheadctl check
	[ "$(bulkheadctl run "oci:$FT/busybox:latest" sh -c 'echo it runs')" = "it runs" ]
	kill -TERM $!
	wait $!
	start_node
	[ "$(bulkheadctl run "oci:$FT/busybox:latest" sh -c 'echo again')" = again ]
	bulkheadctl fsck
	kill -TERM $!
	wait $!
}

@test "what make install brings runs without a configuration" {
	[ -z "${VARIANT:-}" ] || skip "installed is the release"
	export -f eventually make_node start_node run_node
	export REPOSITORY
	unshare --mount --pid --fork --kill-child --mount-proc bash -euxc run_node
}
