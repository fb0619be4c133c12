/*
 * bulkhead-unpack BLOB DIRECTORY BYTES FILES: unpacks the layer BLOB into DIRECTORY and prints its diff id.
 *
 * A process of its own because what it reads is hostile and what it does needs root (owners, devices, trusted
 * attributes): it makes DIRECTORY its root first, and keeps only the capabilities that writing a tree takes.
 * Exit codes: 0; 1 malformed; 2 a limit; 3 no space; 4 anything else. The reason is on stderr.
 */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/image/unpack.h"

static int enter(const char *directory, struct err *err)
{
	if (chdir(directory) < 0 || chroot(".") < 0)
		return err_errno(err, "enter %s", directory);
	return 0;
}

static int drop_capabilities(struct err *err)
{
	static const cap_value_t kept[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID,
		CAP_MKNOD, CAP_SETFCAP, CAP_SYS_ADMIN /* trusted.* attributes */};
	cap_t caps = cap_init();
	if (!caps)
		return err_nomem(err);
	bool ok = cap_set_flag(caps, CAP_PERMITTED, ARRAY_SIZE(kept), kept, CAP_SET) == 0 &&
		cap_set_flag(caps, CAP_EFFECTIVE, ARRAY_SIZE(kept), kept, CAP_SET) == 0 &&
		cap_set_proc(caps) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
	int r = ok ? 0 : err_errno(err, "drop capabilities");
	cap_free(caps);
	return r;
}

static int exit_code(int code)
{
	switch (code) {
	case 0:
		return 0;
	case -EBADMSG:
		return 1;
	case -EFBIG:
		return 2;
	case -ENOSPC:
	case -EDQUOT:
		return 3;
	default:
		return 4;
	}
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	char diff_id[72];
	if (argc != 5) {
		fputs("usage: bulkhead-unpack BLOB DIRECTORY BYTES FILES\n", stderr);
		return 4;
	}
	const struct unpack_limits limits = {
		.bytes = strtoull(argv[3], NULL, 10),
		.files = strtoull(argv[4], NULL, 10),
	};
	/* Names in pax headers are UTF-8; without such a locale libarchive gives up on them. */
	setlocale(LC_ALL, "C.UTF-8");
	umask(0);
	_cleanup_close_ int blob = open(argv[1], O_RDONLY | O_CLOEXEC);
	int r = blob < 0 ? err_errno(&err, "open %s", argv[1]) : enter(argv[2], &err);
	if (r == 0)
		r = drop_capabilities(&err);
	if (r == 0)
		r = unpack_layer(blob, &limits, diff_id, &err);
	if (r < 0)
		fprintf(stderr, "%s\n", err.msg);
	else
		puts(diff_id);
	return exit_code(r);
}
