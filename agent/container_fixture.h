/*
 * Containers on the host, for tests: a loop, an EROFS layer on a loop device with busybox in it, a
 * cgroup tree and mounts of the test's own. One thread; functions fail the test that calls them.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "agent/container.h"

#define OUTPUT_MAX 8192

struct world {
	struct ev_loop *loop;
	struct reaper *reaper;
	struct container_host *host;
	struct ids ids;
	struct ev_source *watchdog;
	const char *skip; /* why nothing can be tested here */
};

/* One process, container's or exec's, and what came of it. */
struct run {
	struct world *world;
	struct container *container;
	struct container_exec *exec;
	int out; /* reads its output */
	bool done, started, exited, removed;
	pid_t pid;
	int status;
	struct err err;
};

struct streams {
	struct stdio_child child;
	int out;
};

/* A request of a container that runs `sh -c script`. */
struct request {
	Bulkhead__Agent__CreateContainerRequest message;
	Bulkhead__Agent__Process process;
	Bulkhead__Agent__User user;
	char *args[3];
	char *env[1];
	char *capabilities[2];
	uint32_t targets[1];
};

/*
 * Runs tests() in a child with a world, and removes what that leaves; returns its result. Where
 * containers cannot run here, `skip` of the world says why.
 */
int fixture_run(int (*tests)(struct world *world));

/* Runs the loop until *flag. */
void wait_for(struct world *world, const bool *flag);

struct streams streams_make(void);
/* Closes the child's ends. */
void streams_forked(struct streams *streams);

void request_init(struct request *r, const char *id, const char *script);
/* The callbacks of a run, whose userdata it is. */
struct container_callbacks run_callbacks(struct run *run);

void run_create(struct world *world, struct request *request, struct run *run);
void run_start(struct run *run);
/* Closes its output too. */
void run_remove(struct run *run);
/* Executes the script in the other run's container. */
void run_exec(struct run *container, const char *script, struct run *run);

/* Reads until end of file. */
void read_output(int fd, char out[static OUTPUT_MAX]);
/* Runs the container to its end and returns its exit code. */
int run_all(struct world *world, struct request *request, char out[static OUTPUT_MAX]);
int run_script(struct world *world, const char *script, char out[static OUTPUT_MAX]);
