#!/usr/bin/env bats
# How pulls go: transport (formats, mirrors, policies, credentials), several at once, progress, and registries
# that send what they should not. No pod is needed.
#
# Two registries: PLAIN on the loopback interface, and SLOW in a network namespace behind a link whose rate
# the tests choose, so that pulls can be watched, joined and left while they run.

load lib/bulkheadd

setup_file() {
	instance_setup
	local n=${NET#bhft}
	export PLAIN=127.0.0.1:$((23000 + n)) LINK=10.214.$n SLOW=10.214.$n.2:5000
	start_registry "$FT/plain" "${PLAIN#*:}"
	htpasswd -Bbn joe open-sesame >"$FT/htpasswd"
	start_registry "$FT/private" $((23250 + n)) "$FT/htpasswd"
	export PRIVATE=127.0.0.1:$((23250 + n))
	start_slow_registry
	write_host_files
	make_instance "$FT" "1i workers: 24
		s|^  unpack_helper: .*|&\n  registries_conf: $FT/registries.conf\n  policy: $FT/policy.json\n  image_bytes_max: 100000000|"
	make_images
	start_bulkheadd
}

teardown_file() {
	[ ! -e "$FT/files.pid" ] || kill "$(cat "$FT/files.pid")" 2>/dev/null || true
	stop_registry "$FT/plain"
	stop_registry "$FT/private"
	stop_registry "$FT/slow"
	ip link delete "${NET}s" 2>/dev/null || true
	ip netns delete "$NET-slow" 2>/dev/null || true
	instance_teardown
}

teardown() {
	rate 400mbit
	wait_quiet
	crictl rmi -a >/dev/null 2>&1 || true
}

start_slow_registry() {
	local ns=$NET-slow
	ip netns add "$ns"
	ip link add "${NET}s" type veth peer name eth0 netns "$ns"
	ip addr add "$LINK.1/30" dev "${NET}s"
	ip link set "${NET}s" up
	ip -n "$ns" addr add "$LINK.2/30" dev eth0
	ip -n "$ns" link set eth0 up
	ip -n "$ns" link set lo up
	ip netns exec "$ns" tc qdisc add dev eth0 root tbf rate 400mbit burst 64k latency 200ms
	mkdir -p "$FT/slow/data"
	cat >"$FT/slow/config.yml" <<-END
		version: 0.1
		storage: {filesystem: {rootdirectory: $FT/slow/data}}
		http: {addr: "0.0.0.0:5000", secret: tests}
	END
	ip netns exec "$ns" docker-registry serve "$FT/slow/config.yml" >"$FT/slow/log" 2>&1 </dev/null 3>&- &
	echo $! >"$FT/slow/pid"
	eventually 30 curl --silent --fail "http://$SLOW/v2/"
}

rate() {
	ip netns exec "$NET-slow" tc qdisc change dev eth0 root tbf rate "$1" burst 64k latency 200ms
}

write_host_files() {
	cat >"$FT/registries.conf" <<-END
		[[registry]]
		location = "$SLOW"
		insecure = true
		[[registry]]
		prefix = "mirrored.test/base"
		location = "mirrored.test/base"
		[[registry.mirror]]
		location = "127.0.0.1:1/none"
		insecure = true
		[[registry.mirror]]
		location = "$PLAIN/base"
		insecure = true
		[[registry]]
		prefix = "insecure.test"
		location = "$PLAIN"
		insecure = true
	END
	jq -n --arg registry "$PLAIN" '{default: [{type: "insecureAcceptAnything"}],
		transports: {docker: ["/unsigned", "/tags:bad", "/tags:bad-index"] |
			map({key: ($registry + .), value: [{type: "reject"}]}) | from_entries}}' >"$FT/policy.json"
}

# Layers of random bytes do not compress: two of 1.5 MB in "base", and one more in each image.
make_images() {
	local layout=$FT/layers tag
	umoci init --layout "$layout"
	umoci new --image "$layout:base"
	for tag in 1 2 one two; do
		mkdir "$FT/tree"
		head -c 1500000 /dev/urandom >"$FT/tree/$tag"
		tar_tree "$FT/tree" "$FT/$tag.tar"
		rm -r "$FT/tree"
	done
	add_layer "$layout:base" "$FT/1.tar"
	add_layer "$layout:base" "$FT/2.tar"
	for tag in one two; do
		umoci tag --image "$layout:base" "$tag"
		add_layer "$layout:$tag" "$FT/$tag.tar"
		push_image "$layout:$tag" "$SLOW/$tag:1"
	done
	for tag in base:1 base:2 unsigned:1 big:1; do
		push_image "$layout:base" "$PLAIN/$tag"
	done
	push_image "$layout:base" "$PRIVATE/base:1" --dest-creds joe:open-sesame
}

image_files() {
	find "$D/state/images" -type f | wc -l
}

left_nothing() {
	[ "$(image_files)" -eq 0 ] && [ -z "$(ls -A "$D/state/images/tmp")" ] && [ "$(copies)" -eq 0 ]
}

# skopeo processes of this instance that copy.
copies() {
	local pid n=0
	for pid in $(own_processes | awk '$2 == "skopeo" {print $1}'); do
		! tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qx copy || n=$((n + 1))
	done
	echo "$n"
}

copies_are() {
	[ "$(copies)" -eq "$1" ]
}

pulls() {
	crictl info | jq -c '.pulls // empty | if type == "string" then fromjson else . end'
}

no_pulls() {
	[ "$(pulls | jq length)" -eq 0 ]
}

callers_are() {
	pulls | jq -e --argjson n "$1" '[.[].callers] | add == $n'
}

it_comes_on() {
	pulls | jq -e '.[0].bytesDone > 500000 and .[0].bytesPerSecond > 0'
}

both_know_their_layers() {
	pulls | jq -e 'map(.layersTotal) == [3, 3]'
}

wait_quiet() {
	eventually 60 no_pulls
}

# start_pull IMAGE: in the background; PID is the caller's, its output and exit code in files of that number.
start_pull() {
	(
		code=0
		exec 3>&-
		"$TOOLS/crictl" --config "$D/crictl.yaml" pull "$1" >"$FT/out.$BASHPID" 2>&1 || code=$?
		echo "$code" >"$FT/code.$BASHPID"
	) &
	PID=$!
}

# leave PID: its crictl goes away.
leave() {
	pkill_children "$1"
	wait "$1" || true
}

pkill_children() {
	local child
	for child in $(cat "/proc/$1/task/$1/children"); do
		kill -KILL "$child"
	done
}

pull_succeeded() {
	wait "$1"
	[ "$(cat "$FT/code.$1")" -eq 0 ] || {
		cat "$FT/out.$1"
		return 1
	}
}

config_digest() {
	skopeo inspect --raw --tls-verify=false "docker://$1" | jq -r .config.digest
}

layer_digest() {
	skopeo inspect --raw --tls-verify=false "docker://$1" | jq -r ".layers[$2].digest"
}

# The slow registry's file of a blob.
blob_file() {
	echo "$FT/$1/data/docker/registry/v2/blobs/sha256/${2:7:2}/${2#sha256:}/data"
}

# put_blob REPOSITORY FILE: into the plain registry, as it is; prints "digest size".
put_blob() {
	local digest where
	digest=sha256:$(sha256sum <"$2" | cut -d ' ' -f 1)
	where=$(curl --silent --fail -X POST -D - -o /dev/null "http://$PLAIN/v2/$1/blobs/uploads/" |
		tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
	curl --silent --fail -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$2" \
		"$where&digest=$digest" || return 1
	echo "$digest $(stat -c %s "$2")"
}

# push_layer TAG FILE TYPE: an image of one layer, 1.tar in this form; skopeo would push it as gzip.
push_layer() {
	local layer config
	layer=$(put_blob formats "$2")
	jq -n --arg id "sha256:$(sha256sum <"$FT/1.tar" | cut -d " " -f 1)" '{architecture: "amd64", os: "linux", config: {},
		rootfs: {type: "layers", diff_ids: [$id]}}' >"$FT/config"
	config=$(put_blob formats "$FT/config")
	jq -n --arg l "$layer" --arg c "$config" --arg type "$3" 'def blob($text; $type): ($text | split(" ")) as $b |
		{mediaType: $type, digest: $b[0], size: ($b[1] | tonumber)};
		{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
		config: blob($c; "application/vnd.oci.image.config.v1+json"),
		layers: [blob($l; "application/vnd.oci.image.layer.v1.\($type)")]}' |
		curl --silent --fail -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
			--data-binary @- "http://$PLAIN/v2/formats/manifests/$1"
}

@test "Docker schema 2 and OCI images, gzip, zstd and plain layers: the id is the registry's config digest" {
	push_image "$FT/layers:base" "$PLAIN/formats:docker" --format v2s2
	zstd -q "$FT/1.tar"
	push_layer zstd "$FT/1.tar.zst" tar+zstd
	push_layer plain "$FT/1.tar" tar
	for format in docker:tar.gzip zstd:tar+zstd plain:v1.tar; do
		image=$PLAIN/formats:${format%:*}
		skopeo inspect --raw --tls-verify=false "docker://$image" | tee /dev/stderr |
			jq -e --arg type "${format#*:}" '.layers | all(.mediaType | endswith($type))'
		id=$(crictl pull "$image" | grep -o 'sha256:[0-9a-f]*' | head -n 1)
		[ "$id" = "$(config_digest "$image")" ]
		[ "$(crictl inspecti -o json "$image" | jq -r '.status.repoDigests[0]')" = \
			"$PLAIN/formats@sha256:$(skopeo inspect --raw --tls-verify=false "docker://$image" | sha256sum | cut -d ' ' -f 1)" ]
		crictl rmi "$image"
	done
	[ "$(image_files)" -eq 0 ]
}

# Of the manifest in $FT/manifest, whose digest is $digest: an index, and one with that in it.
make_indices() {
	jq -n --arg d "$digest" --argjson s "$(stat -c %s "$FT/manifest")" '{schemaVersion: 2,
		mediaType: "application/vnd.oci.image.index.v1+json", manifests: [
		{mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $d, size: $s,
		 platform: {os: "linux", architecture: "amd64"}}]}' >"$FT/inner"
	jq -n --arg d "sha256:$(sha256sum <"$FT/inner" | cut -d ' ' -f 1)" --argjson s "$(stat -c %s "$FT/inner")" '
		{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [
		{mediaType: "application/vnd.oci.image.index.v1+json", digest: $d, size: $s}]}' >"$FT/outer"
}

@test "an index, and an index in it: this node's platform is pulled, under the outer digest" {
	image=$PLAIN/base:1
	skopeo inspect --raw --tls-verify=false "docker://$image" >"$FT/manifest"
	digest=sha256:$(sha256sum <"$FT/manifest" | cut -d ' ' -f 1)
	put() { # TAG FILE
		curl --silent --fail -X PUT -H 'Content-Type: application/vnd.oci.image.index.v1+json' \
			--data-binary "@$2" "http://$PLAIN/v2/base/manifests/$1"
	}
	make_indices
	put inner "$FT/inner"
	put outer "$FT/outer"
	cp "$FT/policy.json" "$FT/policy"
	echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$FT/policy.json"
	crictl pull "$PLAIN/base:outer"
	cp "$FT/policy" "$FT/policy.json"
	[ "$(crictl inspecti "$PLAIN/base:outer" | jq -r '.status.repoDigests[0]')" = \
		"$PLAIN/base@sha256:$(sha256sum <"$FT/outer" | cut -d ' ' -f 1)" ]
	[ "$(crictl inspecti "$PLAIN/base:outer" | jq -r .status.id)" = "$(config_digest "$image")" ]
	sed -e 's/amd64/s390x/' "$FT/inner" >"$FT/other"
	put other "$FT/other"
	refused Unknown "none of its 1 manifests is for linux/amd64" crictl pull "$PLAIN/base:other"
}

@test "a mirror is asked before the registry; a registry is insecure by name" {
	crictl pull mirrored.test/base:1
	crictl inspecti mirrored.test/base:1 | jq -e '.status.repoTags == ["mirrored.test/base:1"]'
	crictl pull insecure.test/base:1
	crictl inspecti insecure.test/base:1 | jq -e '.status.repoTags | contains(["insecure.test/base:1"])'
}

@test "what the policy rejects is refused with the reason, and nothing of it stays" {
	refused Unknown "rejected by policy" crictl pull "$PLAIN/unsigned:1"
	left_nothing
}

@test "the policy is asked about the tag, also of an index; one in another, of which it cannot be, is refused" {
	skopeo inspect --raw --tls-verify=false "docker://$PLAIN/base:1" >"$FT/manifest"
	digest=sha256:$(sha256sum <"$FT/manifest" | cut -d ' ' -f 1)
	make_indices
	push_image "$FT/layers:base" "$PLAIN/tags:good"
	push_image "$FT/layers:base" "$PLAIN/tags:bad"
	for index in inner:bad-index inner:good-index outer:outer; do
		curl --silent --fail -X PUT -H 'Content-Type: application/vnd.oci.image.index.v1+json' \
			--data-binary "@$FT/${index%:*}" "http://$PLAIN/v2/tags/manifests/${index#*:}"
	done
	for kind in "" -index; do
		crictl pull "$PLAIN/tags:good$kind"
		refused Unknown "rejected by policy" crictl pull "$PLAIN/tags:bad$kind"
	done
	refused Unknown "name the image by its digest" crictl pull "$PLAIN/tags:outer"
	crictl images -o json | jq -e --arg name "$PLAIN/tags:good" '
		[.images[].repoTags[] | select(contains("/tags:"))] | sort == [$name, $name + "-index"]'
	crictl pull "$PLAIN/tags@sha256:$(sha256sum <"$FT/outer" | cut -d ' ' -f 1)"
}

@test "an image larger than the limit is refused by the limit's name before it is downloaded" {
	manifest=$(skopeo inspect --raw --tls-verify=false "docker://$PLAIN/big:1")
	jq -c '.layers[0].size = 100000001' <<<"$manifest" |
		curl --silent --fail -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
			--data-binary @- "http://$PLAIN/v2/big/manifests/2"
	refused Unknown "images.image_bytes_max, 100000000" crictl pull "$PLAIN/big:2"
	left_nothing
}

@test "a truncated blob, one with another content, one without end: refused, and nothing stays" {
	base=$(layer_digest "$PLAIN/big:1" 0)
	file=$(blob_file plain "$base")
	cp "$file" "$FT/whole"
	head -c 1000000 "$FT/whole" >"$file"
	run crictl pull "$PLAIN/big:1"
	echo "$output"
	[ "$status" -ne 0 ]
	left_nothing
	printf x | dd of="$file" bs=1 seek=70000 conv=notrunc status=none
	cat "$FT/whole" >"$file"
	printf xyz | dd of="$file" bs=1 seek=70000 conv=notrunc status=none
	run crictl pull "$PLAIN/big:1"
	echo "$output"
	[ "$status" -ne 0 ]
	left_nothing
	cat "$FT/whole" >"$file"
	truncate -s 40G "$file"
	run crictl pull "$PLAIN/big:1"
	cat "$FT/whole" >"$file"
	echo "$output"
	[ "$status" -ne 0 ]
	[[ $output == *"$base"* || $output == *"sends more"* ]]
	left_nothing
	crictl pull "$PLAIN/big:1"
}

# serve_files DIRECTORY: a registry that sends whatever lies there.
serve_files() {
	FILES=127.0.0.1:$((23500 + ${NET#bhft}))
	busybox httpd -f -p "$FILES" -h "$1" </dev/null >/dev/null 2>&1 3>&- &
	echo $! >"$FT/files.pid"
	eventually 30 curl --silent --fail "http://$FILES/v2/"
}

@test "a registry's manifest of 100 MB, and one that is another than its digest says: refused, and nothing stays" {
	mkdir -p "$FT/files/v2/big/manifests"
	echo '{}' >"$FT/files/v2/index.html"
	manifest=$(skopeo inspect --raw --tls-verify=false "docker://$PLAIN/big:1")
	digest=sha256:$(printf %s "$manifest" | sha256sum | cut -d ' ' -f 1)
	{
		printf %s "$manifest"
		head -c 100000000 /dev/zero | tr '\0' ' '
	} >"$FT/files/v2/big/manifests/1"
	jq -c '.annotations.another = "yes"' <<<"$manifest" >"$FT/files/v2/big/manifests/$digest"
	serve_files "$FT/files"
	run crictl pull "$FILES/big:1"
	refused_by_size=$output
	echo "$output"
	[ "$status" -ne 0 ]
	run crictl pull "$FILES/big@$digest"
	kill "$(cat "$FT/files.pid")"
	echo "$output"
	[ "$status" -ne 0 ]
	[[ $refused_by_size == *"exceeded maximum allowed size"* ]]
	[[ $output == *"the registry sent sha256:"*" for $digest"* ]]
	left_nothing
}

@test "credentials in each form, for their registry only; never on a command line, in a log or in a record" {
	encoded=$(printf joe:open-sesame | base64)
	crictl pull --auth "$encoded" "$PRIVATE/base:1"
	crictl rmi "$PRIVATE/base:1"
	refused Unknown "unauthorized" crictl pull --auth "$(printf joe:wrong | base64)" "$PRIVATE/base:1"
	refused Unknown "base64" crictl pull --auth "@@@" "$PRIVATE/base:1"
	# An image that is there is not for those whom the registry does not admit.
	crictl pull --creds joe:open-sesame "$PRIVATE/base:1"
	refused Unknown "unauthorized" crictl pull "$PRIVATE/base:1"
	: >"$FT/seen"
	(
		exec 3>&-
		until [ -e "$FT/pulled" ]; do
			for pid in $(pgrep -x skopeo); do
				tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null || true
			done >>"$FT/seen"
		done
	) &
	watcher=$!
	crictl rmi "$PRIVATE/base:1"
	crictl pull --creds joe:open-sesame "$PRIVATE/base:1"
	touch "$FT/pulled"
	wait "$watcher"
	grep -q skopeo "$FT/seen"
	run grep -r -a -e open-sesame -e "$encoded" "$D/log" "$D/state" "$FT/seen"
	echo "$output"
	[ "$status" -eq 1 ]
}

@test "ten callers make one download; one that goes away does not end it; its progress is told" {
	rate 2mbit
	for ((i = 0; i < 10; i++)); do
		start_pull "$SLOW/one:1"
		callers[i]=$PID
	done
	eventually 60 callers_are 10
	eventually 60 copies_are 1
	leave "${callers[0]}"
	eventually 20 callers_are 9
	[ "$(copies)" -eq 1 ]
	pulls | tee /dev/stderr | jq -e --arg ref "$SLOW/one:1" 'length == 1 and (.[0] |
		.reference == $ref and .layersTotal == 3 and .bytesTotal > 4500000 and .startedAt > 0 and
		.bytesDone < .bytesTotal)'
	eventually 30 it_comes_on
	rate 400mbit
	for ((i = 1; i < 10; i++)); do
		pull_succeeded "${callers[i]}"
	done
	[ "$(crictl images -q | wc -l)" -eq 1 ]
}

@test "a pull without any caller left is cancelled and leaves nothing" {
	rate 1mbit
	start_pull "$SLOW/one:1"
	one=$PID
	start_pull "$SLOW/one:1"
	eventually 30 callers_are 2
	eventually 30 copies_are 1
	leave "$one"
	leave "$PID"
	eventually 20 left_nothing
	no_pulls
}

@test "images that share layers in flight download them once" {
	rate 1mbit
	start_pull "$SLOW/one:1"
	one=$PID
	eventually 30 copies_are 1
	: >"$FT/slow/log"
	start_pull "$SLOW/two:1"
	eventually 20 both_know_their_layers
	sleep 0.5
	[ "$(copies)" -eq 1 ]
	rate 400mbit
	pull_succeeded "$one"
	pull_succeeded "$PID"
	for layer in 0 1; do
		digest=$(layer_digest "$SLOW/two:1" "$layer")
		[ "$(grep -c "GET /v2/two/blobs/$digest" "$FT/slow/log")" -eq 0 ]
	done
	[ "$(grep -c "GET /v2/two/blobs/$(layer_digest "$SLOW/two:1" 2)" "$FT/slow/log")" -eq 1 ]
	[ "$(find "$D/state/images/layers" -type f | wc -l)" -eq 4 ]
}

# Of the slow registry's pull as much has come as is more than anything else that it may bring.
most_has_come() {
	pulls | jq -e --arg ref "$SLOW/large:1" '.[] | select(.reference == $ref) | .bytesDone > 20000000' >/dev/null
}

@test "a layer that another registry has brought meanwhile may come to its end" {
	umoci new --image "$FT/layers:large"
	mkdir "$FT/tree"
	head -c 30000000 /dev/urandom >"$FT/tree/large"
	tar_tree "$FT/tree" "$FT/large.tar"
	rm -r "$FT/tree"
	add_layer "$FT/layers:large" "$FT/large.tar"
	push_image "$FT/layers:large" "$SLOW/large:1"
	push_image "$FT/layers:large" "$PLAIN/large:1"
	rate 50mbit
	start_pull "$SLOW/large:1"
	eventually 30 most_has_come
	rate 1mbit
	ctl pull "$PLAIN/large:1"
	rate 400mbit
	pull_succeeded "$PID"
}

@test "while more pulls run than there are workers, what needs no waiting is answered at once" {
	rate 100kbit
	for ((i = 0; i < 34; i++)); do
		start_pull "$SLOW/one:1"
		callers[i]=$PID
	done
	# A half of the workers is for what needs no waiting.
	eventually 60 callers_are 12
	eventually 30 copies_are 1
	for ((i = 0; i < 3; i++)); do
		timeout 20 "$TOOLS/crictl" --config "$D/crictl.yaml" info >/dev/null
		timeout 20 "$TOOLS/crictl" --config "$D/crictl.yaml" images >/dev/null
	done
	rate 400mbit
	for pid in "${callers[@]}"; do
		pull_succeeded "$pid"
	done
}

@test "bulkheadctl pull says how far it is" {
	rate 2mbit
	ctl pull "$SLOW/one:1" >"$FT/told" 2>&1 3>&- &
	eventually 30 grep -E '^[0-9.]+ of 4\.[0-9] MiB, [0-9.]+ MiB/s; layers: [0-9] of 3 downloaded' "$FT/told"
	rate 400mbit
	wait $!
}
