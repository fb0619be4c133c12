# The images that are measured. To be sourced after tests/functional/lib/images.bash. Each function returns
# non-zero when something fails.

# bench_make_images LAYOUT: busybox, the same that sleeps for containerd, and with /large of 1 GiB, which
# begins like no other file.
bench_make_images() {
	local layout=$1 tree
	tree=$(mktemp -d) || return 1
	make_busybox_layout "$layout" && umoci tag --image "$layout:latest" large &&
		umoci tag --image "$layout:latest" pause &&
		configure_image "$layout:pause" --config.cmd sleep --config.cmd 1000000000 &&
		head -c 4096 /dev/urandom >"$tree/large" &&
		truncate -s 1G "$tree/large" && tar_tree "$tree" "$tree.tar" &&
		add_layer "$layout:large" "$tree.tar"
	set -- $?
	rm -rf "$tree" "$tree.tar"
	return "$1"
}

# bench_push_images LAYOUT HOST:PORT: those for containerd.
bench_push_images() {
	push_image "$1:latest" "$2/busybox:1" && push_image "$1:pause" "$2/pause:1"
}

# What measuring pulls takes: two images and a registry that has them.
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
