# critest's images, made anew from Debian's packages: what its specifications look for in them is there, under
# the same names. To be sourced after tests/functional/lib/images.bash.
#
# All have one root file system, with busybox, another busybox for its shell (that of Debian's static one runs
# applets without their files, of which one specification masks one), pgrep, ipcs, a web server that calls itself
# nginx, and one that calls itself httpd. A label makes each another image.

# add_program TREE PROGRAM PATH: with the libraries that it takes.
add_program() {
	local library
	install -D -m 0755 "$2" "$1$3" || return 1
	while read -r library; do
		[ -e "$1$library" ] || install -D -m 0755 "$library" "$1$library" || return 1
	done < <(ldd "$2" | grep -o '/[^ ]*')
}

# conformance_tree DIR SETUID-PROGRAM
conformance_tree() {
	local root=$1
	make_busybox_tree "$root" && rm -f "$root/bin/sh" &&
		add_program "$root" "$TOOLS/busybox" /bin/sh && add_program "$root" /usr/bin/pgrep /bin/pgrep &&
		add_program "$root" /usr/bin/ipcs /bin/ipcs &&
		install -d "$root/www" "$root/usr/sbin" "$root/run" && ln -s ../run "$root/var/run" || return 1
	install -m 4755 "$2" "$root/bin/effective-uid" || return 1
	echo "It works!" >"$root/www/index.html"
	# The process has the script's name; its arguments are in the image's configuration.
	cat >"$root/usr/sbin/nginx" <<-'END'
		#!/bin/sh
		echo $$ >/var/run/nginx.pid
		httpd -f -p "${PORT:-80}" -h /www
	END
	cat >"$root/usr/sbin/httpd-foreground" <<-'END'
		#!/bin/sh
		echo "Command line: 'httpd -D FOREGROUND'" >&2
		exec httpd -f -p 80 -h /www
	END
	chmod 0755 "$root"/usr/sbin/*
	cat >>"$root/etc/passwd" <<-'END'
		default-user:x:1000:1000::/home:/bin/sh
	END
	cat >>"$root/etc/group" <<-'END'
		default-user:x:1000:
		group-defined-in-image:x:50000:default-user
	END
}

# conformance_image LAYOUT REGISTRY NAME:TAG [UMOCI-CONFIG-OPTION…]: pushes it.
conformance_image() {
	local layout=$1 registry=$2 name=$3 tag
	shift 3
	tag=$(tr ':/' '--' <<<"$name")
	umoci tag --image "$layout:base" "$tag" &&
		configure_image "$layout:$tag" --config.label "name=$name" "$@" &&
		push_image "$layout:$tag" "$registry/$name" --format v2s2
}

# conformance_images DIR REGISTRY SETUID-PROGRAM
conformance_images() {
	local dir=$1 registry=$2 layout=$1/layout name n
	local e2e=e2e-test-images cri=k8s-staging-cri-tools
	conformance_tree "$dir/root" "$3" && tar_tree "$dir/root" "$dir/layer.tar" &&
		umoci init --layout "$layout" && umoci new --image "$layout:base" &&
		add_layer "$layout:base" "$dir/layer.tar" &&
		configure_image "$layout:base" --config.cmd sh --config.env \
			PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin || return 1
	conformance_image "$layout" "$registry" "$e2e/busybox:1.29-2" &&
		conformance_image "$layout" "$registry" pause:3.9 --config.cmd tail \
			--config.cmd -f --config.cmd /dev/null &&
		conformance_image "$layout" "$registry" sandbox:1 --config.cmd tail --config.cmd -f \
			--config.cmd /dev/null &&
		conformance_image "$layout" "$registry" "$e2e/nginx:1.14-2" --config.cmd /usr/sbin/nginx \
			--config.cmd "nginx: master process" &&
		conformance_image "$layout" "$registry" "$cri/hostnet-nginx-amd64:latest" \
			--config.cmd /usr/sbin/nginx --config.env PORT=12003 &&
		conformance_image "$layout" "$registry" "$e2e/httpd:2.4.39-4" \
			--config.cmd httpd-foreground &&
		conformance_image "$layout" "$registry" "$e2e/nonewprivs:1.3" \
			--config.cmd effective-uid || return 1
	for name in test-image-latest:latest test-image-tag:test test-image-tag:all test-image-digest:latest \
		test-image-1:latest test-image-2:latest test-image-3:latest; do
		conformance_image "$layout" "$registry" "$cri/$name" || return 1
	done
	conformance_image "$layout" "$registry" "$cri/test-image-user-uid:latest" --config.user 1002 &&
		conformance_image "$layout" "$registry" "$cri/test-image-user-username:latest" \
			--config.user www-data &&
		conformance_image "$layout" "$registry" "$cri/test-image-user-uid-group:latest" \
			--config.user 1003:users &&
		conformance_image "$layout" "$registry" "$cri/test-image-user-username-group:latest" \
			--config.user www-data:100 &&
		conformance_image "$layout" "$registry" "$cri/test-image-predefined-group:latest" \
			--config.user 1000 &&
		conformance_image "$layout" "$registry" "$cri/test-image-tags:1" || return 1
	# One image of three names.
	for n in 2 3; do
		push_image "$layout:$(tr ':/' '--' <<<"$cri/test-image-tags:1")" \
			"$registry/$cri/test-image-tags:$n" --format v2s2 || return 1
	done
}
