#!/usr/bin/env bats
# The host's wall clock jumps by a day, forwards and back, while calls run: what waits goes on waiting as long as
# it was told, times are those of the new clock, and guests get it. Only bulkheadd's own clock is moved.

load lib/bulkheadd

# The last of those that execute one another.
bulkheadd_was_executed() {
	! kill -0 "$1" 2>/dev/null ||
		{ grep -qsx bulkheadd.real "/proc/$1/comm" && grep -qs config.yaml "/proc/$1/cmdline"; }
}

setup_file() {
	local runtime
	instance_setup
	head -c 8 /dev/zero >"$FT/shift"
	mv "$FT/bin/bulkheadd" "$FT/bin/bulkheadd.real"
	# A sanitizer's runtime must come before anything else that is preloaded.
	runtime=$(ldd "$FT/bin/bulkheadd.real" | awk '/lib[at]san\.so/ {print $3}')
	cat >"$FT/bin/bulkheadd" <<-END
		#!/bin/sh
		exec env CLOCK_SHIFT_FILE=$FT/shift LD_PRELOAD="$runtime $BUILD/tests/functional/clock_shift.so" $FT/bin/bulkheadd.real "\$@"
	END
	chmod 0755 "$FT/bin/bulkheadd"
	start_bulkheadd
	pull_busybox
	crictl events -o json >"$D/events" 2>"$D/events.err" 3>&- &
	LISTENER=$!
	POD=$(run_pod clock)
	C=$(run_script "$POD" counter 'i=0; while :; do echo $i; i=$((i + 1)); sleep 0.1; done')
	export POD C LISTENER
}

teardown_file() {
	[ -n "${FT:-}" ] || return 0
	kill "$LISTENER" 2>/dev/null || true
	instance_teardown
}

# jump SECONDS: bulkheadd's clock is so far from the host's from now on; in place, as it is mapped.
jump() {
	local n=$1 i bytes=""
	for ((i = 0; i < 8; i++)); do
		bytes+=$(printf '\\x%02x' $((n >> (8 * i) & 255)))
	done
	# shellcheck disable=SC2059 # it is a format, of escapes
	printf "$bytes" | dd of="$FT/shift" conv=notrunc status=none
}

# near SECONDS-SINCE-1970: that is now by the clock that was moved by SHIFT, give or take a minute.
near() {
	local off=$(($1 - $(date +%s) - SHIFT))
	[ "$off" -gt -60 ] && [ "$off" -lt 60 ]
}

guest_follows() {
	near "$(crictl exec -s "$C" date +%s)"
}

stopped_was_told() {
	jq -e --arg id "$1" 'select(.containerId == $id and .containerEventType == "CONTAINER_STOPPED_EVENT")' "$D/events"
}

log_follows() {
	near "$(date -d "$(tail -n 1 "$D/logs/clock/counter.log" | cut -d' ' -f1)" +%s)"
}

are_under_way() {
	crictl exec -s "$C" sh -c '[ -e /short ] && [ -e /long ]' && grep -q ending "$1"
}

# jumps SECONDS NAME: what waits while the clock jumps there, and what is new afterwards.
jumps() {
	local short long stop polite id begin=$EPOCHSECONDS
	polite=$(run_script "$POD" "$2-polite" '
		trap "echo ending; until [ -e /go ]; do sleep 0.1; done; exit 7" TERM
		echo ready; while :; do sleep 0.1; done')
	crictl exec -s "$C" rm -f /short /long /go
	eventually 20 grep -q ready "$D/logs/clock/$2-polite.log"
	crictl exec -s --timeout 10 "$C" sh -c '>/short; sleep 100' >"$FT/short" 2>&1 3>&- &
	short=$!
	crictl exec -s --timeout 100 "$C" sh -c '>/long; until [ -e /go ]; do sleep 0.1; done; echo all' \
		>"$FT/long" 2>&1 3>&- &
	long=$!
	crictl stop -t 100 "$polite" >/dev/null 2>&1 3>&- &
	stop=$!
	eventually 60 are_under_way "$D/logs/clock/$2-polite.log"
	SHIFT=$1
	jump "$1"

	eventually 60 guest_follows
	[ "$(crictl exec "$C" echo streamed)" = streamed ]
	id=$(run_script "$POD" "$2-new" 'exit 3')
	[ "$(finish "$id")" = 3 ]
	near "$(date -d "$(container_field "$id" .createdAt)" +%s)"
	near "$(date -d "$(container_field "$id" .finishedAt)" +%s)"
	eventually 20 stopped_was_told "$id"
	eventually 20 log_follows

	# It ends with its container, which may be before it ended by itself.
	crictl exec -s "$polite" touch /go || true
	crictl exec -s "$C" touch /go
	wait "$long"
	[ "$(cat "$FT/long")" = all ]
	wait "$stop"
	[ "$(container_field "$polite" .exitCode)" = 7 ]
	! wait "$short" || false
	[ $((EPOCHSECONDS - begin)) -ge 10 ]
	grep DeadlineExceeded "$FT/short"
	eventually 40 stopped_was_told "$polite"
	output_of clock counter | awk '$0 != NR - 1 {print NR ": " $0; exit 1}'
	crictl rm "$id" "$polite"
	assert_consistent
}

@test "the clock jumps forwards by a day" {
	jumps 86400 forwards
}

@test "the clock jumps back by two days" {
	jumps -86400 back
}

@test "a restart finds its pods, whose times are in the future" {
	jump 0
	SHIFT=0
	stop_bulkheadd
	jump -86400
	SHIFT=-86400
	start_bulkheadd
	eventually 60 guest_follows
	eventually 20 log_follows
	[ "$(crictl exec "$C" echo streamed)" = streamed ]
}
