#!/usr/bin/env bats
# Limits of containers and pods, as they are made and while they run.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	POD=$(run_pod limited '.linux.resources = {memory_limit_in_bytes: 134217728}')
	C=$(run_container "$POD" c '.linux.resources = {cpu_shares: 2048, cpu_quota: 30000, cpu_period: 60000,
		memory_limit_in_bytes: 50331648, memory_swap_limit_in_bytes: 50331648, cpuset_cpus: "0", cpuset_mems: "0",
		hugepage_limits: [{page_size: "2MB", limit: 4194304}], unified: {"pids.max": "77", "memory.high": "45000000"}}')
	export POD C
}

teardown_file() {
	instance_teardown
}

# limit FILE: what the container's cgroup says.
limit() {
	crictl exec -s "$C" cat "/sys/fs/cgroup/$1"
}

# is FILE VALUE
is() {
	local value
	value=$(limit "$1")
	[ "$value" = "$2" ] || {
		echo "$1 is $value, not $2" >&2
		return 1
	}
}

# pod_request RESOURCES: an UpdatePodSandboxResourcesRequest for POD; RESOURCES as printf has bytes, of 5.
pod_request() {
	printf '\x0a\x20%s\x1a\x05'"$1" "$POD"
}

@test "CPU, memory, swap, huge pages, cpuset and unified settings reach the guest's cgroup" {
	is cpu.max "30000 60000"
	is cpu.weight 79
	is memory.max 50331648
	is memory.swap.max 0
	is cpuset.cpus 0
	is cpuset.mems 0
	is hugetlb.2MB.max 4194304
	is pids.max 77
	is memory.high 44998656
}

@test "UpdateContainerResources takes effect in the running container and is reported" {
	crictl update --cpu-quota 10000 --cpu-period 50000 --cpu-share 1024 --memory 41943040 "$C"
	is cpu.max "10000 50000"
	is cpu.weight 39
	is memory.max 41943040
	is cpuset.cpus 0
	crictl inspect "$C" | jq -e '.status.resources.linux | (.cpuQuota | tonumber) == 10000 and
		(.memoryLimitInBytes | tonumber) == 41943040 and .cpusetMems == "0"'
}

@test "what was updated is known after a restart" {
	restart_bulkheadd
	crictl inspect "$C" | jq -e '.status.resources.linux | (.cpuQuota | tonumber) == 10000 and (.cpuShares | tonumber) == 1024'
	crictl update --cpu-share 512 "$C"
	is cpu.max "10000 50000"
	is cpu.weight 20
}

@test "an update that cannot be is refused and changes nothing" {
	refused Unimplemented "cannot grow" crictl update --memory 1073741824 "$C"
	run crictl update --cpuset-cpus 63 "$C"
	[ "$status" -ne 0 ]
	is memory.max 41943040
	crictl inspect "$C" | jq -e '.status.resources.linux | (.memoryLimitInBytes | tonumber) == 41943040 and .cpusetCpus == "0"'
}

@test "a unified setting that is no controller's is refused; swap below memory too" {
	refused Unknown unified create_container "$POD" freezer '.linux.resources = {unified: {"cgroup.freeze": "1"}}'
	refused Unknown memory_swap_limit create_container "$POD" swapper \
		'.linux.resources = {memory_limit_in_bytes: 20971520, memory_swap_limit_in_bytes: 10485760}'
}

@test "UpdatePodSandboxResources bounds all containers together, and refuses more than the machine has" {
	id=$(run_script "$POD" within 'dd if=/dev/zero of=/dev/null bs=48M count=1 && echo fits; exec sleep 1000')
	fits() { [ "$(output_of limited within)" = fits ]; }
	eventually 20 fits
	# 32 MiB, field 4.
	pod_request '\x20\x80\x80\x80\x10' | raw UpdatePodSandboxResources
	over=$(run_script "$POD" over 'exec dd if=/dev/zero of=/dev/null bs=48M count=1')
	finish "$over"
	[ "$(container_field "$over" .reason)" = OOMKilled ]
	# 224 MiB.
	run raw UpdatePodSandboxResources < <(pod_request '\x20\x80\x80\x80\x70')
	[ "$status" -eq 1 ]
	grep -F "UNIMPLEMENTED" <<<"$output" | grep -F "cannot grow"
	crictl rm -f "$id" "$over"
}
