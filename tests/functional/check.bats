#!/usr/bin/env bats
# What `bulkheadctl check` says of a host and a configuration, without a bulkheadd.

load lib/bulkheadd

setup() {
	W=$(mktemp -d /tmp/bulkhead-check.XXXXXX)
	chmod 0755 "$W" # to machines' users, too
	mkdir "$W/cni" "$W/bin" "$W/lib"
	touch "$W/lib/vmlinux" "$W/lib/initramfs"
	install -m 0755 /bin/true "$W/bin/there"
	local helper
	for helper in virtiofsd bulkhead-vsock bulkhead-console bulkhead-unpack; do
		cp "$W/bin/there" "$W/lib/$helper"
	done
	cat >"$W/config.yaml" <<-END
		state_dir: $W/state
		run_dir: $W/run
		hypervisor:
		  kernel: $W/lib/vmlinux
		  initramfs: $W/lib/initramfs
		  virtiofsd: $W/lib/virtiofsd
		  vsock_helper: $W/lib/bulkhead-vsock
		network:
		  conf_dir: $W/cni
		  bin_dirs: $W/bin
		images:
		  unpack_helper: $W/lib/bulkhead-unpack
	END
}

teardown() {
	rm -rf "${W:?}"
}

# says FINDING SUBJECT [TEXT]: ok, warn or missing.
says() {
	LC_ALL=C "$BUILD/cri-server/cli/bulkheadctl" check --config "$W/config.yaml" >"$W/said" || true
	grep -E "^$1 +$2 " "$W/said" | grep -F -- "${3:-}" || {
		cat "$W/said"
		return 1
	}
}

# conflist TYPE ADDRESSES
conflist() {
	printf '{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "%s", "ipam": {"type": "%s"}}]}\n' "$1" "$2"
}

@test "the network is the one that pods would have: its file, and each of its plugins" {
	says missing "cni config" "no CNI configuration"
	conflist there there >"$W/cni/.10-hidden.conflist"
	says missing "cni config" "no CNI configuration"
	echo '{"name": ' >"$W/cni/20-n.conflist"
	says missing "cni config" "$W/cni/20-n.conflist"
	conflist there there >"$W/cni/20-n.conflist"
	says ok "cni config" "'n'"
	says ok "cni plugins"
	conflist there no-such-plugin >"$W/cni/20-n.conflist"
	says missing "cni plugins" no-such-plugin
}

@test "each program and file that the configuration names is looked for where it names it" {
	local name
	for name in virtiofsd kernel initramfs; do
		says ok "$name" "$W/lib/"
	done
	chmod 0700 "$W/lib"
	says missing kernel "cannot read it"
	chmod 0755 "$W/lib"
	for name in bulkhead-vsock bulkhead-console bulkhead-unpack; do
		says ok helper "$W/lib/$name"
		rm "$W/lib/$name"
		says missing helper "$W/lib/$name: No such file"
	done
	rm "$W/lib/"*
	says missing virtiofsd "$W/lib/virtiofsd: No such file"
	says missing kernel "$W/lib/vmlinux: No such file"
	says missing initramfs "$W/lib/initramfs: No such file"
	says ok mke2fs
}
