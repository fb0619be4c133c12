#!/usr/bin/env bats
# Pod sandboxes: run, inspect, list, stop, remove.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	snapshot_host
	# Two pods that most tests look at; those that change one make their own.
	POD=$(run_pod first '.labels = {app: "web", tier: "a"} | .annotations = {"note/x": "kept: é \"q\""}')
	OTHER=$(run_pod second '.labels = {app: "web", tier: "b"} | .metadata.namespace = "other"')
	export POD OTHER
}

teardown_file() {
	instance_teardown
}

listed() {
	crictl pods -o json "$@" | jq -r '[.items[].metadata.name] | sort | join(" ")'
}

@test "a pod is READY with the metadata, labels and annotations that it was given" {
	run crictl inspectp "$POD"
	[ "$status" -eq 0 ]
	jq -e --arg id "$POD" '.status | .id == $id and .state == "SANDBOX_READY" and
		.metadata.name == "first" and .metadata.namespace == "default" and
		(.metadata.uid | startswith("first-")) and
		.labels == {app: "web", tier: "a"} and
		.annotations == {"note/x": "kept: é \"q\""}' <<<"$output"
}

@test "a pod has an address of the CNI network and its creation time" {
	[[ $(pod_field "$POD" .network.ip) == "$SUBNET."* ]]
	created=$(date -d "$(pod_field "$POD" .createdAt)" +%s)
	[ "$created" -le "$(date +%s)" ]
	[ "$created" -gt $(($(date +%s) - 3600)) ]
}

@test "verbose status tells about the machine" {
	crictl inspectp "$POD" | jq -e '.info | tostring | length > 20'
}

@test "pods are listed by id, beginning of an id, name, namespace, state and label" {
	[ "$(listed)" = "first second" ]
	[ "$(listed --id "$POD")" = first ]
	[ "$(listed --id "${POD:0:12}")" = first ]
	[ "$(listed --name second)" = second ]
	[ "$(listed --namespace other)" = second ]
	[ "$(listed --state ready)" = "first second" ]
	[ "$(listed --state notready)" = "" ]
	[ "$(listed --label app=web)" = "first second" ]
	[ "$(listed --label app=web --label tier=b)" = second ]
	[ "$(listed --label app=db)" = "" ]
}

@test "a pod may be named by the beginning of its id, and not by one that fits two" {
	[ "$(pod_field "${POD:0:16}" .id)" = "$POD" ]
	refused NotFound "not found" crictl inspectp "${POD:0:16}zz"
}

@test "the same pod cannot run twice" {
	config=$D/pods/$POD
	refused Unknown "$POD" crictl runp "$config"
	jq '.metadata.attempt = 1' "$config" >"$D/pods/attempt"
	id=$(crictl runp "$D/pods/attempt")
	crictl rmp -f "$id"
}

@test "a runtime handler that is not configured is refused, and leaves nothing" {
	snapshot_host
	refused Unknown "no runtime handler 'gvisor'" run_pod handler . --runtime gvisor
	assert_host_unchanged
}

@test "a configured runtime handler gives its machine the handler's memory" {
	id=$(run_pod big . --runtime big)
	[ "$(pod_field "$id" .runtimeHandler)" = big ]
	tr '\0' ' ' <"/proc/$(pgrep -f "guest=bh-$id,")/cmdline" | grep -q -e '-m \(size=\)\?\(384\|393216k\)'
	remove_pod "$id"
}

@test "hostNetwork is refused with what to do, and leaves nothing" {
	snapshot_host
	refused Unimplemented "hostNetwork" run_pod hostnet \
		'.linux.security_context.namespace_options = {network: 2}'
	[[ $output == *"runtime class"* ]]
	assert_host_unchanged
}

@test "stopping a pod ends its machine and network, and may be repeated" {
	id=$(run_pod stopped)
	pgrep -f "guest=bh-$id,"
	crictl stopp "$id"
	[ "$(pod_field "$id" .state)" = SANDBOX_NOTREADY ]
	[ -z "$(pgrep -f "guest=bh-$id,")" ]
	[ ! -e "$D/run/netns/bh-$id" ]
	[ -z "$(pod_field "$id" '.network.ip // empty')" ]
	[ "$(listed --state notready)" = stopped ]
	crictl stopp "$id"
	crictl rmp "$id"
}

@test "removing a pod may be repeated, and leaves nothing" {
	snapshot_host
	id=$(run_pod removed)
	crictl stopp "$id"
	crictl rmp "$id"
	refused NotFound "not found" crictl inspectp "$id"
	assert_host_unchanged
}

@test "removing a running pod by force leaves nothing" {
	pull_busybox
	snapshot_host
	id=$(run_pod forced)
	run_container "$id" one
	crictl rmp -f "$id"
	rm -r "$D/logs/forced"
	assert_host_unchanged
}

@test "twelve pods that are asked for at once come up, a bounded number at a time" {
	# Its allocator is not told of fork(): a child that libvirt makes while another thread allocates may hang.
	[ "${VARIANT:-release}" != asan ] || skip "gcc 12's AddressSanitizer and fork() in several threads"
	local many=12 n ids
	[ "${VARIANT:-release}" = release ] || many=4
	for n in $(seq "$many"); do
		run_pod "many$n" >"$D/many$n" 3>&- &
	done
	wait
	ids=$(cat "$D"/many*)
	[ "$(wc -w <<<"$ids")" -eq "$many" ]
	# shellcheck disable=SC2086
	[ "$(for id in $ids; do pod_field "$id" .network.ip; done | sort -u | wc -l)" -eq "$many" ]
	for id in $ids; do
		remove_pod "$id"
	done
}
