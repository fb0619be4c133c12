/* Layers of registries, into an image in memory. */
#include "cri-server/image/unpack.h"

#include <locale.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/fd.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct unpack_limits limits = {.bytes = 1 << 20, .files = 200};
	struct unpack_result result;
	_cleanup_close_ int blob = memfd_create("layer", MFD_CLOEXEC);
	_cleanup_close_ int image = memfd_create("image", MFD_CLOEXEC);
	if (!setlocale(LC_ALL, "C.UTF-8") || blob < 0 || image < 0 ||
		fd_write_all(blob, data, size, NULL) < 0 || lseek(blob, 0, SEEK_SET) < 0)
		abort();
	unpack_layer(blob, image, &limits, &result, NULL);
	return 0;
}
