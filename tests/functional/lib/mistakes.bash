# The mistakes that a client of CRI can make, each one request: docs/errors.md says how containerd and
# bulkheadd answer it. To be sourced after bulkheadd.bash; mistakes.bats says how it is used.

# ask METHOD TEXT: sends the request that is given as protobuf text; prints "CODE message", or "OK".
ask() {
	local answer
	answer=$(protoc --proto_path="$REPOSITORY/cri-server/proto" --encode="runtime.v1.$1Request" cri.proto \
		<<<"$2" | raw "$1" 60) && echo OK && return
	sed -z -e 's/^code = \([A-Z_]*\) desc = /\1 /' <<<"$answer"
}

# What the cases below speak of.
mistakes_setup() {
	UNKNOWN=0123456789abcdef0123456789abcdef
	POD=$(run_pod pod) && STOPPED=$(run_pod stopped) &&
		RUNNING=$(run_container "$POD" running) &&
		CREATED=$(create_container "$POD" created) &&
		EXITED=$(run_script "$POD" exited true) &&
		IN_STOPPED=$(create_container "$STOPPED" left) &&
		finish "$EXITED" && crictl stopp "$STOPPED" || return 1
	export UNKNOWN POD STOPPED RUNNING CREATED EXITED IN_STOPPED
}

# metadata NAME: of a sandbox.
metadata() {
	echo "metadata { name: '$1' uid: '$1-uid' namespace: 'default' }"
}

# The metadata of the pod that is there.
pod_metadata() {
	jq -r '.metadata | "metadata { name: \"\(.name)\" uid: \"\(.uid)\" namespace: \"\(.namespace)\" }"' \
		"$D/pods/$POD"
}

# in_pod CONFIG-TEXT [POD-ID]: a CreateContainer; the pod's configuration is as it was.
in_pod() {
	ask CreateContainer "pod_sandbox_id: '${2-$POD}' config { $1 } sandbox_config { $(pod_metadata)
		log_directory: '$D/logs/pod' }"
}

# with_cni NAME PLUGIN-JSON: a pod of that name while the network has this as its second plugin; with ""
# there is no network at all.
with_cni() {
	mv "$FT/cni/10-$NET.conflist" "$FT/conflist"
	[ -z "$2" ] || jq --argjson plugin "$2" '.plugins[1] = $plugin' "$FT/conflist" \
		>"$FT/cni/10-$NET.conflist"
	cni_seen
	ask RunPodSandbox "config { $(metadata "$1") linux { cgroup_parent: '/bulkhead-test' } }"
	mv "$FT/conflist" "$FT/cni/10-$NET.conflist"
	cni_seen
}

# containerd watches the directory.
cni_seen() {
	[ "$RUNTIME" = bulkheadd ] || sleep 1
}

pull() {
	ask PullImage "image { image: '$1' } ${2:-}"
}

# mistake CASE: sends it. The names are the first column of the page's table.
mistake() {
	# shellcheck disable=SC2153 # of the file that tests
	local image="image { image: '$IMAGE' }" registry=127.0.0.1:$REGISTRY
	case $1 in
	"RunPodSandbox: no configuration") ask RunPodSandbox "" ;;
	"RunPodSandbox: no metadata") ask RunPodSandbox "config { hostname: 'x' }" ;;
	"RunPodSandbox: metadata without a name")
		ask RunPodSandbox "config { metadata { uid: 'u' namespace: 'n' } }" ;;
	"RunPodSandbox: metadata of a pod that is there") ask RunPodSandbox "config { $(pod_metadata) }" ;;
	"RunPodSandbox: unknown runtime handler")
		ask RunPodSandbox "config { $(metadata handler) } runtime_handler: 'no-such'" ;;
	"RunPodSandbox: no CNI configuration") with_cni none "" ;;
	"RunPodSandbox: CNI plugin missing") with_cni absent '{"type": "no-such-plugin"}' ;;
	"RunPodSandbox: CNI plugin fails")
		with_cni failing '{"type": "tuning", "sysctl": {"net.core.no_such_setting": "1"}}' ;;
	"StopPodSandbox: empty id") ask StopPodSandbox "" ;;
	"StopPodSandbox: unknown id") ask StopPodSandbox "pod_sandbox_id: '$UNKNOWN'" ;;
	"StopPodSandbox: stopped pod") ask StopPodSandbox "pod_sandbox_id: '$STOPPED'" ;;
	"RemovePodSandbox: empty id") ask RemovePodSandbox "" ;;
	"RemovePodSandbox: unknown id") ask RemovePodSandbox "pod_sandbox_id: '$UNKNOWN'" ;;
	"PodSandboxStatus: empty id") ask PodSandboxStatus "" ;;
	"PodSandboxStatus: unknown id") ask PodSandboxStatus "pod_sandbox_id: '$UNKNOWN'" ;;
	"PodSandboxStats: unknown id") ask PodSandboxStats "pod_sandbox_id: '$UNKNOWN'" ;;
	"CreateContainer: empty pod id") in_pod "metadata { name: 'x' } $image" "" ;;
	"CreateContainer: unknown pod") in_pod "metadata { name: 'x' } $image" "$UNKNOWN" ;;
	"CreateContainer: stopped pod") in_pod "metadata { name: 'x' } $image" "$STOPPED" ;;
	"CreateContainer: no metadata") in_pod "$image" ;;
	"CreateContainer: no image") in_pod "metadata { name: 'x' }" ;;
	"CreateContainer: image that is not here")
		in_pod "metadata { name: 'x' } image { image: 'no-such-image' }" ;;
	"CreateContainer: name that the pod has already") in_pod "metadata { name: 'running' } $image" ;;
	"CreateContainer: run_as_group without a user") in_pod "metadata { name: 'x' } $image
		linux { security_context { run_as_group { value: 5 } } }" ;;
	"CreateContainer: user that the image does not know") in_pod "metadata { name: 'x' } $image
		linux { security_context { run_as_username: 'nosuchuser' } }" ;;
	"CreateContainer: unknown capability") in_pod "metadata { name: 'x' } $image
		linux { security_context { capabilities { add_capabilities: 'NO_SUCH' } } }" ;;
	"StartContainer: empty id") ask StartContainer "" ;;
	"StartContainer: unknown id") ask StartContainer "container_id: '$UNKNOWN'" ;;
	"StartContainer: running container") ask StartContainer "container_id: '$RUNNING'" ;;
	"StartContainer: exited container") ask StartContainer "container_id: '$EXITED'" ;;
	"StartContainer: stopped pod") ask StartContainer "container_id: '$IN_STOPPED'" ;;
	"StartContainer: program that is missing")
		ask StartContainer "container_id: '$(create_container "$POD" missing \
			'.command = ["no-such-program"]')'" ;;
	"StopContainer: empty id") ask StopContainer "" ;;
	"StopContainer: unknown id") ask StopContainer "container_id: '$UNKNOWN'" ;;
	"StopContainer: exited container") ask StopContainer "container_id: '$EXITED'" ;;
	"RemoveContainer: empty id") ask RemoveContainer "" ;;
	"RemoveContainer: unknown id") ask RemoveContainer "container_id: '$UNKNOWN'" ;;
	"ContainerStatus: empty id") ask ContainerStatus "" ;;
	"ContainerStatus: unknown id") ask ContainerStatus "container_id: '$UNKNOWN'" ;;
	"ContainerStats: unknown id") ask ContainerStats "container_id: '$UNKNOWN'" ;;
	"UpdateContainerResources: unknown id")
		ask UpdateContainerResources "container_id: '$UNKNOWN' linux { cpu_shares: 2 }" ;;
	"ReopenContainerLog: empty id") ask ReopenContainerLog "" ;;
	"ReopenContainerLog: unknown id") ask ReopenContainerLog "container_id: '$UNKNOWN'" ;;
	"ReopenContainerLog: exited container") ask ReopenContainerLog "container_id: '$EXITED'" ;;
	"ExecSync: empty id") ask ExecSync "cmd: 'true'" ;;
	"ExecSync: unknown id") ask ExecSync "container_id: '$UNKNOWN' cmd: 'true'" ;;
	"ExecSync: created container") ask ExecSync "container_id: '$CREATED' cmd: 'true'" ;;
	"ExecSync: exited container") ask ExecSync "container_id: '$EXITED' cmd: 'true'" ;;
	"ExecSync: no command") ask ExecSync "container_id: '$RUNNING'" ;;
	"ExecSync: program that is missing") ask ExecSync "container_id: '$RUNNING' cmd: 'no-such'" ;;
	"ExecSync: longer than its timeout")
		ask ExecSync "container_id: '$RUNNING' cmd: ['sleep', '30'] timeout: 1" ;;
	"Exec: empty id") ask Exec "cmd: 'true' stdout: true" ;;
	"Exec: unknown id") ask Exec "container_id: '$UNKNOWN' cmd: 'true' stdout: true" ;;
	"Exec: exited container") ask Exec "container_id: '$EXITED' cmd: 'true' stdout: true" ;;
	"Attach: unknown id") ask Attach "container_id: '$UNKNOWN' stdout: true" ;;
	"Attach: exited container") ask Attach "container_id: '$EXITED' stdout: true" ;;
	"PortForward: unknown id") ask PortForward "pod_sandbox_id: '$UNKNOWN' port: 80" ;;
	"PortForward: stopped pod") ask PortForward "pod_sandbox_id: '$STOPPED' port: 80" ;;
	"PullImage: no image") ask PullImage "" ;;
	"PullImage: reference that is none") pull "NO:such:image" ;;
	"PullImage: unknown repository") pull "$registry/no-such-image" ;;
	"PullImage: unknown tag") pull "$registry/busybox:no-such-tag" ;;
	"PullImage: registry down") pull "127.0.0.1:1/busybox" ;;
	"PullImage: no credentials") pull "127.0.0.1:$GUARDED/busybox" ;;
	"PullImage: wrong credentials")
		pull "127.0.0.1:$GUARDED/busybox" "auth { username: 'tester' password: 'wrong' }" ;;
	"PullImage: manifest that is none") pull "$registry/malformed:manifest" ;;
	"PullImage: layer that is no archive") pull "$registry/malformed:layer" ;;
	"ImageStatus: no image") ask ImageStatus "" ;;
	"ImageStatus: unknown image") ask ImageStatus "image { image: 'no-such-image' }" ;;
	"RemoveImage: no image") ask RemoveImage "" ;;
	"RemoveImage: unknown image") ask RemoveImage "image { image: 'no-such-image' }" ;;
	*)
		echo "no such case: $1" >&2
		return 1
		;;
	esac
}

# Its own text has the list of cases.
mistakes() {
	declare -f mistake | sed -n -e 's/^ *"\([A-Z][A-Za-z]*: .*\)")$/\1/p'
}
