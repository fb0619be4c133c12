#!/usr/bin/env bats
# The server itself: its socket, what it does not do yet, its end.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	pull_busybox
	POD=$(run_pod pod)
	ID=$(run_container "$POD" main)
	export POD ID
}

teardown_file() {
	instance_teardown
}

@test "the socket is for root alone" {
	[ "$(stat -c %a "$D/run/bulkhead.sock")" = 600 ]
}

@test "version and status tell what this is" {
	crictl version | grep -q 'RuntimeName: *bulkhead'
	crictl version | grep -q 'RuntimeApiVersion: *v1'
	crictl info | jq -e '.status.conditions | map(select(.status)) | map(.type) | sort ==
		["NetworkReady", "RuntimeReady"]'
	crictl info | jq -e '.config | .accelerator == "tcg" or .accelerator == "kvm"'
	crictl info | jq -e '.config.acceleratorReason | length > 0'
	crictl runtime-config | grep -qi cgroup
}

@test "what is not built yet answers UNIMPLEMENTED by name" {
	refused Unimplemented CheckpointContainer crictl checkpoint --export "$D/checkpoint" "$ID"
}

@test "a stop while a call runs lets it end, and pods go on" {
	crictl exec -s "$ID" sh -c 'echo >/begun; sleep 3; echo finished' >"$D/out" 3>&- &
	call=$!
	eventually 10 crictl exec -s "$ID" test -e /begun
	stop_bulkheadd
	wait "$call"
	grep -q finished "$D/out"
	[ ! -e "$D/run/bulkhead.sock" ]
	pgrep -f "guest=bh-$POD,"
	start_bulkheadd
	[ "$(container_field "$ID" .state)" = CONTAINER_RUNNING ]
}

@test "a client that goes away while its pod comes up leaves nothing or a pod" {
	snapshot_host
	before=$(crictl pods -q | sort)
	config=$D/pods/leaving
	pod_config leaving >"$config"
	for delay in 0.1 0.5 1 2; do
		timeout "$delay" "$TOOLS/crictl" --config "$D/crictl.yaml" runp "$config" >/dev/null 2>&1 || true
		eventually 60 no_creation
		crictl pods -q --name leaving | xargs -r "$TOOLS/crictl" --config "$D/crictl.yaml" rmp -f
	done
	[ "$(crictl pods -q | sort)" = "$before" ]
	assert_host_unchanged
}

# No pod is on its way up: there are as many machines as pods.
no_creation() {
	[ "$(sqlite3 "$D/state/state.db" 'SELECT count(*) FROM record WHERE kind = 0')" -eq \
		"$(crictl pods -q | wc -l)" ]
}

# listed ID: its state in the list of all.
listed() {
	crictl ps -a -o json | jq -r --arg id "$1" '.containers[] | select(.id == $id) | .state'
}

@test "the list of containers follows each change of state" {
	id=$(create_container "$POD" changing)
	[ "$(listed "$id")" = CONTAINER_CREATED ]
	crictl start "$id"
	[ "$(listed "$id")" = CONTAINER_RUNNING ]
	crictl stop -t 0 "$id"
	[ "$(listed "$id")" = CONTAINER_EXITED ]
	[ "$(listed "$ID")" = CONTAINER_RUNNING ]
	crictl rm "$id"
	[ -z "$(listed "$id")" ]
}

@test "a thousand images, pods and containers on record are found again, and listed as they are" {
	many=$FT/many
	make_instance "$many"
	"$BUILD/tests/bench/fill_images" "$many/state" 1000
	"$BUILD/tests/bench/fill_pods" "$many/state" 1000
	# What QEMU can need not be asked again.
	mkdir "$many/state/libvirt"
	cp -a "$FT/state/libvirt/cache" "$many/state/libvirt/"
	use_instance "$many"
	start_bulkheadd
	crictl images -o json | jq -e '.images | length == 1000 and (map(.repoTags[0]) | unique | length) == 1000'
	crictl pods -o json | jq -e '.items | length == 1000 and (map(.metadata.name) | unique | length) == 1000 and
		all(.state == "SANDBOX_NOTREADY" and .labels["io.kubernetes.pod.name"] == .metadata.name)'
	crictl ps -a -o json >"$many/first"
	jq -e '.containers | length == 1000 and (map(.id) | unique | length) == 1000 and
		all(.state == "CONTAINER_EXITED" and .id[25:] == .podSandboxId[25:] and
			(.annotations | length) == 8)' "$many/first"
	# What is listed again was packed before.
	crictl ps -a -o json | cmp - "$many/first"
	crictl stats -a -s 0 -o json | jq -e '.stats | length == 1000 and (map(.attributes.id) | unique | length) == 1000 and
		all((.attributes.labels | length) == 8)'
	pod=$(crictl pods -q --name service-500-)
	crictl rmp "$pod"
	crictl pods -o json | jq -e --arg pod "$pod" '.items | length == 999 and all(.id != $pod)'
	crictl ps -a -o json | jq -e --arg pod "$pod" '.containers | length == 999 and all(.podSandboxId != $pod)'
	stop_bulkheadd
	umount "$many/run/netns" 2>/dev/null || true
	rm -rf "$many"
	use_instance "$FT"
}
