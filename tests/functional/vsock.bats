#!/usr/bin/env bats
# The vsock device with a real QEMU and a guest kernel's driver: guest/vsock_echo.c is the guest's PID 1,
# vsock_client.c the client on the host. Without a kernel or QEMU only the program by itself is tested.

REPOSITORY=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
BUILD=${BULKHEAD_BUILD:-$REPOSITORY/build/${VARIANT:-release}}
CLIENT=$BUILD/tests/functional/vsock_client

setup_file() {
	export DIR CONSOLE KERNEL
	DIR=$(mktemp -d)
	CONSOLE=$DIR/console
	KERNEL=${BULKHEAD_KERNEL:-$REPOSITORY/build/guest/vmlinux}
	chmod 711 "$DIR"
	if [ -r "$KERNEL" ] && command -v qemu-system-x86_64 >/dev/null; then
		"$REPOSITORY/guest-image/build-initramfs" \
			"$BUILD/tests/functional/vsock_echo" "$DIR/initramfs.cpio"
		start_device main
		start_qemu
	fi
}

teardown_file() {
	local file
	for file in "$DIR"/*.pid; do
		[ ! -e "$file" ] || kill -KILL "$(cat "$file")" 2>/dev/null || true
	done
	rm -rf "$DIR"
}

# wait_for SECONDS COMMAND…
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.05
	done
}

# start_device NAME: as $DIR/NAME.vhost and $DIR/NAME.vsock, unprivileged where it can be. Its exit code will
# be in $DIR/NAME.code.
start_device() {
	local user=()
	[ "$(id -u)" -ne 0 ] || user=(--user 65534:65534)
	: >"$DIR/$1.ready"
	(
		"$BUILD/hypervisor/vsock/bulkhead-vsock" --vhost-socket "$DIR/$1.vhost" \
			--listen "$DIR/$1.vsock" --cid 42 "${user[@]}" \
			>"$DIR/$1.ready" 2>"$DIR/$1.log" 3>&- &
		echo $! >"$DIR/$1.pid"
		code=0
		wait $! || code=$?
		echo "$code" >"$DIR/$1.code"
	) 3>&- &
	wait_for 30 grep -q ready "$DIR/$1.ready"
}

start_qemu() {
	qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
		-machine q35,memory-backend=mem -accel tcg -cpu max -m 256 \
		-object memory-backend-memfd,id=mem,size=256M,share=on \
		-kernel "$KERNEL" -initrd "$DIR/initramfs.cpio" \
		-append "console=ttyS0 quiet panic=-1" -serial "file:$CONSOLE" \
		-chardev "socket,id=vsock,path=$DIR/main.vhost" \
		-device vhost-user-vsock-pci,chardev=vsock >"$DIR/qemu.log" 2>&1 3>&- &
	echo $! >"$DIR/qemu.pid"
	disown
	wait_for 60 grep -q listening "$CONSOLE" || {
		cat "$CONSOLE" "$DIR/qemu.log" "$DIR/main.log"
		return 1
	}
}

guest() {
	[ -e "$DIR/qemu.pid" ] || skip "no guest kernel (make kernel, or BULKHEAD_KERNEL) or no QEMU"
	timeout 60 "$CLIENT" "$DIR/main.vsock" "$@"
}

@test "the device ends with 0 when QEMU closes its connection" {
	start_device closed
	"$CLIENT" "$DIR/closed.vhost" vhost
	wait_for 30 test -s "$DIR/closed.code"
	[ "$(cat "$DIR/closed.code")" -eq 0 ]
	[ ! -s "$DIR/closed.log" ]
}

@test "the device ends with 1 and a reason when QEMU talks nonsense" {
	start_device nonsense
	"$CLIENT" "$DIR/nonsense.vhost" vhost "this is no vhost-user message"
	wait_for 30 test -s "$DIR/nonsense.code"
	[ "$(cat "$DIR/nonsense.code")" -eq 1 ]
	grep -q 'err="message flags 0x' "$DIR/nonsense.log"
}

@test "the device has no user, capability or system call that it does not need" {
	[ -e "$DIR/main.pid" ] || skip "no guest kernel (make kernel, or BULKHEAD_KERNEL) or no QEMU"
	local status
	status=/proc/$(cat "$DIR/main.pid")/status
	grep -q '^CapEff:.0*$' "$status"
	grep -q '^CapPrm:.0*$' "$status"
	grep -q '^NoNewPrivs:.1$' "$status"
	[ "${VARIANT:-release}" != release ] || grep -q '^Seccomp:.2$' "$status"
	[ "$(id -u)" -ne 0 ] || grep -q "^Uid:.$(id -u nobody)" "$status"
}

@test "64 MiB into the guest arrive whole" {
	guest upload 64
}

@test "64 MiB from the guest arrive whole" {
	guest download 64
}

@test "who does not read stops its own stream only" {
	guest stalled 4
}

@test "a port where nobody listens is refused" {
	guest refused
}

@test "200 connections at once echo and end" {
	guest many
}

@test "the guest ends its direction first and still gets 65536 bytes" {
	guest linger
	wait_for 30 grep -q '^lingered 65536' "$CONSOLE"
}

@test "a client that goes away is the end for the guest" {
	guest watch
	wait_for 30 grep -q '^closed' "$CONSOLE"
}

@test "the guest dials ports of the host" {
	guest dial
}

@test "when QEMU dies clients see the end and the device ends with 0" {
	[ -e "$DIR/qemu.pid" ] || skip "no guest kernel (make kernel, or BULKHEAD_KERNEL) or no QEMU"
	"$CLIENT" "$DIR/main.vsock" hold >"$DIR/hold.out" 3>&- &
	local client=$!
	wait_for 30 grep -q connected "$DIR/hold.out"
	kill -KILL "$(cat "$DIR/qemu.pid")"
	wait "$client"
	wait_for 30 test -s "$DIR/main.code"
	[ "$(cat "$DIR/main.code")" -eq 0 ]
	[ ! -s "$DIR/main.log" ]
}
