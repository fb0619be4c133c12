#!/usr/bin/env bats
# Images that want out, too much, or are broken: each is refused with a code and words that say why, and leaves
# nothing. What single layers may hold is in unpack_hostile_test.c.

load lib/bulkheadd

setup_file() {
	instance_setup
	sed -i -e 's/^images:/&\n  layer_bytes_max: 50000000\n  layer_files_max: 1000\n  image_bytes_max: 90000000/' "$D/config.yaml"
	start_bulkheadd
}

teardown_file() {
	instance_teardown
}

setup() {
	export L=$FT/layout W=$FT/work
	mkdir -p "$L/blobs/sha256" "$W"
	echo '{"imageLayoutVersion": "1.0.0"}' >"$L/oci-layout"
	echo content >"$W/file"
	tar -C "$W" --mtime=@0 -cf "$W/layer" file
}

teardown() {
	crictl rmi -a >/dev/null 2>&1 || true
	rm -rf "$L" "$W"
}

# put FILE: into the layout; prints "digest size".
put() {
	local hex
	hex=$(sha256sum <"$1" | cut -d' ' -f1)
	cp "$1" "$L/blobs/sha256/$hex"
	echo "sha256:$hex $(stat -c %s "$1")"
}

# descriptor TYPE FILE: JSON that names the file, which is put.
descriptor() {
	local digest size
	read -r digest size < <(put "$2")
	jq -nc --arg d "$digest" --arg t "$1" --argjson s "$size" '{mediaType: $t, digest: $d, size: $s}'
}

OCI=application/vnd.oci.image

# index DESCRIPTOR: makes it the layout's image.
index() {
	jq -nc --argjson m "$1" '{schemaVersion: 2, manifests: [$m]}' >"$L/index.json"
}

# image [MANIFEST-FILTER [CONFIG-FILTER]]: an image with the one layer $W/layer, which is compressed if it is not,
# changed by jq filters.
image() {
	local diff compression=gzip
	case $(head -c 4 "$W/layer" | od -An -tx1) in
	" 1f 8b"*) diff=$(zcat <"$W/layer" 2>/dev/null | sha256sum) ;;
	" 28 b5 2f fd") compression=zstd diff=$(zstd -dc <"$W/layer" | sha256sum) ;;
	*)
		diff=$(sha256sum <"$W/layer")
		gzip -n "$W/layer"
		mv "$W/layer.gz" "$W/layer"
		;;
	esac
	jq -nc --arg d "sha256:${diff%% *}" '{architecture: "amd64", os: "linux", config: {Cmd: ["/file"]},
		rootfs: {type: "layers", diff_ids: [$d]}}'" | ${2:-.}" >"$W/config"
	jq -nc --argjson c "$(descriptor $OCI.config.v1+json "$W/config")" \
		--argjson l "$(descriptor $OCI.layer.v1.tar+$compression "$W/layer")" '{schemaVersion: 2,
		mediaType: "'$OCI'.manifest.v1+json", config: $c, layers: [$l]}'" | ${1:-.}" >"$W/manifest"
	index "$(descriptor $OCI.manifest.v1+json "$W/manifest")"
}

# is_refused CODE WORDS: the layout's image is, and leaves nothing.
is_refused() {
	local code=0
	refused "$1" "$2" crictl pull "oci:$L" || code=1
	[ -z "$(find "$D/state/images" -type f)" ] || code=1
	[ -z "$(ls -A "$D/state/images/tmp")" ] || code=1
	[ "$code" -eq 0 ] || find "$D/state/images"
	return "$code"
}

@test "without a fault the image of these tests is pulled" {
	image
	crictl pull "oci:$L"
	crictl rmi "oci:$L"
}

@test "manifests with wrong types, counts, sizes and digests" {
	image '.layers = {}'; is_refused Unknown layers
	image '.layers[0].digest = 7'; is_refused Unknown digest
	image '.layers[0].size = -1'; is_refused Unknown "no possible size"
	image '.layers[0].size = 1e30'; is_refused Unknown size
	image '.layers[0].size = 1152921504606846976'; is_refused Unknown "no possible size"
	image '.layers[0].digest = "sha256:../../../../etc/passwd"'; is_refused Unknown "digest"
	image '.config = null'; is_refused Unknown "the config"
	image '.config.digest = "md5:00"'; is_refused Unknown "digest"
	image '.layers += .layers'; is_refused Unknown "layers"
	image '.layers = []'; is_refused Unknown "layers"
	image '.layers = [range(200) as $_ | .layers[0]]'; is_refused Unknown "127"
	image '.layers[0].mediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip" |
		.layers[0].urls = ["http://127.0.0.1:1/layer"]'; is_refused Unknown "not supported"
	image '.layers[0].mediaType = "text/html"'; is_refused Unknown "text/html"
	image '[.]'; is_refused Unknown "array"
}

@test "configurations with wrong types and counts" {
	image . '.config = []'; is_refused Unknown "config"
	image . '.config.Env = {A: "1"}'; is_refused Unknown "Env"
	image . '.config.Entrypoint = [1]'; is_refused Unknown "Entrypoint"
	image . '.config.Volumes = ["/data"]'; is_refused Unknown "Volumes"
	image . '.config.Labels = {a: {}}'; is_refused Unknown "Labels"
	image . '.config.Env = [range(5000) | "A=1"]'; is_refused Unknown "Env"
	image . '.rootfs.diff_ids = []'; is_refused Unknown "names 0 layers"
	image . '.rootfs.diff_ids = ["sha256:0"]'; is_refused Unknown "diff id 0"
	image . '.os = "plan9"'; is_refused Unknown "plan9"
	image . '.rootfs.diff_ids = ["sha256:" + 64 * "0"]'; is_refused Unknown "the image says sha256:0000"
}

@test "documents of 100 MB, of deep nesting, of no JSON" {
	head -c 100000000 /dev/zero | tr '\0' ' ' >"$W/spaces"
	image
	cat "$W/spaces" >>"$W/manifest"
	index "$(descriptor $OCI.manifest.v1+json "$W/manifest")"
	is_refused Unknown "more than 4194304 bytes"
	image
	cat "$W/spaces" >>"$W/config"
	jq -c --argjson c "$(descriptor $OCI.config.v1+json "$W/config")" '.config = $c' "$W/manifest" >"$W/manifest2"
	index "$(descriptor $OCI.manifest.v1+json "$W/manifest2")"
	is_refused Unknown "4194304 bytes"
	printf '{"config":%s1%s}' "$(printf '[%.0s' {1..100000})" "$(printf ']%.0s' {1..100000})" >"$W/manifest"
	index "$(descriptor $OCI.manifest.v1+json "$W/manifest")"
	is_refused Unknown "max depth"
	echo '<html>' >"$W/manifest"
	index "$(descriptor $OCI.manifest.v1+json "$W/manifest")"
	is_refused Unknown "invalid character"
}

@test "an index that names itself, no platform of ours, or what is not there" {
	image
	local name digest
	name=$(jq -c '.manifests[0]' "$L/index.json")
	# No file can hold its own digest: this one is found under a name that is not its digest.
	digest=sha256:$(printf '0%.0s' {1..64})
	jq -nc --arg d "$digest" '{schemaVersion: 2, mediaType: "'$OCI'.index.v1+json", manifests: [{
		mediaType: "'$OCI'.index.v1+json", digest: $d, size: 500, platform: {architecture: "amd64", os: "linux"}}]}' \
		>"$L/blobs/sha256/${digest#*:}"
	index "$(jq -nc --arg d "$digest" '{mediaType: "'$OCI'.index.v1+json", digest: $d, size: 500}')"
	is_refused Unknown "does not match"
	jq -nc --argjson n "$name" '{schemaVersion: 2, mediaType: "'$OCI'.index.v1+json",
		manifests: [$n + {platform: {architecture: "riscv64", os: "linux"}}]}' >"$W/index"
	index "$(descriptor $OCI.index.v1+json "$W/index")"
	is_refused Unknown "no image found"
	image
	rm "$L/blobs/sha256/$(jq -r '.layers[0].digest[7:]' "$W/manifest")"
	is_refused NotFound "no such file"
}

@test "blobs that are cut off or are not what their digest says" {
	image
	truncate -s -1 "$L/blobs/sha256/$(jq -r '.layers[0].digest[7:]' "$W/manifest")"
	is_refused Unknown "did not match"
	image
	printf X | dd of="$L/blobs/sha256/$(jq -r '.layers[0].digest[7:]' "$W/manifest")" conv=notrunc status=none
	is_refused Unknown "did not match"
	gzip -c "$W/layer" | head -c 100 >"$W/cut"
	mv "$W/cut" "$W/layer"
	image
	is_refused Unknown "unpack"
}

@test "bombs: the error names the limit" {
	head -c 200000000 /dev/zero >"$W/zeros"
	tar -C "$W" -cf - zeros | gzip -1 >"$W/layer"
	image
	is_refused Unknown "images.layer_bytes_max, 50000000"
	tar -C "$W" -cf - zeros | zstd -q >"$W/layer"
	image
	is_refused Unknown "images.layer_bytes_max, 50000000"
	truncate -s 1T "$W/hole"
	tar -C "$W" --sparse -cf "$W/layer" hole
	image
	is_refused Unknown "images.layer_bytes_max, 50000000"
	mkdir "$W/many"
	(cd "$W/many" && touch $(seq 1100))
	tar -C "$W" -cf "$W/layer" many
	image
	is_refused Unknown "images.layer_files_max, 1000"
}

@test "many layers that each keep to the limit: the image's limit is named" {
	local i
	umoci init --layout "$W/img"
	umoci new --image "$W/img:x"
	for i in 1 2 3; do
		head -c 40000000 /dev/zero | tr "\0" "$i" >"$W/digits"
		tar -C "$W" -cf "$W/layer" digits
		add_layer "$W/img:x" "$W/layer"
	done
	refused Unknown "images.image_bytes_max, 90000000" crictl pull "oci:$W/img:x"
	[ -z "$(find "$D/state/images" -type f)" ]
}
