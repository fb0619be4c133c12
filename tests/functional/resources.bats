#!/usr/bin/env bats
# Limits of containers and pods, as they are made and while they run.

load lib/bulkheadd

setup_file() {
	instance_setup
	# libvirt 9.0 leaks what it notes of the event that tells of more memory. The leak is known by its function, for
	# which AddressSanitizer is to walk whole stacks.
	echo leak:qemuMonitorEmitMemoryDeviceSizeChange >"$FT/lsan.supp"
	export ASAN_OPTIONS=$ASAN_OPTIONS:fast_unwind_on_malloc=0
	export LSAN_OPTIONS=suppressions=$FT/lsan.supp:print_suppressions=0
	make_instance "$FT" 's/memory_mib: 256/&\n    memory_max_mib: 720\n    vcpus_max: 3/'
	use_instance "$FT"
	start_bulkheadd
	pull_busybox
	PARENT=/bulkhead-test/$NET/pod1
	POD=$(run_pod limited ".linux = {cgroup_parent: \"$PARENT\", resources: {memory_limit_in_bytes: 134217728, cpu_shares: 512, cpu_quota: 90000,
		cpu_period: 100000},
		overhead: {memory_limit_in_bytes: 167772160}}")
	C=$(run_container "$POD" c '.linux.resources = {cpu_shares: 2048, cpu_quota: 30000, cpu_period: 60000,
		memory_limit_in_bytes: 50331648, memory_swap_limit_in_bytes: 50331648, cpuset_cpus: "0", cpuset_mems: "0",
		hugepage_limits: [{page_size: "2MB", limit: 4194304}], unified: {"pids.max": "77", "memory.high": "45000000"}}')
	export POD C PARENT
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

# pod_request RESOURCES [LENGTH [MORE]]: an UpdatePodSandboxResourcesRequest for POD; RESOURCES as printf has bytes, of 5.
pod_request() {
	printf '\x0a\x20%s\x1a\x'"${2:-05}$1${3:-}" "$POD"
}

# host_value V1 V2: the setting of the machine's cgroup on the host, by its name in cgroup v1 or v2.
host_value() {
	find /sys/fs/cgroup -path "*$PARENT/bulkhead-$POD/$1" -exec cat {} \; -quit -o \
		-path "*$PARENT/bulkhead-$POD/$2" -exec cat {} \; -quit
}

host_limit() {
	echo "$(($(host_value memory.limit_in_bytes memory.max) >> 20))"
}

@test "QEMU and its helpers are in a cgroup below the pod's, limited to the guest's memory and the overhead" {
	local pid n=0
	for pid in $(pod_processes "$POD"); do
		((++n))
		grep -E "^[0-9]+:(|.*,)memory(,.*|):$PARENT/bulkhead-$POD\$|^0::$PARENT/bulkhead-$POD\$" "/proc/$pid/cgroup" ||
			{ tr '\0' ' ' <"/proc/$pid/cmdline"; false; }
	done
	# QEMU, bulkhead-console, bulkhead-vsock where the host has no vhost-vsock, virtiofsd and its child.
	[ "$n" -ge 4 ]
	# The guest's 192 MiB, tables of pages, and room for the rest.
	[ "$(host_limit)" -eq $((192 + 3 + 256)) ]
	host_value cpu.shares cpu.weight | grep -xE '512|20'
	host_value cpu.cfs_quota_us cpu.max | grep -xE '90000( 100000)?'
}

@test "CPU, memory, swap, huge pages and unified settings reach the guest's cgroup" {
	is cpu.max "30000 60000"
	is cpu.weight 79
	is memory.max 50331648
	is memory.swap.max 0
	is hugetlb.2MB.max 4194304
	is pids.max 77
	is memory.high 44998656
}

# machine_cpus: the host's processors on which the pod's machine may run.
machine_cpus() {
	host_value cpuset.cpus cpuset.cpus
}

@test "the node's processors that containers are given are their machine's; the guest's have other numbers" {
	[ "$(machine_cpus)" = 0 ]
	is cpuset.cpus ""
	is cpuset.mems ""
	# A container that was given none may run anywhere.
	id=$(create_container "$POD" anywhere)
	[ "$(machine_cpus)" != 0 ]
	crictl update --cpuset-cpus 0 "$id"
	[ "$(machine_cpus)" = 0 ]
	crictl rm "$id"
	[ "$(machine_cpus)" = 0 ]
}

@test "huge pages are there as far as a container's limit goes; without one there are none" {
	# fallocate(2) makes the pages that a program gets by mmap(2).
	script='mkdir /huge && mount -t hugetlbfs none /huge && fallocate -l 4194304 /huge/a && grep HugePages_Total /proc/meminfo
		rm -f /huge/a; fallocate -l 8388608 /huge/b 2>/dev/null || echo no more'
	id=$(run_script "$POD" huge "$script" '.linux = {security_context: {privileged: true},
		resources: {hugepage_limits: [{page_size: "2MB", limit: 4194304}]}}')
	finish "$id"
	[ "$(output_of limited huge | tr -s ' ')" = "HugePages_Total: 2"$'\n'"no more" ]
	none=$(run_script "$POD" none 'mkdir /huge && mount -t hugetlbfs none /huge && fallocate -l 2097152 /huge/a || echo none' \
		'.linux.security_context.privileged = true')
	finish "$none"
	[ "$(output_of limited none)" = none ]
	crictl rm "$id" "$none"
}

@test "UpdateContainerResources takes effect in the running container and is reported" {
	crictl update --cpu-quota 10000 --cpu-period 50000 --cpu-share 1024 --memory 41943040 "$C"
	is cpu.max "10000 50000"
	is cpu.weight 39
	is memory.max 41943040
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
	refused ResourceExhausted memory_max_mib crictl update --memory 1073741824 "$C"
	run crictl update --cpuset-cpus 8191 "$C"
	[ "$status" -ne 0 ]
	is memory.max 41943040
	crictl inspect "$C" | jq -e '.status.resources.linux | (.memoryLimitInBytes | tonumber) == 41943040 and .cpusetCpus == "0"'
}

@test "a unified setting that is no controller's is refused; swap below memory too" {
	refused Unknown unified create_container "$POD" freezer '.linux.resources = {unified: {"cgroup.freeze": "1"}}'
	refused Unknown memory_swap_limit create_container "$POD" swapper \
		'.linux.resources = {memory_limit_in_bytes: 20971520, memory_swap_limit_in_bytes: 10485760}'
}

@test "UpdatePodSandboxResources bounds all containers together, and refuses more than the machine may have" {
	id=$(run_script "$POD" within 'dd if=/dev/zero of=/dev/null bs=48M count=1 && echo fits; exec sleep 1000')
	fits() { [ "$(output_of limited within)" = fits ]; }
	eventually 20 fits
	# 32 MiB, field 4.
	pod_request '\x20\x80\x80\x80\x10' | raw UpdatePodSandboxResources
	over=$(run_script "$POD" over 'exec dd if=/dev/zero of=/dev/null bs=48M count=1')
	finish "$over"
	[ "$(container_field "$over" .reason)" = OOMKilled ]
	# 1 GiB.
	run raw UpdatePodSandboxResources < <(pod_request '\x20\x80\x80\x80\x80\x04' 06)
	[ "$status" -eq 1 ]
	grep -F "RESOURCE_EXHAUSTED" <<<"$output" | grep -F "memory_max_mib"
	# The host's cgroup is as before the refusal, and follows what is taken: overhead of 320 MiB, 1024 shares, 95 ms of 100.
	[ "$(host_limit)" -eq $((192 + 3 + 256)) ]
	pod_request '\x18\x80\x08\x10\x98\xe6\x05\x08\xa0\x8d\x06' 0b '\x12\x06\x20\x80\x80\x80\xa0\x01' | raw UpdatePodSandboxResources
	[ "$(host_limit)" -eq $((192 + 3 + 320)) ]
	host_value cpu.shares cpu.weight | grep -xE '1024|39'
	host_value cpu.cfs_quota_us cpu.max | grep -xE '95000( 100000)?'
	# What is not said stays, after a restart too; a quota of -1 is none. Then the overhead of before, 160 MiB.
	restart_bulkheadd
	pod_request "\\x10\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x01" 0b | raw UpdatePodSandboxResources
	host_value cpu.cfs_quota_us cpu.max | grep -xE -e '-1|max 100000'
	host_value cpu.shares cpu.weight | grep -xE '1024|39'
	[ "$(host_limit)" -eq $((192 + 3 + 320)) ]
	pod_request '\x18\x80\x04' 03 '\x12\x05\x20\x80\x80\x80\x50' | raw UpdatePodSandboxResources
	[ "$(host_limit)" -eq $((192 + 3 + 256)) ]
	# -1: no limit any more.
	pod_request "\\x20\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x01" 0b | raw UpdatePodSandboxResources
	crictl rm -f "$id" "$over"
}

# guest_mib: what the guest has; the kernel keeps some of what the machine has to itself.
guest_mib() {
	crictl exec -s "$C" awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo
}

guest_cpus() {
	crictl exec -s "$C" grep -c ^processor /proc/cpuinfo
}

@test "a container whose limits are more than its pod's machine has makes it grow, and can use them" {
	before=$(guest_mib)
	[ "$before" -lt 192 ]
	[ "$(guest_cpus)" -eq 1 ]
	limit=$(host_limit)
	id=$(run_script "$POD" large 'dd if=/dev/zero of=/dev/null bs=160M count=1 && nproc' \
		'.linux.resources = {memory_limit_in_bytes: 268435456, cpu_quota: 170000, cpu_period: 100000}')
	finish "$id"
	[ "$(container_field "$id" .exitCode)" = 0 ]
	[ "$(output_of limited large)" = 2 ]
	# 40 MiB of C with its 4 of huge pages, 256 MiB and 64 MiB of the guest's: 172 MiB more than 192.
	[ "$(guest_mib)" -eq $((before + 172)) ]
	[ "$(host_limit)" -gt "$((limit + 160))" ]
	crictl rm "$id"
}

@test "UpdateContainerResources and UpdatePodSandboxResources make it grow too, also after a restart; nothing shrinks" {
	before=$(guest_mib)
	restart_bulkheadd
	crictl update --memory 369098752 --cpu-quota 220000 --cpu-period 100000 "$C"
	[ "$(guest_mib)" -eq $((before + 352 + 4 + 64 - 364)) ]
	[ "$(guest_cpus)" -eq 3 ]
	is memory.max 369098752
	# 384 MiB.
	pod_request '\x20\x80\x80\x80\xc0\x01' 06 | raw UpdatePodSandboxResources
	[ "$(guest_mib)" -eq $((before + 384 + 64 - 364)) ]
	crictl update --memory 41943040 --cpu-quota 10000 "$C"
	[ "$(guest_mib)" -eq $((before + 384 + 64 - 364)) ]
}

# guest_bound FILE: of /proc/sys.
guest_bound() {
	crictl exec -s "$C" cat "/proc/sys/$1"
}

@test "a machine that has grown may have the threads of one that began so; process ids and open files are as on other nodes" {
	[ "$(guest_bound kernel/threads-max)" -ge $(($(guest_mib) * 8)) ]
	[ "$(guest_bound kernel/pid_max)" -eq 4194304 ]
	[ "$(guest_bound fs/file-max)" -eq 9223372036854775807 ]
}

@test "limits of all containers together beyond the most that a machine may have are a warning, as on a small node" {
	id=$(run_script "$POD" toomuch 'echo runs' '.linux.resources = {memory_limit_in_bytes: 4294967296}')
	finish "$id"
	[ "$(output_of limited toomuch)" = runs ]
	grep -F "limits are more than the machine may have" "$D/log"
	crictl rm "$id"
}

@test "a pod with the smallest limits boots and runs; a container with too little memory says so" {
	local tiny
	tiny=$(run_pod tiny '.linux.resources = {memory_limit_in_bytes: 4194304, cpu_shares: 2}')
	id=$(run_script "$tiny" small 'echo runs' '.linux.resources = {memory_limit_in_bytes: 4194304}')
	finish "$id"
	[ "$(output_of tiny small)" = runs ]
	run run_script "$tiny" smaller 'echo runs' '.linux.resources = {memory_limit_in_bytes: 65536}'
	echo "$output"
	[ "$status" -ne 0 ]
	grep -F "memory limit" <<<"$output"
	remove_pod "$tiny"
}

# What a kernel measures itself while others use the host's CPUs may be far off, and its time with it.
@test "an emulated machine's kernel counts time at the rate that it was told, which is the host's" {
	crictl info | jq -e '.config.accelerator == "tcg"' || skip "not emulated"
	khz=$(crictl exec -s "$C" sed -n 's/.* tsc_early_khz=\([0-9]*\) .*/\1/p' /proc/cmdline)
	# The first CPU: the others measure theirs, for short delays alone.
	crictl exec -s "$C" awk -v khz="$khz" '/^bogomips/ {told = $3 * 500 / khz; exit}
		END {exit told < 0.99 || told > 1.01}' /proc/cpuinfo
	begin=$(date +%s%N)
	from=$(crictl exec -s "$C" cut -d " " -f 1 /proc/uptime)
	sleep 2
	to=$(crictl exec -s "$C" cut -d " " -f 1 /proc/uptime)
	awk -v a="$from" -v b="$to" -v most="$((($(date +%s%N) - begin) / 1000000))" 'BEGIN {exit b - a < 1.9 || b - a > most / 1000 + 0.1}'
}
