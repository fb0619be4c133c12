/*
 * A batch is what one read brought in whole lines (and parts of over-long ones), formatted. It is
 * written in this order: (1) the note {file, its size before and after, both offsets before and
 * after} with one pwrite; (2) the lines; (3) the acknowledgement to the agent. resume() reads the
 * note back.
 */
#include "cri-server/runtime/logs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/client/client.h"
#include "common/buf.h"
#include "common/fd.h"
#include "common/loop.h"

#define READ_BYTES 65536
#define RETRY_MS   1000
#define NOTE_MAGIC 0x31676f6c6862u /* "bhlog1" */
#define STREAMS    2
/* A formatted line of one byte is at most this much longer than its content. */
#define LINE_PREFIX 64

struct logs {
	struct ev_loop *loop;
	pthread_t thread;
	const struct log *log;
};

/* Where a crash is looked up: written whole before each batch. Native byte order: it never leaves
 * the host. */
struct note {
	uint64_t magic;
	uint64_t device, inode;                   /* of the log file */
	uint64_t size_before, size_after;         /* of the log file */
	uint64_t before[STREAMS], after[STREAMS]; /* stream offsets that are in the file */
};

struct log_stream {
	struct log_writer *writer;
	struct ev_source *source;
	int fd;
	const char *name;
	uint64_t written;      /* offset of the first byte that is not in the file */
	uint64_t acknowledged; /* to the agent: at most `written` */
	struct buf line;       /* bytes read and not written: the offset `written` is its start */
};

struct log_writer {
	struct logs *logs;
	atomic_uint refs;
	pthread_mutex_t lock; /* protects all below; taken by the loop's thread and callers */
	pthread_cond_t drained;
	char *path;
	int fd;       /* -EBADF: dropped */
	int state_fd; /* likewise */
	bool broken;  /* the last write failed: streams are not read until `retry` fires */
	struct ev_source *retry;
	log_tee_fn tee; /* set once, before anything is followed */
	void *tee_userdata;
	struct log_stream streams[STREAMS];
};

static void *run_loop(void *arg)
{
	struct logs *logs = arg;
	ev_loop_run(logs->loop, NULL);
	return NULL;
}

int logs_open(const struct log *log, struct logs **ret, struct err *err)
{
	struct logs *logs = calloc(1, sizeof(*logs));
	if (!logs)
		return err_nomem(err);
	logs->log = log;
	int r = ev_loop_new(&logs->loop, err);
	if (r == 0) {
		r = -pthread_create(&logs->thread, NULL, run_loop, logs);
		if (r < 0)
			err_set(err, r, "start the log thread: %s", strerror(-r));
	}
	if (r < 0) {
		ev_loop_free(logs->loop);
		free(logs);
		return r;
	}
	*ret = logs;
	return 0;
}

struct logs *logs_close(struct logs *logs)
{
	if (!logs)
		return NULL;
	ev_loop_stop(logs->loop);
	pthread_join(logs->thread, NULL);
	ev_loop_free(logs->loop);
	free(logs);
	return NULL;
}

/* A job for the loop's thread that the caller waits for. */
struct errand {
	void (*run)(struct errand *errand);
	struct log_writer *writer;
	struct log_stream *stream;
	int result;
	struct err *err;
	bool done;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};

static void errand_main(void *userdata)
{
	struct errand *errand = userdata;
	errand->run(errand);
	pthread_mutex_lock(&errand->lock);
	errand->done = true;
	pthread_cond_signal(&errand->cond);
	pthread_mutex_unlock(&errand->lock);
}

/* Sources of a loop may be made and freed on its thread only. */
static int on_loop_thread(struct errand *errand)
{
	pthread_mutex_init(&errand->lock, NULL);
	pthread_cond_init(&errand->cond, NULL);
	int r = ev_post(errand->writer->logs->loop, errand_main, errand);
	if (r == 0) {
		pthread_mutex_lock(&errand->lock);
		while (!errand->done)
			pthread_cond_wait(&errand->cond, &errand->lock);
		pthread_mutex_unlock(&errand->lock);
		r = errand->result;
	} else {
		err_nomem(errand->err);
	}
	pthread_cond_destroy(&errand->cond);
	pthread_mutex_destroy(&errand->lock);
	return r;
}

static size_t stream_index(Bulkhead__Agent__Stream stream)
{
	return stream == BULKHEAD__AGENT__STREAM__STDERR ? 1 : 0;
}

static int open_log(const char *path, struct err *err)
{
	_cleanup_free_ char *directory = strdup(path);
	if (!directory)
		return err_nomem(err);
	char *slash = strrchr(directory, '/');
	if (slash && slash != directory) {
		*slash = '\0';
		int r = fd_mkdir_all(directory, 0755, err);
		if (r < 0)
			return r;
	}
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (fd < 0)
		return err_errno(err, "open the log %s", path);
	struct stat st;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		fd_close(fd);
		return err_set(err, -EINVAL, "the log %s is not a regular file", path);
	}
	return fd;
}

/*
 * Compares the note with the file: decides which offsets hold, and cuts off a batch that a crash
 * left in part.
 */
static int resume(struct log_writer *w, struct err *err)
{
	struct note note;
	ssize_t n = pread(w->state_fd, &note, sizeof(note), 0);
	if (n < 0)
		return err_errno(err, "read the state of the log %s", w->path);
	if ((size_t)n != sizeof(note) || note.magic != NOTE_MAGIC)
		return 0; /* never written */

	struct stat st;
	if (fstat(w->fd, &st) < 0)
		return err_errno(err, "stat the log %s", w->path);
	uint64_t size = (uint64_t)st.st_size;
	bool same = st.st_dev == note.device && st.st_ino == note.inode;
	/* Rotated away meanwhile: the batch went to a file that is no longer ours to judge. */
	bool complete = !same || size >= note.size_after;
	if (same && size > note.size_before && !complete &&
		ftruncate(w->fd, (off_t)note.size_before) < 0)
		return err_errno(err, "cut the unfinished end off the log %s", w->path);
	for (size_t i = 0; i < STREAMS; i++)
		w->streams[i].written = complete ? note.after[i] : note.before[i];
	return 0;
}

int log_writer_new(struct logs *logs, const char *path, const char *state_path,
	struct log_writer **ret, struct err *err)
{
	struct log_writer *w = calloc(1, sizeof(*w));
	if (!w)
		return err_nomem(err);
	w->logs = logs;
	atomic_init(&w->refs, 1);
	w->fd = w->state_fd = -EBADF;
	pthread_mutex_init(&w->lock, NULL);
	ev_cond_init(&w->drained);
	for (size_t i = 0; i < STREAMS; i++)
		w->streams[i] = (struct log_stream){
			.writer = w,
			.fd = -EBADF,
			.name = i ? "stderr" : "stdout",
			.line = buf_init(LOG_LINE_MAX + READ_BYTES),
		};

	int r = 0;
	w->path = path && path[0] ? strdup(path) : NULL;
	if (path && path[0] && !w->path)
		r = err_nomem(err);
	if (r == 0 && w->path) {
		r = w->fd = open_log(w->path, err);
		if (r >= 0) {
			w->state_fd = open(state_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
			if (w->state_fd < 0)
				r = err_errno(err, "open %s", state_path);
		}
		if (r >= 0)
			r = resume(w, err);
	}
	if (r < 0) {
		log_writer_unref(w);
		return r;
	}
	*ret = w;
	return 0;
}

uint64_t log_writer_offset(struct log_writer *w, Bulkhead__Agent__Stream stream)
{
	pthread_mutex_lock(&w->lock);
	uint64_t offset = w->streams[stream_index(stream)].written;
	pthread_mutex_unlock(&w->lock);
	return offset;
}

/* Appends one line, or with tag 'P' a part of one, in the log's format. */
static int format_line(struct buf *out, const char *stream, char tag, const char *line, size_t len)
{
	struct timespec now;
	struct tm tm;
	char stamp[32];
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	int r = buf_printf(out, "%s.%09ldZ %s %c ", stamp, now.tv_nsec, stream, tag);
	if (r == 0)
		r = buf_append(out, line, len);
	return r < 0 ? r : buf_append(out, "\n", 1);
}

/*
 * Formats every complete line at the front of the stream's bytes; at the end of the stream also
 * what has no newline. *ret_used is how many bytes that were.
 */
static int format_batch(struct log_stream *s, bool at_end, struct buf *out, size_t *ret_used)
{
	size_t used = 0;
	int r = 0;
	while (r == 0 && used < s->line.len) {
		const char *line = s->line.data + used;
		size_t left = s->line.len - used;
		size_t window = left < LOG_LINE_MAX ? left : LOG_LINE_MAX;
		const char *newline = memchr(line, '\n', window);
		if (newline) {
			size_t len = (size_t)(newline - line);
			r = format_line(out, s->name, 'F', line, len);
			used += len + 1;
		} else if (window == LOG_LINE_MAX || at_end) {
			/* The end of a stream without a newline is a part that nothing follows. */
			r = format_line(out, s->name, 'P', line, window);
			used += window;
		} else {
			break;
		}
	}
	*ret_used = used;
	return r;
}

/* That so many bytes of the stream are to become `len` bytes at the end of the log file. */
static int write_note(
	struct log_writer *w, const struct stat *file, size_t stream, size_t used, size_t len)
{
	struct note note = {
		.magic = NOTE_MAGIC,
		.device = file->st_dev,
		.inode = file->st_ino,
		.size_before = (uint64_t)file->st_size,
		.size_after = (uint64_t)file->st_size + len,
	};
	for (size_t i = 0; i < STREAMS; i++) {
		note.before[i] = w->streams[i].written;
		note.after[i] = w->streams[i].written + (i == stream ? used : 0);
	}
	ssize_t n = pwrite(w->state_fd, &note, sizeof(note), 0);
	if (n == (ssize_t)sizeof(note))
		return 0;
	return n < 0 ? -errno : -EIO;
}

/* Writes a batch with its note before it. On failure the file is as before. */
static int write_batch(struct log_writer *w, size_t stream, const struct buf *batch, size_t used)
{
	struct stat st;
	if (fstat(w->fd, &st) < 0)
		return -errno;
	int r = write_note(w, &st, stream, used, batch->len);
	if (r < 0)
		return r;
	r = fd_write_all(w->fd, batch->data, batch->len, NULL);
	if (r < 0 && ftruncate(w->fd, st.st_size) < 0)
		return -errno;
	return r;
}

/* A guest that does not read its acknowledgements gets them later; it holds up itself alone. */
static void acknowledge(struct log_stream *s)
{
	if (s->fd < 0 || s->acknowledged == s->written)
		return;
	if (agent_stream_ack(s->fd, s->written, NULL) > 0)
		ev_timer_set(s->writer->retry, RETRY_MS);
	else
		s->acknowledged = s->written;
}

/* Moves whole lines from the stream to the file. The lock is held. */
static int flush(struct log_stream *s, bool at_end)
{
	struct log_writer *w = s->writer;
	struct buf batch = buf_init(2 * s->line.max + LINE_PREFIX * (s->line.len + 1));
	size_t used = s->line.len;
	int r = 0;
	if (w->fd >= 0) {
		r = format_batch(s, at_end, &batch, &used);
		if (r == 0 && used)
			r = write_batch(w, (size_t)(s - w->streams), &batch, used);
	}
	buf_done(&batch);
	if (r < 0)
		return r;
	s->written += used;
	buf_consume(&s->line, used);
	acknowledge(s);
	return 0;
}

static void end_stream(struct log_stream *s)
{
	s->source = ev_source_free(s->source);
	s->fd = fd_close(s->fd);
	pthread_cond_broadcast(&s->writer->drained);
}

static void pause_writing(struct log_writer *w, int code)
{
	if (!w->broken)
		log_event(w->logs->log, LOG_LEVEL_ERROR, "log cannot be written, its writer waits",
			"path", w->path, "err", strerror(-code), NULL);
	w->broken = true;
	/* Not just without events: a peer that hung up would wake the loop for ever. */
	for (size_t i = 0; i < STREAMS; i++)
		w->streams[i].source = ev_source_free(w->streams[i].source);
	ev_timer_set(w->retry, RETRY_MS);
}

static Bulkhead__Agent__Stream stream_of(const struct log_stream *s)
{
	return s == s->writer->streams ? BULKHEAD__AGENT__STREAM__STDOUT
				       : BULKHEAD__AGENT__STREAM__STDERR;
}

static void on_readable(void *userdata, uint32_t events)
{
	struct log_stream *s = userdata;
	struct log_writer *w = s->writer;
	(void)events;

	pthread_mutex_lock(&w->lock);
	char *to = buf_reserve(&s->line, READ_BYTES);
	if (!to) {
		pause_writing(w, -ENOMEM);
	} else {
		ssize_t n = recv(s->fd, to, READ_BYTES, MSG_DONTWAIT);
		bool ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
		if (w->tee && (n > 0 || ended))
			w->tee(w->tee_userdata, stream_of(s), to, ended ? 0 : (size_t)n);
		if (n > 0)
			buf_commit(&s->line, (size_t)n);
		int r = n > 0 || ended ? flush(s, ended) : 0;
		if (r < 0)
			pause_writing(w, r);
		else if (ended)
			end_stream(s);
	}
	pthread_mutex_unlock(&w->lock);
}

/* Reads the stream whenever there is something, once writing works. On the loop's thread. */
static int watch(struct log_stream *s, struct err *err)
{
	if (s->fd < 0 || s->source || s->writer->broken)
		return 0;
	return ev_io_new(s->writer->logs->loop, s->fd, EPOLLIN, on_readable, s, &s->source, err);
}

static void on_retry(void *userdata)
{
	struct log_writer *w = userdata;
	pthread_mutex_lock(&w->lock);
	int r = 0;
	for (size_t i = 0; i < STREAMS && r == 0; i++)
		r = flush(&w->streams[i], false);
	if (r < 0) {
		pause_writing(w, r);
	} else {
		w->broken = false;
		for (size_t i = 0; i < STREAMS && r == 0; i++)
			r = watch(&w->streams[i], NULL);
		if (r < 0)
			pause_writing(w, r);
	}
	pthread_mutex_unlock(&w->lock);
}

static void follow_errand(struct errand *errand)
{
	struct log_writer *w = errand->writer;
	struct log_stream *s = errand->stream;
	pthread_mutex_lock(&w->lock);
	if (!w->retry)
		errand->result = ev_timer_new(
			w->logs->loop, UINT64_MAX, on_retry, w, &w->retry, errand->err);
	if (errand->result == 0)
		errand->result = watch(s, errand->err);
	if (errand->result < 0)
		s->fd = fd_close(s->fd);
	pthread_mutex_unlock(&w->lock);
}

int log_writer_follow(struct log_writer *w, Bulkhead__Agent__Stream stream, int fd, uint64_t offset,
	struct err *err)
{
	struct log_stream *s = &w->streams[stream_index(stream)];
	pthread_mutex_lock(&w->lock);
	s->fd = fd;
	s->written = s->acknowledged = offset;
	pthread_mutex_unlock(&w->lock);
	struct errand errand = {.run = follow_errand, .writer = w, .stream = s, .err = err};
	return on_loop_thread(&errand);
}

void log_writer_tee(struct log_writer *w, log_tee_fn fn, void *userdata)
{
	w->tee = fn;
	w->tee_userdata = userdata;
}

/*
 * While the last batch could not be written, its note names the old file. A crash would find
 * another and take the batch for rotated away: so the note must name the new one before that is
 * written to.
 */
static int note_pending(struct log_writer *w, int fd, struct err *err)
{
	struct stat st;
	if (!w->broken)
		return 0;
	if (fstat(fd, &st) < 0)
		return err_errno(err, "stat the log %s", w->path);
	int r = write_note(w, &st, 0, 0, 0);
	return r < 0 ? err_set(err, r, "note where the log %s goes on: %s", w->path, strerror(-r))
		     : 0;
}

int log_writer_reopen(struct log_writer *w, struct err *err)
{
	if (!w->path)
		return 0;
	_cleanup_close_ int fd = open_log(w->path, err);
	if (fd < 0)
		return fd;
	pthread_mutex_lock(&w->lock);
	int r = note_pending(w, fd, err);
	if (r == 0) {
		int old = w->fd;
		w->fd = TAKE_FD(fd);
		fd = old;
	}
	pthread_mutex_unlock(&w->lock);
	return r;
}

bool log_writer_wait(struct log_writer *w, uint64_t timeout_ms)
{
	uint64_t until_ms = ev_now_ms() + timeout_ms;
	bool done = false;
	pthread_mutex_lock(&w->lock);
	for (int r = 0; r != ETIMEDOUT;) {
		done = w->streams[0].fd < 0 && w->streams[1].fd < 0;
		if (done)
			break;
		r = ev_cond_wait(&w->drained, &w->lock, until_ms);
	}
	pthread_mutex_unlock(&w->lock);
	return done;
}

static void stop_errand(struct errand *errand)
{
	struct log_writer *w = errand->writer;
	w->retry = ev_source_free(w->retry);
	for (size_t i = 0; i < STREAMS; i++)
		w->streams[i].source = ev_source_free(w->streams[i].source);
}

struct log_writer *log_writer_ref(struct log_writer *w)
{
	atomic_fetch_add(&w->refs, 1);
	return w;
}

struct log_writer *log_writer_unref(struct log_writer *w)
{
	if (!w || atomic_fetch_sub(&w->refs, 1) > 1)
		return NULL;
	if (w->retry) {
		struct errand errand = {.run = stop_errand, .writer = w};
		on_loop_thread(&errand);
	}
	for (size_t i = 0; i < STREAMS; i++) {
		fd_close(w->streams[i].fd);
		buf_done(&w->streams[i].line);
	}
	fd_close(w->fd);
	fd_close(w->state_fd);
	pthread_cond_destroy(&w->drained);
	pthread_mutex_destroy(&w->lock);
	free(w->path);
	free(w);
	return NULL;
}
