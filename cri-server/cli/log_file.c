#include "cri-server/cli/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/cli/log_time.h"
#include "cri-server/cli/output.h"

/* Runtimes cut lines at 16 KiB by default; one that is longer than this is passed on as it is. */
#define LINE_BYTES_MAX 65536

struct log_file {
	char *path;
	int fd; /* negative until the file exists */
	char buffer[LINE_BYTES_MAX];
	size_t used;
	struct log_style style;
	bool begun[3]; /* by descriptor: a part of a line was written */
};

/* Takes a line of len bytes, which fills `taken` of the file; the text is valid during the call. */
typedef int (*line_fn)(void *userdata, const char *line, size_t len, size_t taken, struct err *err);

int log_entry_parse(const char *line, size_t len, struct log_entry *entry)
{
	const char *end = line + len;
	const char *stream = memchr(line, ' ', len);
	if (!stream || end - ++stream < 9) /* "stdout F " */
		return -EBADMSG;
	if (memcmp(stream, "stdout ", 7) == 0)
		entry->fd = STDOUT_FILENO;
	else if (memcmp(stream, "stderr ", 7) == 0)
		entry->fd = STDERR_FILENO;
	else
		return -EBADMSG;

	/* Tags are separated by colons; the first says whether the line is whole. */
	const char *tags = stream + 7;
	const char *text = memchr(tags, ' ', (size_t)(end - tags));
	if (!text || (tags[0] != 'F' && tags[0] != 'P') || (tags[1] != ' ' && tags[1] != ':'))
		return -EBADMSG;
	entry->partial = tags[0] == 'P';
	entry->time = line;
	entry->time_len = (size_t)(stream - 1 - line);
	entry->text = text + 1;
	entry->len = (size_t)(end - entry->text);
	return 0;
}

int log_file_open(const char *path, struct log_file **ret, struct err *err)
{
	struct log_file *file = calloc(1, sizeof(*file));
	if (!file)
		return err_nomem(err);
	file->path = strdup(path);
	if (!file->path) {
		free(file);
		return err_nomem(err);
	}
	file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (file->fd < 0 && errno != ENOENT) {
		int r = err_errno(err, "open the log %s", path);
		log_file_close(file);
		return r;
	}
	*ret = file;
	return 0;
}

void log_file_set_style(struct log_file *file, const struct log_style *style)
{
	file->style = *style;
}

struct log_file *log_file_close(struct log_file *file)
{
	if (!file)
		return NULL;
	fd_close(file->fd);
	free(file->path);
	free(file);
	return NULL;
}

/* Takes the whole lines out of the buffer. */
static int take_lines(struct log_file *file, line_fn fn, void *userdata, struct err *err)
{
	size_t done = 0;
	char *newline;
	while ((newline = memchr(file->buffer + done, '\n', file->used - done))) {
		size_t len = (size_t)(newline - (file->buffer + done));
		int r = fn(userdata, file->buffer + done, len, len + 1, err);
		if (r < 0)
			return r;
		done += len + 1;
	}
	if (done == 0 && file->used == sizeof(file->buffer)) {
		int r = fn(userdata, file->buffer, file->used, file->used, err);
		if (r < 0)
			return r;
		done = file->used;
	}
	file->used -= done;
	memmove(file->buffer, file->buffer + done, file->used);
	return 0;
}

static int each_line(struct log_file *file, line_fn fn, void *userdata, struct err *err)
{
	for (;;) {
		ssize_t n = read(
			file->fd, file->buffer + file->used, sizeof(file->buffer) - file->used);
		if (n < 0)
			return err_errno(err, "read the log %s", file->path);
		if (n == 0)
			return 0;
		file->used += (size_t)n;
		int r = take_lines(file, fn, userdata, err);
		if (r < 0)
			return r;
	}
}

static int count_line(void *userdata, const char *line, size_t len, size_t taken, struct err *err)
{
	struct log_entry entry;
	(void)taken, (void)err;
	*(size_t *)userdata += log_entry_parse(line, len, &entry) < 0 || !entry.partial;
	return 0;
}

struct skip {
	size_t lines; /* still to skip */
	off_t offset; /* of the line after those */
};

static int skip_line(void *userdata, const char *line, size_t len, size_t taken, struct err *err)
{
	struct skip *skip = userdata;
	size_t ends = 0;
	if (skip->lines > 0) {
		count_line(&ends, line, len, taken, err);
		skip->lines -= ends;
		skip->offset += (off_t)taken;
	}
	return 0;
}

int log_file_seek_tail(struct log_file *file, size_t n, struct err *err)
{
	size_t total = 0;
	if (file->fd < 0)
		return 0;
	int r = each_line(file, count_line, &total, err);
	if (r < 0)
		return r;
	struct skip skip = {.lines = total > n ? total - n : 0};
	file->used = 0;
	if (lseek(file->fd, 0, SEEK_SET) < 0)
		return err_errno(err, "seek in the log %s", file->path);
	r = each_line(file, skip_line, &skip, err);
	if (r < 0)
		return r;
	file->used = 0;
	if (lseek(file->fd, skip.offset, SEEK_SET) < 0)
		return err_errno(err, "seek in the log %s", file->path);
	return 0;
}

static int write_text(
	const struct log_file *file, int fd, const char *text, size_t len, struct err *err)
{
	if (!file->style.escaped[fd])
		return fd_write_all(fd, text, len, err);
	_cleanup_free_ char *escaped = output_escape_line(text, len);
	return escaped ? fd_write_all(fd, escaped, strlen(escaped), err) : err_nomem(err);
}

static bool is_old(const struct log_file *file, const struct log_entry *entry)
{
	int64_t ns;
	return file->style.since_ns && log_time_parse(entry->time, entry->time_len, &ns) == 0 &&
	       ns < file->style.since_ns;
}

static int copy_line(void *userdata, const char *line, size_t len, size_t taken, struct err *err)
{
	struct log_file *file = userdata;
	struct log_entry entry;
	int r = 0;
	(void)taken;
	if (log_entry_parse(line, len, &entry) < 0)
		entry = (struct log_entry){
			.fd = STDOUT_FILENO, .time = line, .text = line, .len = len};
	if (is_old(file, &entry))
		return 0;
	if (file->style.timestamps && !file->begun[entry.fd] && entry.time_len) {
		r = write_text(file, entry.fd, entry.time, entry.time_len, err);
		if (r == 0)
			r = fd_write_all(entry.fd, " ", 1, err);
	}
	if (r == 0)
		r = write_text(file, entry.fd, entry.text, entry.len, err);
	if (r == 0 && !entry.partial)
		r = fd_write_all(entry.fd, "\n", 1, err);
	file->begun[entry.fd] = entry.partial;
	return r;
}

/* Opens the file that now has the path, if it is another one; true if it did. */
static bool reopen(struct log_file *file)
{
	struct stat ours, now;
	if (stat(file->path, &now) < 0)
		return false;
	if (file->fd >= 0 && fstat(file->fd, &ours) == 0 && ours.st_ino == now.st_ino &&
		ours.st_dev == now.st_dev)
		return false;
	int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return false;
	fd_close(file->fd);
	file->fd = fd;
	file->used = 0;
	return true;
}

int log_file_copy(struct log_file *file, struct err *err)
{
	do {
		if (file->fd < 0)
			continue;
		int r = each_line(file, copy_line, file, err);
		if (r < 0)
			return r;
	} while (reopen(file));
	return 0;
}
