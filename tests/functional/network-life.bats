#!/usr/bin/env bats
# What is left of a pod's network when plugins fail or hang, bulkheadd is killed within them, and others take
# things away. NETWORK_KILLS=50 for more kills than two each.

load lib/bulkheadd

setup_file() {
	instance_setup
	mkdir "$FT/plugins" "$FT/gate"
	# Between the others: what comes before it is done, what comes after is not.
	cat >"$FT/plugins/gate" <<-END
		#!/bin/bash
		# fail-COMMAND: it fails; hold-COMMAND: it waits as long as that is there, and says in-COMMAND.
		# lease: it keeps one for each pod there.
		gate=$FT/gate
		input=\$(cat)
		[ ! -e "\$gate/fail-\$CNI_COMMAND" ] || { echo '{"code": 11, "msg": "not now"}'; exit 1; }
		[ ! -e "\$gate/hold-\$CNI_COMMAND" ] || touch "\$gate/in-\$CNI_COMMAND"
		while [ -e "\$gate/hold-\$CNI_COMMAND" ]; do sleep 0.05; done
		case \$CNI_COMMAND in
		ADD) [ ! -d "\$gate/lease" ] || touch "\$gate/lease/\$CNI_CONTAINERID" ;;
		DEL) rm -f "\$gate/lease/\$CNI_CONTAINERID" ;;
		esac
		[ "\$CNI_COMMAND" != ADD ] || jq .prevResult <<<"\$input"
	END
	chmod 0755 "$FT/plugins/gate"
	jq '.plugins |= [.[0], {type: "gate"}, .[1]]' "$FT/cni/10-$NET.conflist" >"$FT/new.conflist"
	mv "$FT/new.conflist" "$FT/cni/10-$NET.conflist"
	sed -i -e "s|^  conf_dir: .*|&\n  bin_dirs: $FT/plugins:/usr/lib/cni\n  plugin_timeout_ms: 300000|; s|^hypervisor:|&\n  boots_max: 2|" \
		"$FT/config.yaml"
	start_bulkheadd
	remove_pod "$(run_pod first)"
	snapshot_host
}

teardown_file() {
	rm -rf "$FT"/gate/*
	instance_teardown
}

ports() {
	echo ".port_mappings = [{protocol: 0, container_port: 80, host_port: $((21000 + RANDOM % 9000))}]"
}

# hold COMMAND: the plugin waits in it, until let_go COMMAND.
hold() {
	touch "$FT/gate/hold-$1"
}

let_go() {
	rm -f "$FT/gate/hold-$1" "$FT/gate/in-$1"
}

# kill_within COMMAND CRICTL-ARGUMENT…: bulkheadd is killed while the plugin is in it.
kill_within() {
	local command=$1 client
	shift
	hold "$command"
	crictl "$@" >/dev/null 2>&1 3>&- &
	client=$!
	eventually 60 test -e "$FT/gate/in-$command"
	kill_bulkheadd
	let_go "$command"
	wait "$client" || true
}

@test "bulkheadd killed within ADD leaves no address, no rule and no link" {
	for ((i = 0; i < ${NETWORK_KILLS:-2}; i++)); do
		pod_config "add$i" "$(ports)" >"$FT/add.json"
		kill_within ADD runp "$FT/add.json"
		start_bulkheadd
		assert_host_unchanged
	done
}

@test "pods that come and go two at a time leave no address, rule, link or namespace" {
	cycle() {
		local i pod
		for ((i = 0; i < ${NETWORK_CYCLES:-2} / 2; i++)); do
			# One that does not start in time leaves nothing either, and is tried again as kubelets do.
			pod=$(run_pod "cycle-$1-$i" "$(ports)") || pod=$(run_pod "cycle-$1-$i" "$(ports)") || return 1
			crictl stopp "$pod" && remove_pod "$pod" || return 1
		done
	}
	cycle a 3>&- &
	cycle b
	wait $!
	[ ! "$(find "/var/lib/cni/networks/$NET" -name '10.*')" ]
	assert_host_unchanged
}

@test "a plugin that outlives bulkheadd is waited for: what it holds in the end is given back" {
	mkdir "$FT/gate/lease"
	hold ADD
	pod_config outlived >"$FT/outlived.json"
	crictl runp "$FT/outlived.json" >/dev/null 2>&1 3>&- &
	eventually 60 test -e "$FT/gate/in-ADD"
	kill_bulkheadd
	{
		sleep 1.5
		let_go ADD
	} 3>&- &
	start_bulkheadd
	wait
	eventually 30 eval '[ -z "$(crictl pods -q)" ]'
	eventually 10 eval '[ -z "$(ls "$FT/gate/lease")" ]'
	rmdir "$FT/gate/lease"
	assert_host_unchanged
}

@test "bulkheadd killed within DEL leaves none either, once the pod is removed" {
	for ((i = 0; i < ${NETWORK_KILLS:-2}; i++)); do
		pod=$(run_pod "del$i" "$(ports)")
		kill_within DEL stopp "$pod"
		start_bulkheadd
		remove_pod "$pod"
		assert_host_unchanged
	done
}

@test "a plugin that fails at DEL is told of and tried again; what it holds stays its pod's until it works" {
	pod=$(run_pod failing "$(ports)")
	address=$(pod_field "$pod" .network.ip)
	touch "$FT/gate/fail-DEL"
	refused Unknown "CNI plugin 'gate' DEL: error 11" crictl stopp "$pod"
	refused Unknown "not now" crictl rmp "$pod"
	[ -n "$(own_netns)" ]
	rm "$FT/gate/fail-DEL"
	crictl stopp "$pod"
	remove_pod "$pod"
	[ ! -e "/var/lib/cni/networks/$NET/$address" ]
	assert_host_unchanged
}

@test "a plugin that goes on failing keeps no pod from being removed; the next start gives back what it held" {
	pod=$(run_pod stuck "$(ports)")
	touch "$FT/gate/fail-DEL"
	for ((i = 0; i < 4; i++)); do
		refused Unknown "not now" crictl stopp "$pod"
	done
	crictl stopp "$pod"
	remove_pod "$pod"
	[ -z "$(own_netns)" ]
	grep -q ' error network not released.*not now' "$D/log"
	restart_bulkheadd
	grep -q ' error unknown network not released' "$D/log"
	rm "$FT/gate/fail-DEL"
	restart_bulkheadd
	assert_host_unchanged
}

@test "a plugin that hangs is ended at its time-out: a pod that was to be leaves nothing, a removal is tried again" {
	sed -i 's/plugin_timeout_ms: .*/plugin_timeout_ms: 5000/' "$D/config.yaml"
	restart_bulkheadd
	hold ADD
	refused DeadlineExceeded "CNI plugin 'gate' ADD: run '$FT/plugins/gate': no end within 5000 ms" run_pod hangs "$(ports)"
	let_go ADD
	[ -z "$(crictl pods -q)" ]
	assert_consistent
	assert_host_unchanged

	pod=$(run_pod hangs "$(ports)")
	hold DEL
	refused DeadlineExceeded "CNI plugin 'gate' DEL" crictl stopp "$pod"
	refused DeadlineExceeded "CNI plugin 'gate' DEL" crictl rmp "$pod"
	[ ! "$(pgrep -f "$FT/plugins/gate")" ]
	let_go DEL
	assert_consistent
	crictl stopp "$pod"
	remove_pod "$pod"
	assert_host_unchanged
	sed -i 's/plugin_timeout_ms: .*/plugin_timeout_ms: 300000/' "$D/config.yaml"
	restart_bulkheadd
}

@test "where ADD fails, and DEL too, the pod stays to be removed, with its namespace, and then leaves nothing" {
	touch "$FT/gate/fail-ADD" "$FT/gate/fail-DEL"
	refused Unknown "CNI plugin 'gate' ADD: error 11" run_pod unlucky "$(ports)"
	pod=$(crictl pods -q)
	[ "$(pod_field "$pod" .state)" = SANDBOX_NOTREADY ]
	[ -n "$(own_netns)" ]
	refused Unknown "not now" crictl rmp "$pod"
	rm "$FT/gate/fail-ADD" "$FT/gate/fail-DEL"
	crictl stopp "$pod"
	remove_pod "$pod"
	assert_host_unchanged
}

@test "a pod whose namespace somebody removed and whose QEMU is gone gives its address and ports back" {
	pod=$(run_pod robbed "$(ports)")
	umount -l "$(own_netns)"
	rm "$(own_netns)"
	kill -KILL "$(own_processes | awk '/qemu/ {print $1}')"
	eventually 20 eval '[ "$(pod_field "$pod" .state)" = SANDBOX_NOTREADY ]'
	crictl stopp "$pod"
	[ ! "$(find "/var/lib/cni/networks/$NET" -name '10.*')" ]
	run iptables-save -t nat
	[[ $output != *"--to-destination $SUBNET."* ]]
	remove_pod "$pod"
	# What bridge knew from the namespace alone, for whom it masquerades, it has left.
	while read -r rule; do
		eval "iptables -t nat -D ${rule#-A }"
		iptables -t nat -F "${rule##* }"
		iptables -t nat -X "${rule##* }"
	done < <(grep "^-A POSTROUTING -s $SUBNET\..* -j CNI-" <<<"$output")
}

waiting() {
	crictl info | jq .config.podsWaiting
}

# runp_aside NAME [OPTION…]: asks for a pod in the background; what crictl says is in its file.
runp_aside() {
	local name=$1
	shift
	pod_config "$name" >"$FT/$name.json"
	"$TOOLS/crictl" --config "$D/crictl.yaml" "$@" runp "$FT/$name.json" >"$FT/$name.said" 2>&1 3>&- &
}

@test "pods beyond those that start wait for their turn: who goes away leaves, others are answered, a stop ends the wait" {
	hold ADD
	runp_aside turn1
	runp_aside turn2
	eventually 60 eval '[ "$(own_netns | wc -l)" -eq 2 ]'
	runp_aside turn3
	client=$!
	eventually 30 eval '[ "$(waiting)" -eq 1 ]'
	refused Unknown exists crictl runp "$FT/turn3.json"
	runp_aside turn4 --timeout 2s
	[ -z "$(crictl pods -q)" ]
	wait $! || true
	grep -q DeadlineExceeded "$FT/turn4.said"
	eventually 10 eval '[ "$(waiting)" -eq 1 ]'
	kill -KILL "$client"
	eventually 10 eval '[ "$(waiting)" -eq 0 ]'
	runp_aside turn5
	client=$!
	eventually 30 eval '[ "$(waiting)" -eq 1 ]'
	[ "$(own_netns | wc -l)" -eq 2 ]
	kill -TERM "$(cat "$D/pid")"
	wait "$client" || true
	grep -q "code = Canceled.*turn: nothing is begun any more" "$FT/turn5.said"
	rm "$FT/gate/hold-ADD"
	wait_bulkheadd 60
	wait
	rm -f "$FT/gate/in-ADD"
	start_bulkheadd
	remove_all_pods
	assert_host_unchanged
}
