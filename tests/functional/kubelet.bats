#!/usr/bin/env bats
# What a kubelet does, played by a driver: its order of calls, repeated, at the same time, with deadlines.
# Lists come four times a second beside each scenario, and what they show is checked.

load lib/bulkheadd

setup_file() {
	instance_setup
	make_instance "$FT" 's/memory_mib: 256/memory_mib: 128/; s/60000/200000/'
	use_instance "$FT"
	start_bulkheadd
	pull_busybox
	# Images that share no layer with the first.
	local tag
	for tag in dead unused; do
		umoci new --image "$FT/img:$tag"
		make_busybox_tree "$FT/$tag"
		echo "$tag" >"$FT/$tag/name"
		tar_tree "$FT/$tag" "$FT/$tag.tar"
		add_layer "$FT/img:$tag" "$FT/$tag.tar"
		configure_image "$FT/img:$tag" --config.env PATH=/bin
	done
	snapshot_host
}

teardown_file() {
	instance_teardown
}

# A scenario leaves nothing.
teardown() {
	if [ -n "${BATS_TEST_COMPLETED:-}" ]; then
		assert_host_unchanged
	else
		remove_all_pods
	fi
}

# play SCENARIO [OPTION…]
play() {
	local scenario=$1
	shift
	"$BUILD/tests/kubelet/kubelet" --socket "$D/run/bulkhead.sock" --image "$IMAGE" --dir "$D" \
		--cgroup-parent "/bulkhead-test/$NET" --relist-ms 250 "$@" "$scenario"
}

@test "a container that crashes again and again: the kubelet restarts it and keeps the last one" {
	play crash-loop --count 6
}

@test "init containers: in their order, repeated until they succeed, before a sidecar and the container" {
	play init
}

@test "probes each second: some succeed, what fails or hangs is restarted" {
	play probes --count 6
}

@test "resizing a pod: up with the pod first, down with the containers first" {
	play resize
}

@test "logs of several containers are rotated, also while they end, and no line is lost" {
	play rotation
}

@test "a sandbox whose machine is killed is made anew, then the old one is removed" {
	play sandbox-changed
}

@test "a static pod is found by a kubelet that restarted, and replaced when its manifest changes" {
	play static
}

@test "calls whose deadlines pass are repeated until they succeed, and nothing is there twice" {
	play deadlines
}

@test "dead containers and sandboxes are collected by age, then images, each of which gives space back" {
	play collect --dead-image "oci:$FT/img:dead" --unused-image "oci:$FT/img:unused"
}

@test "events alone tell the states, also after their stream broke" {
	play events
}

# What a power cut leaves of this instance: its state_dir, logs and volumes, and what CNI keeps in /var.
lose_power() {
	kill_bulkheadd
	end_processes
	eventually 30 no_processes
	while read -r _ _ _ _ path _; do
		umount --lazy "$path"
	done < <(grep " $D/run" /proc/self/mountinfo | tac)
	rm -rf "${D:?}/run"
	eventually 30 no_cgroups
	lose_rules
	ip link delete "$NET"
}

no_cgroups() {
	remove_cgroups
	[ -z "$(own_cgroups)" ]
}

no_processes() {
	[ -z "$(own_processes)" ]
}

@test "a node that reboots, with all of /run lost: pods are found dead, made anew, and the old ones removed" {
	play before-reboot
	lose_power
	start_bulkheadd
	assert_consistent
	play after-reboot
}

# CONTAINERS=200 for as many as a busy node has.
@test "many containers in four pods: each list shows all of them" {
	play many --count "${CONTAINERS:-40}" --pods 4 --relist-ms 1000
}
