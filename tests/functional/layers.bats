#!/usr/bin/env bats
# From layers to the tree that a container sees: random images (tests/layers/generate.c), compared with what umoci, an
# unpacker that shares no code with ours, makes of them. LAYERS_SEED and LAYERS_ROUNDS choose others.

load lib/bulkheadd

setup_file() {
	instance_setup
	start_bulkheadd
	export SEED=${LAYERS_SEED:-1} ROUNDS=${LAYERS_ROUNDS:-15}
	echo "# the first seed is $SEED" >&3
}

teardown_file() {
	instance_teardown
}

setup() {
	export W=$FT/work
	mkdir "$W"
}

teardown() {
	rm -rf "$W"
}

# make_image SEED: a random image $W/img:x; its layers as $W/0.tar…; umoci's tree in $W/rootfs.
make_image() {
	rm -rf "${W:?}"/*
	N=$("$BUILD/tests/layers/layer-generate" "$1" "$W") && umoci init --layout "$W/img" &&
		umoci new --image "$W/img:x" || return 1
	local i
	for ((i = 0; i < N; i++)); do
		add_layer "$W/img:x" "$W/$i.tar" || return 1
	done
	umoci raw unpack --image "$W/img:x" "$W/rootfs" >"$W/log" 2>&1 || cat "$W/log"
	"$BUILD/tests/layers/layer-list" "$W/rootfs" >"$W/theirs"
}

# What the agent's code makes of the images that bulkhead-unpack makes.
list_overlay() {
	local i out devices=() files=() code=0
	for ((i = 0; i < N; i++)); do
		out=$("$FT/bin/bulkhead-unpack" "$W/$i.tar" "$W/$i.erofs" 100000000 100000) || return 1
		[[ $out != *" opaque" ]] || files=()
		files+=("$W/$i.erofs")
	done
	for i in "${files[@]}"; do
		devices+=("$(losetup --find --show --read-only "$i")")
	done
	"$BUILD/tests/layers/layer-overlay" "${devices[@]}" || code=1
	losetup --detach "${devices[@]}"
	return "$code"
}

# The agent makes mount points in the root, which changes its time.
without_mounts() {
	grep -vE '^/(dev|etc|proc|sys|layer-list)[/ ]' | sed -e '1s/mtime=[^ ]*//' -e 's/ file=[0-9]*//'
}

@test "the layers of random images show the tree that umoci unpacks" {
	for ((seed = SEED; seed < SEED + ROUNDS; seed++)); do
		make_image "$seed"
		list_overlay >"$W/ours"
		diff "$W/theirs" "$W/ours" || {
			echo "the seed is $seed"
			return 1
		}
	done
}

@test "so do containers" {
	pod=$(run_pod random)
	install -D -m 0755 "$BUILD/tests/layers/layer-list" "$FT/lister/layer-list"
	tar -C "$FT/lister" -cf "$FT/lister.tar" layer-list
	for seed in "$SEED" $((SEED + 1)) $((SEED + 2)); do
		make_image "$seed"
		add_layer "$W/img:x" "$FT/lister.tar"
		IMAGE=oci:$W/img:x
		crictl pull "$IMAGE"
		id=$(run_container "$pod" "c$seed" '.command = ["/layer-list", "/."]')
		[ "$(finish "$id")" -eq 0 ]
		diff <(without_mounts <"$W/theirs") <(output_of random "c$seed" | without_mounts) || {
			echo "the seed is $seed"
			return 1
		}
	done
	remove_pod "$pod"
}

@test "an image of 127 layers runs" {
	make_busybox_layout "$FT/img" many
	for ((i = 1; i < 127; i++)); do
		echo "$i" >"$W/top"
		echo "$i" >"$W/own-$i"
		tar -C "$W" -cf "$W/layer" top "own-$i"
		umoci raw add-layer --image "$FT/img:many" "$W/layer"
	done
	IMAGE=oci:$FT/img:many
	crictl pull "$IMAGE"
	pod=$(run_pod many)
	run run_once "$pod" many c 'cat /top; ls / | grep -c own-; cat /own-1'
	echo "$output"
	[ "$status" -eq 0 ]
	[ "$output" = "$(printf '126\n126\n1')" ]
	remove_pod "$pod"
}
