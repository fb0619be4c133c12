# Images and a registry for the functional tests and the demo, from Debian's packages alone:
# busybox-static, umoci, skopeo, docker-registry, apache2-utils (for a registry that asks who one is).
# To be sourced; every function returns non-zero with a reason on stderr when something fails.

IMAGES_EPOCH=1970-01-01T00:00:00Z

# make_busybox_tree DIR: a root file system below DIR, which must not exist.
make_busybox_tree() {
	local root=$1
	install -d -m 0755 "$root" "$root"/{bin,dev,etc,home,proc,sys,usr,var} &&
		install -d -m 0700 "$root/root" &&
		install -d -m 1777 "$root/tmp" &&
		install -m 0755 /bin/busybox "$root/bin/busybox" || return 1
	# Hard links, as in the ecosystem's busybox images.
	"$root/bin/busybox" --install "$root/bin" || return 1
	cat >"$root/etc/passwd" <<-'END' || return 1
		root:x:0:0:root:/root:/bin/sh
		www-data:x:33:33:www-data:/var/www:/bin/false
		nobody:x:65534:65534:nobody:/home:/bin/false
	END
	cat >"$root/etc/group" <<-'END' || return 1
		root:x:0:
		daemon:x:1:nobody
		www-data:x:33:
		users:x:100:www-data
		nogroup:x:65534:
	END
	chmod 0644 "$root"/etc/{passwd,group}
}

# tar_tree DIR FILE: DIR as a layer; the same tree gives the same bytes.
tar_tree() {
	tar --create --file "$2" --directory "$1" --format gnu --sort=name --mtime=@0 \
		--numeric-owner --owner=0 --group=0 .
}

# add_layer LAYOUT:TAG FILE: a tar file as the image's next layer.
add_layer() {
	umoci raw add-layer --image "$1" --history.created "$IMAGES_EPOCH" "$2"
}

# configure_image LAYOUT:TAG [UMOCI-CONFIG-OPTION…]: changes the image's configuration.
configure_image() {
	local image=$1
	shift
	umoci config --image "$image" --no-history --created "$IMAGES_EPOCH" "$@"
}

# make_busybox_layout DIR [TAG]: an OCI layout with a busybox image under TAG (latest); a layout that is
# there gets one more tag.
make_busybox_layout() {
	local layout=$1 tag=${2:-latest} work code=0
	work=$(mktemp -d) || return 1
	[ -e "$layout/oci-layout" ] || umoci init --layout "$layout" || code=1
	[ "$code" -eq 0 ] && make_busybox_tree "$work/root" &&
		tar_tree "$work/root" "$work/layer.tar" &&
		umoci new --image "$layout:$tag" &&
		add_layer "$layout:$tag" "$work/layer.tar" &&
		configure_image "$layout:$tag" --config.cmd sh \
			--config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
			--author '' &&
		umoci gc --layout "$layout" || code=1 # the steps between, which bear today's date
	rm -rf "$work"
	return "$code"
}

# push_image LAYOUT:TAG HOST:PORT/NAME:TAG [SKOPEO-OPTION…]: to a registry that speaks plain HTTP.
push_image() {
	local from=$1 to=$2
	shift 2
	skopeo --insecure-policy copy --quiet --dest-tls-verify=false "$@" "oci:$from" "docker://$to"
}

# start_registry DIR PORT [HTPASSWD]: a registry on 127.0.0.1:PORT that keeps everything below DIR; with
# a file of `htpasswd -B` it admits only those. DIR/log has its requests. Returns when it answers.
start_registry() {
	local dir=$1 port=$2 htpasswd=${3:-} pid i
	mkdir -p "$dir/data" || return 1
	cat >"$dir/config.yml" <<-END || return 1
		version: 0.1
		log:
		  level: warn
		storage:
		  filesystem:
		    rootdirectory: $dir/data
		  delete:
		    enabled: true
		http:
		  addr: 127.0.0.1:$port
		  secret: tests
	END
	[ -z "$htpasswd" ] || cat >>"$dir/config.yml" <<-END || return 1
		auth:
		  htpasswd:
		    realm: tests
		    path: $htpasswd
	END
	# bats waits for whatever holds its descriptor 3.
	docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 </dev/null 3>&- &
	pid=$!
	echo "$pid" >"$dir/pid"
	for ((i = 0; i < 600; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		# A stranger's answer on the port would be followed by our registry's end.
		if curl --silent --output /dev/null --max-time 2 "http://127.0.0.1:$port/v2/"; then
			sleep 0.05
			kill -0 "$pid" 2>/dev/null && return 0
			break
		fi
		sleep 0.05
	done
	echo "the registry on port $port does not answer:" >&2
	tail -n 5 "$dir/log" >&2
	stop_registry "$dir"
	return 1
}

# stop_registry DIR: ends it and waits for that; one that does not run is success.
stop_registry() {
	local dir=$1 pid i
	pid=$(cat "$dir/pid" 2>/dev/null) || return 0
	# The number may be another's by now.
	if grep -qs docker-registry "/proc/$pid/cmdline"; then
		kill "$pid"
		for ((i = 0; i < 100; i++)); do
			grep -qs docker-registry "/proc/$pid/cmdline" || break
			sleep 0.05
		done
		! grep -qs docker-registry "/proc/$pid/cmdline" || kill -KILL "$pid"
		wait "$pid" 2>/dev/null || true # its code, 143, is no failure
	fi
	rm -f "$dir/pid"
}
