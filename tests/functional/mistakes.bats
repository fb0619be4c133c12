#!/usr/bin/env bats
# Every mistake of lib/mistakes.bash is answered as docs/errors.md says. RUNTIME=containerd asks containerd
# the same: that is where the page's column of containerd comes from. RECORD=FILE writes what was answered.

load lib/bulkheadd
load lib/containerd
load lib/mistakes

RUNTIME=${RUNTIME:-bulkheadd}
COLUMN=4
[ "$RUNTIME" = bulkheadd ] || COLUMN=3

setup_file() {
	instance_setup
	registries
	export IMAGE=127.0.0.1:$REGISTRY/busybox:latest
	if [ "$RUNTIME" = containerd ]; then
		start_containerd "127.0.0.1:$REGISTRY/pause:latest"
	else
		start_bulkheadd
	fi
	crictl pull "$IMAGE"
	mistakes_setup
}

teardown_file() {
	[ "$RUNTIME" = bulkheadd ] || stop_containerd
	stop_registry "$FT/registry"
	stop_registry "$FT/guarded"
	instance_teardown
}

# One with busybox, pause and what is malformed, and one that asks who one is.
registries() {
	local data digest
	export REGISTRY=$((24000 + ${NET#bhft}))
	export GUARDED=$((REGISTRY + 250))
	make_busybox_layout "$FT/img" >/dev/null
	make_busybox_layout "$FT/img" pause >/dev/null
	configure_image "$FT/img:pause" --config.cmd sleep --config.cmd 1000000000
	make_busybox_layout "$FT/img" layer >/dev/null
	htpasswd -bBc "$FT/htpasswd" tester secret
	start_registry "$FT/registry" "$REGISTRY"
	start_registry "$FT/guarded" "$GUARDED" "$FT/htpasswd"
	push_image "$FT/img:latest" "127.0.0.1:$REGISTRY/busybox:latest"
	push_image "$FT/img:pause" "127.0.0.1:$REGISTRY/pause:latest"
	push_image "$FT/img:latest" "127.0.0.1:$GUARDED/busybox:latest" --dest-creds tester:secret
	# The manifest's layer is one that the registry has, and no archive.
	data=$(mktemp "$FT/blob.XXXXXX")
	head -c 4096 /dev/urandom >"$data"
	put_malformed "$data"
}

# put_malformed LAYER: an image whose layer is this file, and a manifest that is none.
put_malformed() {
	local base=http://127.0.0.1:$REGISTRY/v2/malformed layer config url type
	type=application/vnd.docker.distribution.manifest.v2+json
	echo '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:'"$(
		sha256sum <"$1" | cut -c1-64)"'"]}}' >"$1.config"
	layer=$(put_blob "$base" "$1")
	config=$(put_blob "$base" "$1.config")
	jq -n --arg layer "$layer" --argjson size 4096 --arg config "$config" --argjson config_size \
		"$(stat -c %s "$1.config")" --arg type "$type" '{schemaVersion: 2, mediaType: $type, config:
		{mediaType: "application/vnd.docker.container.image.v1+json", size: $config_size,
		 digest: $config}, layers: [{mediaType:
		 "application/vnd.docker.image.rootfs.diff.tar.gzip", size: $size, digest: $layer}]}' \
		>"$1.manifest"
	curl -fsS -X PUT -H "Content-Type: $type" --data-binary "@$1.manifest" "$base/manifests/layer"
	# The registry itself refuses one: what it keeps is overwritten.
	jq '. + {annotations: {a: "b"}}' "$1.manifest" >"$1.other"
	curl -fsS -X PUT -H "Content-Type: $type" --data-binary "@$1.other" "$base/manifests/manifest"
	local sum
	sum=$(sha256sum <"$1.other" | cut -c1-64)
	echo '{"schemaVersion": 2, "layers": "none"' >"$FT/registry/data/docker/registry/v2/blobs/sha256/${sum:0:2}/$sum/data"
}

# put_blob BASE FILE: prints its digest.
put_blob() {
	local url digest
	digest=sha256:$(sha256sum <"$2" | cut -c1-64)
	url=$(curl -fsS -X POST -D - -o /dev/null "$1/blobs/uploads/" | tr -d '\r' |
		sed -n 's/^[Ll]ocation: //p')
	curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" \
		"$url&digest=$digest" && echo "$digest"
}

# expected CASE: what the page says.
expected() {
	awk -F ' *[|] *' -v mistake="$1" -v column="$COLUMN" '$2 == mistake {print $column}' \
		"$REPOSITORY/docs/errors.md"
}

# without_numbers TEXT: on one line, what differs from run to run taken out, as the page has it.
without_numbers() {
	sed -z -e 's/\n$//; s/\n/ /g' -e "s,$FT,…,g; s/\b$NET\b/…/g" -E \
		-e 's/[0-9a-f]{32,64}/…/g; s/127\.0\.0\.1:[0-9]{5}/…/g; s/[0-9.]+:[0-9]+->/…->/g' \
		-e 's/\|/\\|/g; s/pod-[0-9]+/…/g'
}

@test "each mistake gets the code and the message that the page promises" {
	wrong=0
	while read -r -u 4 case; do
		answer=$(mistake "$case" 4<&- | without_numbers)
		[ -z "${RECORD:-}" ] || echo "| $case | $answer |" >>"$RECORD"
		wanted=$(expected "$case")
		# bulkheadd's message stands there whole, of containerd's the code.
		if [ "$RUNTIME" = containerd ]; then
			answer=${answer%% *} wanted=${wanted%% *}
		fi
		if [ "$answer" != "$wanted" ]; then
			printf '%s\n  answer: %s\n  page:   %s\n' "$case" "$answer" "$wanted"
			wrong=1
		fi
	done 4< <(mistakes)
	[ "$wrong" = 0 ]
}

@test "the page has no case that is not tried" {
	diff <(mistakes | sort) \
		<(sed -n -e 's/^| \([A-Z][A-Za-z]*: [^|]*[^ ]\) *|.*/\1/p' "$REPOSITORY/docs/errors.md" | sort)
}
