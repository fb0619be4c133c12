#include "cri-server/cli/tar_out.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <string.h>

#include "common/fd.h"

struct writer {
	struct archive *disk, *tar;
	const char *path, *to;
};

static int failed(struct archive *archive, const char *name, struct err *err)
{
	int code = archive_errno(archive);
	const char *why = archive_error_string(archive);
	return err_set(err, code > 0 ? -code : -EIO, "%s: %s", name, why ? why : "?");
}

static int copy_data(struct writer *w, const char *name, struct err *err)
{
	char data[65536];
	la_ssize_t n;
	while ((n = archive_read_data(w->disk, data, sizeof(data))) > 0)
		if (archive_write_data(w->tar, data, (size_t)n) < 0)
			return failed(w->tar, name, err);
	return n < 0 ? failed(w->disk, name, err) : 0;
}

static int write_entry(struct writer *w, struct archive_entry *entry, struct err *err)
{
	const char *name = archive_entry_pathname(entry);
	if (archive_entry_filetype(entry) == AE_IFSOCK)
		return 0;
	_cleanup_free_ char *inside = str_printf("%s%s", w->to, name + strlen(w->path));
	_cleanup_free_ char *source = strdup(name);
	if (!inside || !source)
		return err_nomem(err);
	archive_entry_set_pathname(entry, inside);
	archive_entry_set_uid(entry, 0);
	archive_entry_set_gid(entry, 0);
	archive_entry_set_uname(entry, "");
	archive_entry_set_gname(entry, "");
	if (archive_write_header(w->tar, entry) < ARCHIVE_WARN)
		return failed(w->tar, source, err);
	return archive_entry_size(entry) > 0 ? copy_data(w, source, err) : 0;
}

static int write_all(struct writer *w, struct err *err)
{
	struct archive_entry *entry = archive_entry_new();
	int r = entry ? 0 : err_nomem(err);
	while (r == 0) {
		archive_entry_clear(entry);
		int next = archive_read_next_header2(w->disk, entry);
		if (next == ARCHIVE_EOF)
			break;
		r = next < ARCHIVE_WARN ? failed(w->disk, w->path, err)
					: write_entry(w, entry, err);
		if (r == 0)
			archive_read_disk_descend(w->disk);
	}
	archive_entry_free(entry);
	return r;
}

/* GNU's form: every tar reads its long names. */
int tar_out_write(int fd, const char *path, const char *to, struct err *err)
{
	struct writer w = {.disk = archive_read_disk_new(),
		.tar = archive_write_new(),
		.path = path,
		.to = to};
	int r = w.disk && w.tar ? 0 : err_nomem(err);
	if (r == 0) {
		archive_read_disk_set_symlink_physical(w.disk);
		archive_read_disk_set_behavior(w.disk, ARCHIVE_READDISK_NO_ACL |
							       ARCHIVE_READDISK_NO_XATTR |
							       ARCHIVE_READDISK_NO_FFLAGS);
		archive_write_set_format_gnutar(w.tar);
		if (archive_write_open_fd(w.tar, fd) != ARCHIVE_OK)
			r = failed(w.tar, path, err);
		else if (archive_read_disk_open(w.disk, path) != ARCHIVE_OK)
			r = failed(w.disk, path, err);
	}
	if (r == 0)
		r = write_all(&w, err);
	if (r == 0 && archive_write_close(w.tar) != ARCHIVE_OK)
		r = failed(w.tar, path, err);
	archive_read_free(w.disk);
	archive_write_free(w.tar);
	return r;
}
