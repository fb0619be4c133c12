/* The methods of runtime.v1.ImageService; rpc_call_userdata() must be a struct daemon. */
#pragma once

#include "cri-server/rpc/server.h"

extern const struct rpc_service image_service;
