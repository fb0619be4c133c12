# What measuring pulls takes: two images, a registry that has them, a containerd. To be sourced after
# tests/functional/lib/images.bash. Each function returns non-zero when something fails.

PULL_LAYERS=8
PULL_MIB=300

# pull_make_layers DIR: tar files of this host's own programs, libraries and data: PULL_LAYERS of
# PULL_MIB together, and one more.
pull_make_layers() {
	local dir=$1 i
	(cd / && find usr/lib usr/share usr/bin -xdev -type f -size -8M -printf '%s %p\n' 2>/dev/null) |
		awk -v dir="$dir" -v size="$((PULL_MIB * 1048576 / PULL_LAYERS))" -v last="$PULL_LAYERS" '{
			i = int(sum / size)
			sum += $1
			sub(/^[0-9]+ /, "")
			if (i <= last) print >(dir "/list." i)
		}'
	for ((i = 0; i <= PULL_LAYERS; i++)); do
		tar --create --file "$dir/layer.$i.tar" --directory / --no-recursion \
			--numeric-owner --files-from "$dir/list.$i" || return 1
	done
}

# pull_make_images DIR HOST:PORT: pushes first:1, and shared:1, which has another last layer.
pull_make_images() {
	local dir=$1 registry=$2 i last=$((PULL_LAYERS - 1))
	pull_make_layers "$dir" && umoci init --layout "$dir/layout" &&
		umoci new --image "$dir/layout:shared" || return 1
	for ((i = 0; i < last; i++)); do
		add_layer "$dir/layout:shared" "$dir/layer.$i.tar" || return 1
	done
	umoci tag --image "$dir/layout:shared" first &&
		add_layer "$dir/layout:first" "$dir/layer.$last.tar" &&
		add_layer "$dir/layout:shared" "$dir/layer.$PULL_LAYERS.tar" &&
		push_image "$dir/layout:first" "$registry/first:1" &&
		push_image "$dir/layout:shared" "$registry/shared:1" &&
		rm -rf "$dir"/layer.* "$dir"/list.* "$dir/layout"
}

# pull_start_containerd DIR: with the CRI plugin and all its files below DIR; prints its process id
# when it serves DIR/containerd.sock.
pull_start_containerd() {
	local dir=$1 pid i
	cat >"$dir/containerd.toml" <<-END
		version = 2
		root = "$dir/containerd"
		state = "$dir/containerd-run"
		[grpc]
		  address = "$dir/containerd.sock"
		[plugins."io.containerd.grpc.v1.cri".containerd]
		  snapshotter = "overlayfs"
	END
	setsid containerd --config "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 </dev/null &
	pid=$!
	for ((i = 0; i < 100; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		! ctr --address "$dir/containerd.sock" version >/dev/null 2>&1 || {
			echo "$pid"
			return 0
		}
		sleep 0.1
	done
	tail -n 5 "$dir/containerd.log" >&2
	return 1
}
