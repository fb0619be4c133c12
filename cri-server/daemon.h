/*
 * What main() opens and the two services find again through rpc_call_userdata().
 */
#pragma once

#include "cri-server/image/service.h"
#include "cri-server/runtime/runtime.h"
#include "cri-server/stream/stream.h"

struct daemon {
	struct runtime *runtime;
	struct img *images;
	struct image_answers *image_answers;
	struct stream_server *streams;
	const struct log *log;
	const char *scratch_dir; /* the containers' writable file systems */
};
