/* The methods of runtime.v1.ImageService; rpc_call_userdata() must be a struct daemon. */
#pragma once

#include "cri-server/image/image.h"
#include "cri-server/rpc/server.h"

extern const struct rpc_service image_service;

/*
 * ListImages' answer to who wants all images, kept for as long as the list does not change: clients
 * ask again and again, and a node may have a thousand. Threads: any.
 */
struct image_answers;
int image_answers_new(struct image_answers **ret, struct err *err);
/* NULL is accepted. Returns NULL. */
struct image_answers *image_answers_free(struct image_answers *answers);

/* The pulls that run, as JSON for the runtime's verbose status; NULL: no memory. Caller frees. */
char *image_service_pulls(struct img *img);
