# Debian's containerd with runc as the runtime of a test directory, in place of bulkheadd: what a user of
# bulkhead knows, and is measured and compared with. To be sourced after bulkheadd.bash; the same helpers
# drive it, because its socket has bulkheadd's name.
#
# Its root and state are the directory's own; its pods' namespaces and cgroups go when it ends. A containerd of the
# host's is not touched.

# start_containerd SANDBOX-IMAGE [PLUGIN-CONFIGURATION]: of the instance in use; the second is TOML
# of the CRI plugin.
start_containerd() {
	local i
	mkdir -p "$D/run"
	namespaces >"$D/namespaces"
	cat >"$D/containerd.toml" <<-END
		version = 2
		root = "$D/containerd/root"
		state = "$D/containerd/state"
		disabled_plugins = ["io.containerd.internal.v1.tracing"]
		[grpc]
		  address = "$D/run/bulkhead.sock"
		[plugins."io.containerd.internal.v1.opt"]
		  path = "$D/containerd/opt"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "$1"
		  stream_server_address = "127.0.0.1"
		  stream_server_port = "0"
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    snapshotter = "overlayfs"
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "${CNI_BIN_DIR:-/usr/lib/cni}"
		    conf_dir = "$FT/cni"
		  ${2:-}
	END
	containerd --config "$D/containerd.toml" >>"$D/log" 2>&1 </dev/null 3>&- &
	echo $! >"$D/containerd.pid"
	disown $!
	for ((i = 0; i < 300; i++)); do
		! crictl version >/dev/null 2>&1 || return 0
		sleep 0.1
	done
	echo "containerd does not answer; its log ends:" >&2
	tail -n 20 "$D/log" >&2
	return 1
}

# Ends it, its shims, what they run and mounted, and the namespaces of pods that were not removed.
stop_containerd() {
	local pid path name
	pid=$(cat "$D/containerd.pid" 2>/dev/null) || return 0
	remove_all_pods || true
	kill "$pid" 2>/dev/null || true
	eventually 20 test ! -e "/proc/$pid" || kill -KILL "$pid"
	for pid in $(grep -laF "$D/run/bulkhead.sock" /proc/[0-9]*/cmdline 2>/dev/null); do
		pid=${pid#/proc/}
		pid=${pid%/cmdline}
		# A shim that is killed leaves what it ran.
		# shellcheck disable=SC2046 # ids are words
		kill -KILL $(pgrep -P "$pid" || true) "$pid" 2>/dev/null || true
	done
	while read -r _ _ _ _ path _; do
		umount -l "$path"
	done < <(grep " $D/containerd/" /proc/self/mountinfo | tac)
	for name in $(comm -13 "$D/namespaces" <(namespaces)); do
		ip netns delete "$name" || true
	done
	for name in "$D"/containerd/state/io.containerd.runtime.v2.task/k8s.io/*; do
		find /sys/fs/cgroup -depth -type d -path "*/k8s.io/${name##*/}*" -exec rmdir {} +
	done
	rm -f "$D/containerd.pid"
}

# Those that containerd names; one of its own at a time makes them here.
namespaces() {
	find /run/netns -name 'cni-*' -printf '%f\n' 2>/dev/null | sort
}
