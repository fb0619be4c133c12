#!/usr/bin/env bats
# bulkheadd is killed at random moments of pulls and removals, again and again. After each start all that is
# recorded is whole and nothing else is there. CRASH_ROUNDS says how often; CRASH_SEED, printed, repeats the
# same choices, though not the same instructions.

load lib/bulkheadd

setup_file() {
	instance_setup
	export PORT=$((20000 + ${NET#bhft}))
	export ROUNDS=${CRASH_ROUNDS:-200} SEED=${CRASH_SEED:-$RANDOM}
	export REGISTRY=127.0.0.1:$PORT STORE=$D/state/images
	make_busybox_layout "$FT/img" >/dev/null
	start_registry "$FT/registry" "$PORT"
	# Two share a layer of two, one has a large one of its own.
	make_image one 20000 300000
	make_image two 30000
	make_image three 2000000
	echo "# seed $SEED, $ROUNDS rounds" >&3
	start_bulkheadd
}

teardown_file() {
	stop_registry "$FT/registry"
	instance_teardown
}

# make_image NAME BYTES…: busybox and a layer of so many random bytes for each.
make_image() {
	local name=$1 bytes root=$FT/root-$1
	umoci tag --image "$FT/img:latest" "$name"
	for bytes in "${@:2}"; do
		rm -rf "$root"
		mkdir -p "$root/data/$bytes"
		head -c "$bytes" /dev/urandom >"$root/data/$bytes/$name"
		tar_tree "$root" "$root.tar"
		add_layer "$FT/img:$name" "$root.tar"
	done
	push_image "$FT/img:$name" "$REGISTRY/$name:1"
}

# One of them, at random.
any_image() {
	local names=(one two three)
	echo "$REGISTRY/${names[$1 % 3]}:1"
}

# Starts pulls and removals, and kills bulkheadd while they run.
work_and_kill() {
	local pids=() n=$((1 + RANDOM % 3)) i
	for ((i = 0; i < n; i++)); do
		if [ $((RANDOM % 3)) -eq 0 ]; then
			ctl rmi "$(any_image "$RANDOM")" >/dev/null 2>&1 3>&- &
		else
			ctl pull "$(any_image "$RANDOM")" >/dev/null 2>&1 3>&- &
		fi
		pids+=($!)
	done
	sleep "0.$(printf %03d $((RANDOM % 600)))"
	[ -z "$(ls -A "$STORE/tmp")" ] || hits=$((hits + 1))
	kill_bulkheadd
	wait "${pids[@]}" || true
}

children_are_gone() {
	[ -z "$(own_processes)" ]
}

start_quickly() {
	local i
	rm -f "$D/run/bulkhead.sock"
	launch_bulkheadd
	for ((i = 0; i < 1500; i++)); do
		[ ! -S "$D/run/bulkhead.sock" ] || return 0
		sleep 0.02
	done
	tail -n 20 "$D/log" >&2
	return 1
}

# The store's files and records are each other's.
check_store() {
	rm -f "$FT/copy.db"*
	sqlite3 -cmd '.timeout 5000' "$D/state/state.db" ".backup $FT/copy.db"
	"$BUILD/tests/functional/image_check" "$FT/copy.db" "$STORE"
}

# All can be pulled, and no blob that is there is asked for again.
pull_again() {
	local name layer before
	before=$(wc -c <"$FT/registry/log")
	# skopeo reads every image's configuration, which is small; so is the manifest.
	find "$STORE/blobs/sha256" -type f -size +8k -printf '%f\n' >"$FT/whole" 2>/dev/null || true
	for name in one two three; do
		ctl pull "$REGISTRY/$name:1" >/dev/null
	done
	tail -c "+$before" "$FT/registry/log" | grep -o '"GET /v2/[a-z]*/blobs/sha256:[0-9a-f]*' >"$FT/asked" || true
	run grep -f "$FT/whole" "$FT/asked"
	[ "$status" -eq 1 ]
	[ "$(check_store)" = "images: 3" ]
	for layer in "$STORE"/layers/*; do
		fsck.erofs "$layer" >/dev/null
	done
}

@test "kill -9 at random moments: what is recorded is whole, nothing else is left, and pulls go on" {
	local round
	hits=0
	RANDOM=$SEED
	for ((round = 1; round <= ROUNDS; round++)); do
		echo "round $round of $ROUNDS, seed $SEED"
		work_and_kill
		eventually 20 children_are_gone
		start_quickly
		check_store
		[ $((round % 10)) -ne 0 ] || pull_again
	done
	echo "# $hits of $ROUNDS kills met a pull at work" >&3
	[ "$hits" -ge $((ROUNDS / 20)) ]
	pull_again
	export IMAGE=$REGISTRY/one:1
	pod=$(run_pod whole)
	[ "$(run_once "$pod" whole run 'cat /data/*/one | wc -c')" -eq 320000 ]
	remove_pod "$pod"
}
