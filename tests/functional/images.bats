#!/usr/bin/env bats
# Images: pull, look up, list, remove, and what pulls that fail say and leave.

load lib/bulkheadd

setup_file() {
	instance_setup
	export PORT=$((20000 + ${NET#bhft}))
	sed -i "s,^images:,&\n  pinned: [\"127.0.0.1:$PORT/pinned\"]," "$D/config.yaml"
	start_bulkheadd
	make_busybox_layout "$FT/img" >/dev/null
	htpasswd -Bbn joe open-sesame >"$FT/htpasswd"
	start_registry "$FT/registry" "$PORT"
	push_image "$FT/img:latest" "127.0.0.1:$PORT/busybox:1"
	export IMAGE=127.0.0.1:$PORT/busybox:1
}

teardown_file() {
	stop_registry "$FT/registry"
	stop_registry "$FT/private"
	instance_teardown
}

teardown() {
	crictl rmi -a >/dev/null 2>&1 || true
}

image_files() {
	find "$D/state/images" -type f | wc -l
}

# fails CODE WORDS COMMAND…: with this gRPC code and these words, leaving no file.
fails() {
	local code=$1 words=$2
	shift 2
	run "$@"
	echo "$output"
	[ "$status" -ne 0 ]
	[[ $output == *"code = $code"* ]]
	[[ $output == *"$words"* ]]
	[ "$(image_files)" -eq 0 ]
	[ -z "$(ls -A "$D/state/images/tmp")" ]
}

@test "an image is pulled from a registry and found by tag, digest, id and the beginning of its id" {
	crictl pull "$IMAGE"
	digest=$(crictl inspecti "$IMAGE" | jq -r '.status.repoDigests[0]')
	id=$(crictl inspecti "$IMAGE" | jq -r .status.id)
	[[ $id == sha256:* ]]
	[ "$digest" = "127.0.0.1:$PORT/busybox@$(skopeo inspect --raw --tls-verify=false "docker://$IMAGE" |
		sha256sum | sed 's/^/sha256:/; s/ .*//')" ]
	for name in "$digest" "$id" "${id#sha256:}" "${id:7:12}"; do
		[ "$(crictl inspecti "$name" | jq -r .status.id)" = "$id" ]
	done
	crictl inspecti "$IMAGE" | jq -e --arg tag "$IMAGE" '.status | .repoTags == [$tag] and
		(.size | tonumber) > 500000'
}

@test "an image pulled by digest has no tag" {
	digest=$(skopeo inspect --raw --tls-verify=false "docker://$IMAGE" | sha256sum | cut -d' ' -f1)
	crictl pull "127.0.0.1:$PORT/busybox@sha256:$digest"
	crictl images -o json | jq -e '.images | length == 1 and (.[0].repoTags // [] | length) == 0'
}

@test "images are listed, by filter too, and pulling again changes nothing" {
	crictl pull "$IMAGE"
	before=$(crictl images -o json)
	crictl pull "$IMAGE"
	[ "$(crictl images -o json)" = "$before" ]
	[ "$(crictl images -q "$IMAGE" | wc -l)" -eq 1 ]
	[ "$(crictl images -q 127.0.0.1:1/other | wc -l)" -eq 0 ]
}

@test "a tag that moved leads to the new image" {
	crictl pull "$IMAGE"
	old=$(crictl inspecti "$IMAGE" | jq -r .status.id)
	configure_image "$FT/img:latest" --tag moved --config.env MOVED=1
	push_image "$FT/img:moved" "$IMAGE"
	crictl pull "$IMAGE"
	push_image "$FT/img:latest" "$IMAGE"
	[ "$(crictl inspecti "$IMAGE" | jq -r .status.id)" != "$old" ]
	crictl inspecti "$old" | jq -e '.status.repoTags // [] | length == 0'
}

@test "removal frees all files; what is not there is removed already" {
	crictl pull "$IMAGE"
	[ "$(image_files)" -ge 4 ]
	crictl rmi "$IMAGE"
	[ "$(image_files)" -eq 0 ]
	crictl inspecti "$IMAGE" && false
	[ "$(crictl images -q | wc -l)" -eq 0 ]
}

@test "usage of the image file system grows with images" {
	before=$(crictl imagefsinfo -o json | jq '[.status.imageFilesystems // [.status] | .[].usedBytes.value | tonumber] | add')
	crictl pull "$IMAGE"
	after=$(crictl imagefsinfo -o json | jq '[.status.imageFilesystems // [.status] | .[].usedBytes.value | tonumber] | add')
	[ $((after - before)) -gt 2000000 ]
}

@test "images survive a restart" {
	crictl pull "$IMAGE"
	before=$(crictl images -o json)
	restart_bulkheadd
	[ "$(crictl images -o json)" = "$before" ]
}

@test "credentials are asked for, used and neither kept nor logged" {
	start_registry "$FT/private" $((PORT + 250)) "$FT/htpasswd"
	private=127.0.0.1:$((PORT + 250))/busybox:1
	push_image "$FT/img:latest" "$private" --dest-creds joe:open-sesame
	fails Unknown "unauthorized" crictl pull "$private"
	fails Unknown "" crictl pull --creds joe:wrong "$private"
	crictl pull --creds joe:open-sesame "$private"
	[ "$(crictl images -q | wc -l)" -eq 1 ]
	run grep -r -e open-sesame -e "$(printf joe:open-sesame | base64)" "$D/log" "$D/state"
	echo "$output"
	[ "$status" -eq 1 ]
}

@test "a missing image, an empty or impossible name, a dead registry: each has its code" {
	fails NotFound none crictl pull "127.0.0.1:$PORT/busybox:none"
	fails NotFound none crictl pull "127.0.0.1:$PORT/none"
	fails Unknown "UPPER" crictl pull UPPER/case
	fails Unknown "UPPER" crictl pull docker.io/UPPER
	fails Unknown "refused" crictl pull 127.0.0.1:1/busybox
	fails NotFound "/none" crictl pull oci:/none:latest
}

@test "a malformed image is refused and leaves nothing" {
	umoci new --image "$FT/img:bad"
	head -c 3000 /dev/zero | tr '\0' x >"$FT/not-a-tar"
	add_layer "$FT/img:bad" "$FT/not-a-tar"
	push_image "$FT/img:bad" "127.0.0.1:$PORT/bad:1"
	run crictl pull "127.0.0.1:$PORT/bad:1"
	echo "$output"
	[ "$status" -ne 0 ]
	[[ $output == *"layer sha256:"*"unpack: read the layer"* ]]
	[ "$(image_files)" -eq 0 ]
}

@test "ten pulls of one image at once all succeed" {
	pids=()
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		crictl pull "$IMAGE" >/dev/null 3>&- &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid"
	done
	[ "$(crictl images -q | wc -l)" -eq 1 ]
	[ -z "$(ls -A "$D/state/images/tmp")" ]
}

@test "a bulkheadd that dies during a pull leaves nothing that its successor keeps" {
	crictl pull "$IMAGE" >/dev/null 2>&1 3>&- &
	pid=$!
	sleep 0.1
	kill_bulkheadd
	wait "$pid" || true
	start_bulkheadd
	[ -z "$(ls -A "$D/state/images/tmp")" ]
	crictl pull "$IMAGE"
	crictl rmi "$IMAGE"
	[ "$(image_files)" -eq 0 ]
}

@test "several tags of one image: a tag goes alone, the last with the image, an id with all tags" {
	push_image "$FT/img:latest" "127.0.0.1:$PORT/busybox:2"
	push_image "$FT/img:latest" "127.0.0.1:$PORT/other:1"
	crictl pull "$IMAGE"
	files=$(image_files)
	crictl pull "127.0.0.1:$PORT/busybox:2"
	crictl pull "127.0.0.1:$PORT/other:1"
	crictl images -o json | jq -e '.images | length == 1 and (.[0].repoTags | length) == 3 and
		(.[0].repoDigests | length) == 2'
	crictl rmi "$IMAGE"
	[ -z "$(crictl images -q "$IMAGE")" ]
	crictl inspecti "127.0.0.1:$PORT/busybox:2" | jq -e '.status | (.repoTags | length) == 2 and
		(.repoDigests | length) == 2'
	[ "$(image_files)" -eq "$files" ]
	crictl rmi "127.0.0.1:$PORT/busybox:2"
	crictl rmi "127.0.0.1:$PORT/other:1"
	[ "$(image_files)" -eq 0 ]
	crictl pull "$IMAGE"
	crictl pull "127.0.0.1:$PORT/other:1"
	crictl rmi "$(crictl images -q)"
	[ "$(crictl images -q | wc -l)" -eq 0 ]
}

@test "a tag beside a digest does not count" {
	digest=sha256:$(skopeo inspect --raw --tls-verify=false "docker://$IMAGE" | sha256sum | cut -d' ' -f1)
	crictl pull "127.0.0.1:$PORT/busybox:nonesuch@$digest"
	crictl inspecti "$IMAGE@$digest" | jq -e --arg digest "127.0.0.1:$PORT/busybox@$digest" \
		'.status | (.repoTags // [] | length) == 0 and .repoDigests == [$digest]'
}

@test "pinned images are told, and all that a pull's ImageSpec said" {
	push_image "$FT/img:latest" "127.0.0.1:$PORT/pinned:latest"
	crictl pull --annotation team=a "$IMAGE"
	crictl inspecti "$IMAGE" | jq -e '.status | (.pinned // false) == false and
		.spec.annotations.team == "a"'
	protoc --proto_path="$REPOSITORY/cri-server/proto" --encode=runtime.v1.PullImageRequest cri.proto \
		<<<"image {image: '$IMAGE' user_specified_image: 'busybox' runtime_handler: 'vm'}" | raw PullImage 60 >/dev/null
	crictl inspecti "$IMAGE" | jq -e '.status.spec |
		.userSpecifiedImage == "busybox" and .runtimeHandler == "vm"'
	crictl pull "127.0.0.1:$PORT/pinned"
	crictl images -o json | jq -e '.images | length == 1 and .[0].pinned'
	crictl rmi "127.0.0.1:$PORT/pinned"
	crictl inspecti "$IMAGE" | jq -e '.status.pinned // false | not'
}

@test "simultaneous removals of one image all succeed, and it is gone for each" {
	crictl pull "$IMAGE"
	id=$(crictl images -q --no-trunc)
	pids=()
	for _ in 1 2 3 4 5 6; do
		# crictl asks for the image first: one that is gone already is no failure of the removal.
		{ crictl rmi "$id" 2>&1 || true; } | { ! grep -q 'code = '; } 3>&- &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid"
	done
	[ "$(crictl images -q | wc -l)" -eq 0 ]
	[ "$(image_files)" -eq 0 ]
}

@test "containers go on and start without their image, over a restart too" {
	crictl pull "$IMAGE"
	id=$(crictl images -q --no-trunc)
	pod=$(run_pod held)
	container=$(IMAGE=$id run_container "$pod" held '.image.user_specified_image = env.IMAGE')
	crictl inspect "$container" | jq -e --arg id "$id" --arg tag "$IMAGE" '.status |
		.image.image == $tag and .image.userSpecifiedImage == $id and .imageId == $id and
		(.imageRef | startswith("127.0.0.1") and contains("@sha256:"))'
	later=$(IMAGE=$id create_container "$pod" later '.command = ["sh", "-c", "echo later"]')
	crictl rmi "$id"
	[ "$(crictl images -q | wc -l)" -eq 0 ]
	[ "$(crictl exec --sync "$container" cat /etc/hostname)" = held ]
	restart_bulkheadd
	[ "$(crictl exec --sync "$container" busybox echo still)" = still ]
	crictl start "$later"
	[ "$(finish "$later")" -eq 0 ]
	[ "$(output_of held later)" = later ]
	refused NotFound "" create_container "$pod" again ".image = {image: \"$IMAGE\"}"
	crictl pull "$IMAGE"
	[ "$(run_once "$pod" held again 'echo again' ".image = {image: \"$IMAGE\"}")" = again ]
	crictl rmi "$id"
	remove_pod "$pod"
	[ "$(image_files)" -eq 0 ]
}

layer_files() {
	find "$D/state/images/layers" -name '*.erofs'
}

@test "layers that a start does not find are made again, without a pull, and containers have them" {
	crictl pull "$IMAGE"
	pod=$(run_pod remade)
	before=$(layer_files)
	kill_bulkheadd
	# shellcheck disable=SC2086 # names without blanks
	rm $before
	start_bulkheadd
	eventually 30 eval '[ "$(layer_files)" = "$before" ]'
	[ "$(run_once "$pod" remade once 'echo made')" = made ]
	remove_pod "$pod"
}

@test "an image that is converted on the way leaves no file beside its own" {
	push_image "$FT/img:latest" "127.0.0.1:$PORT/docker:1" --format v2s2
	crictl pull "127.0.0.1:$PORT/docker:1"
	crictl rmi "127.0.0.1:$PORT/docker:1"
	[ "$(image_files)" -eq 0 ]
}
