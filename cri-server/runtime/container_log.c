/* The log of a container that runs: its streams are followed from its start to their ends. */
#include <errno.h>
#include <unistd.h>

#include "common/fd.h"
#include "cri-server/runtime/internal.h"

#define CALL_MS 10000

static char *log_state_path(const struct container *c)
{
	return str_printf("%s/logs/%s", c->runtime->config->state_dir, c->id);
}

struct opening {
	struct container *container;
	struct machine *machine;
	struct log_writer *writer;
	uint64_t until_ms;
};

static int follow_stream(
	const struct opening *opening, Bulkhead__Agent__Stream stream, struct err *err)
{
	uint64_t left = ev_left_ms(opening->until_ms);
	if (!left)
		return err_set(err, -ETIMEDOUT, "the guest took all of the time for other logs");
	Bulkhead__Agent__StreamOpen open = BULKHEAD__AGENT__STREAM_OPEN__INIT;
	open.container_id = opening->container->id;
	open.stream = stream;
	open.offset = log_writer_offset(opening->writer, stream);
	int fd;
	uint64_t offset; /* later than asked where nothing was kept: a container without a log */
	int r = agent_stream_open(
		opening->machine->agent, &open, left < CALL_MS ? left : CALL_MS, &fd, &offset, err);
	return r < 0 ? r : log_writer_follow(opening->writer, stream, fd, offset, err);
}

static void tee(void *userdata, Bulkhead__Agent__Stream stream, const void *data, size_t len)
{
	fanout_write(userdata, stream, data, len);
}

int container_resume_log(
	struct container *c, struct machine *machine, uint64_t until_ms, struct err *err)
{
	_cleanup_free_ char *state_path = log_state_path(c);
	if (!state_path)
		return err_nomem(err);
	struct log_writer *writer;
	int r = log_writer_new(c->runtime->logs, c->record->log_path, state_path, &writer, err);
	if (r < 0)
		return r;
	log_writer_tee(writer, tee, c->fanout);
	const struct opening opening = {c, machine, writer, until_ms};
	r = follow_stream(&opening, BULKHEAD__AGENT__STREAM__STDOUT, err);
	if (r == 0 && !c->config->tty)
		r = follow_stream(&opening, BULKHEAD__AGENT__STREAM__STDERR, err);
	if (r < 0) {
		log_writer_unref(writer);
		return r;
	}
	pthread_mutex_lock(&c->runtime->lock);
	c->log = writer;
	pthread_mutex_unlock(&c->runtime->lock);
	return 0;
}

int container_open_log(struct container *c, struct machine *machine, struct err *err)
{
	return container_resume_log(c, machine, UINT64_MAX, err);
}

void container_close_log(struct container *c)
{
	pthread_mutex_lock(&c->runtime->lock);
	struct log_writer *writer = TAKE_PTR(c->log);
	pthread_mutex_unlock(&c->runtime->lock);
	log_writer_unref(writer);
}

bool container_drain_log(struct container *c, uint64_t until_ms)
{
	pthread_mutex_lock(&c->runtime->lock);
	struct log_writer *writer = c->log ? log_writer_ref(c->log) : NULL;
	bool logs = c->record->log_path[0];
	pthread_mutex_unlock(&c->runtime->lock);
	/* Where a start could not resume its log, the guest still has what it wrote. */
	bool drained = writer ? log_writer_wait(writer, ev_left_ms(until_ms)) : !logs;
	log_writer_unref(writer);
	return drained;
}

void container_discard_log(struct container *c)
{
	container_close_log(c);
	_cleanup_free_ char *state_path = log_state_path(c);
	if (state_path)
		unlink(state_path);
}
