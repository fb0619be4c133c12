#!/usr/bin/env bats
# Images from files, and a disk that is too small for one.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	make_busybox_layout "$FT/img" >/dev/null
	export OTHER=$FT/other
}

teardown_file() {
	instance_teardown
}

teardown() {
	use_instance "$OTHER"
	stop_bulkheadd
	use_instance "$FT"
}

# runs IMAGE: a container of it says hello.
runs() {
	local IMAGE=$1 pod
	crictl pull "$IMAGE"
	pod=$(run_pod source)
	[ "$(run_once "$pod" source c 'echo hello')" = hello ]
	remove_pod "$pod"
	crictl rmi "$IMAGE"
}

@test "an image from an OCI layout, an OCI archive and a Docker archive runs" {
	skopeo --insecure-policy copy -q "oci:$FT/img:latest" "oci-archive:$FT/oci.tar:latest"
	skopeo --insecure-policy copy -q "oci:$FT/img:latest" "docker-archive:$FT/docker.tar:demo:1"
	runs "oci:$FT/img:latest"
	runs "oci-archive:$FT/oci.tar:latest"
	runs "docker-archive:$FT/docker.tar"
}

@test "an archive that is not there or no archive is named" {
	snapshot_host
	run crictl pull "oci-archive:$FT/absent.tar"
	[ "$status" -ne 0 ]
	[[ $output == *"$FT/absent.tar"* ]]
	head -c 100000 /dev/urandom >"$FT/noise.tar"
	run crictl pull "docker-archive:$FT/noise.tar"
	[ "$status" -ne 0 ]
	[[ $output == *"noise.tar"* ]]
	assert_host_unchanged
}

@test "a disk that fills while a layer is written: the error says so, nothing is left, and smaller images go on" {
	mkdir -p "$OTHER/state" "$FT/root"
	mount -t tmpfs -o size=24m,mode=0711 tmpfs "$OTHER/state"
	make_instance "$OTHER"
	use_instance "$OTHER"
	head -c 40000000 /dev/urandom >"$FT/root/big"
	tar_tree "$FT/root" "$FT/big.tar"
	umoci new --image "$FT/img:big" 2>/dev/null
	add_layer "$FT/img:big" "$FT/big.tar"
	start_bulkheadd
	snapshot_host
	used=$(df --output=used "$OTHER/state" | tail -n 1)
	refused Unknown "no space left" crictl pull "oci:$FT/img:big"
	assert_host_unchanged
	[ "$(df --output=used "$OTHER/state" | tail -n 1)" -lt $((used + 512)) ]
	crictl pull "oci:$FT/img:latest"
	crictl rmi "oci:$FT/img:latest"
}
