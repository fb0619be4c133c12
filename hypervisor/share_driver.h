/*
 * For tests: a share's client, which is QEMU and the guest's driver in one. QEMU's part is done as
 * QEMU does it (vhost-user, front-end side); the driver's requests are the test's, right or wrong.
 *
 * Guest memory and rings are those of hypervisor/vsock/testing.h, whose buffers come in pairs here:
 * a slot is a chain of two descriptors, a request and room for its reply. Nobody here is trusted to
 * answer: each wait has an end. Every failure to set it up ends the program.
 */
#pragma once

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hypervisor/vsock/testing.h"

/* The queues. virtiofsd has a thread for each, and takes any request from both. */
enum {
	SD_HIPRIO,
	SD_REQUESTS,
};
#define SD_SLOTS (VST_RING_SIZE / 2)

struct sd {
	struct vst_guest guest;
	int socket;
	int kick_fds[VS_QUEUES];
	int call_fds[VS_QUEUES];
	bool done[VS_QUEUES][VST_RING_SIZE]; /* which chains came back, by their heads */
	uint64_t unique;
};

/* A header, and what comes behind it, in this order; each part may be missing. */
struct sd_request {
	uint32_t opcode;
	uint32_t uid; /* the group's id too */
	uint64_t node;
	const void *arg;
	size_t arg_size;
	const char *names[2]; /* each goes with its zero */
	const void *data;
	size_t data_size;
};

struct sd_reply {
	size_t size;
	_Alignas(8) uint8_t data[VST_BUFFER_SIZE];
};

/* What the functions below give beside 0 and a negative errno, which is what virtiofsd replied. */
enum {
	SD_ENDED = 1, /* it closed the connection: it has ended */
	SD_SILENT,    /* ten seconds without an answer */
};

/* Connects, and sets both queues up. Not INIT: that is a request like others. */
void sd_start(struct sd *sd, const char *socket);
void sd_done(struct sd *sd);

/* The buffer of a slot's request; the one for the reply follows it. */
uint64_t sd_buffer(const struct sd *sd, unsigned queue, unsigned slot);
/* Writes the request into its buffer, without its descriptors; gives its size. */
uint32_t sd_write(struct sd *sd, unsigned queue, unsigned slot, const struct sd_request *request);
/* Offers a slot's chain with this room for the reply; 0: no descriptor for it. */
void sd_offer(struct sd *sd, unsigned queue, unsigned slot, uint32_t size, uint32_t reply_size);
void sd_kick(struct sd *sd, unsigned queue);
/* Until the slot's chain comes back. 0, SD_ENDED or SD_SILENT. */
int sd_wait(struct sd *sd, unsigned queue, unsigned slot);
/* What is in a slot that came back. `ret` may be NULL. */
int sd_read(const struct sd *sd, unsigned queue, unsigned slot, struct sd_reply *ret);

/* All of the above, for one request in a slot that no other uses. */
int sd_call(struct sd *sd, const struct sd_request *request, struct sd_reply *ret);
int sd_init(struct sd *sd);
