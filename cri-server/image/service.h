/* The methods of runtime.v1.ImageService; rpc_call_userdata() must be a struct daemon. */
#pragma once

#include "cri-server/image/image.h"
#include "cri-server/rpc/server.h"

extern const struct rpc_service image_service;

/* The pulls that run, as JSON for the runtime's verbose status; NULL: no memory. Caller frees. */
char *image_service_pulls(struct img *img);
