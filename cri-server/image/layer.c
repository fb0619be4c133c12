/*
 * From a layer's blob to a read-only EROFS file that guests mount.
 *
 *	blob → bulkhead-unpack (a confined process) → a file in tmp/ → layers/<hex>.erofs
 *
 * The file appears by rename when it is complete, its record right after; a file without a record
 * is removed at start-up. Layers are world-readable: every machine's QEMU opens them, none may
 * write.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/spawn.h"
#include "cri-server/image/internal.h"
#include "cri-server/image/unpack.h"
#include "cri-server/message.h"

#define CONVERT_MS 1800000

static const char *hex_of(const char *digest)
{
	return digest + strlen("sha256:");
}

char *img_blob_path(const struct img *img, const char *digest)
{
	return str_printf("%s/sha256/%s", img->blobs, hex_of(digest));
}

char *img_layer_file(const struct img *img, const char *diff_id)
{
	return str_printf("%s/%s.erofs", img->layers, hex_of(diff_id));
}

static int unpack_error(const struct spawn_result *result, struct err *err)
{
	static const int codes[] = {[1] = -EBADMSG, [2] = -EFBIG, [3] = -ENOSPC};
	int code = result->exit_code > 0 && result->exit_code < (int)ARRAY_SIZE(codes)
			   ? codes[result->exit_code]
			   : -EIO;
	struct buf tail = result->err_tail;
	const char *why = buf_string(&tail);
	return err_set(
		err, code, "unpack: %.*s", why ? (int)strcspn(why, "\n") : 0, why ? why : "");
}

static int unpack(struct img *img, const char *blob, const char *file, const char *diff_id,
	int cancel_fd, bool *ret_opaque, struct err *err)
{
	char bytes[24], files[24];
	snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)img->config.layer_bytes_max);
	snprintf(files, sizeof(files), "%llu", (unsigned long long)img->config.layer_files_max);
	const char *const argv[] = {img->config.unpack_helper, blob, file, bytes, files, NULL};
	const struct spawn_options options = {
		.argv = argv, .timeout_ms = CONVERT_MS, .cancel_fd = cancel_fd};
	struct spawn_result result = SPAWN_RESULT_INIT(256);
	int r = spawn_run(&options, &result, err);
	if (r == -ENOENT) /* which would read as: no such image */
		r = err_set(err, -EIO, "there is no program %s", img->config.unpack_helper);
	if (r == 0 && result.exit_code != 0)
		r = unpack_error(&result, err);
	if (r == 0) {
		const char *got = buf_string(&result.out);
		if (!got || strncmp(got, diff_id, strlen(diff_id)) != 0)
			r = err_set(err, -EBADMSG, "its content is %.71s, the image says %s",
				got ? got : "unknown", diff_id);
		else
			*ret_opaque = strstr(got, " opaque") != NULL;
	}
	spawn_result_done(&result);
	return r;
}

static int publish(
	struct img *img, const char *from, const char *diff_id, bool opaque, struct err *err)
{
	_cleanup_free_ char *to = img_layer_file(img, diff_id);
	if (!to)
		return err_nomem(err);
	_cleanup_close_ int fd = open(from, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || fchmod(fd, 0644) < 0 || fsync(fd) < 0)
		return err_errno(err, "finish %s", from);
	if (rename(from, to) < 0)
		return err_errno(err, "rename %s to %s", from, to);
	Bulkhead__Store__Layer record = BULKHEAD__STORE__LAYER__INIT;
	record.file = strrchr(to, '/') + 1;
	record.bytes = (uint64_t)st.st_size;
	record.opaque = opaque;
	record.format = UNPACK_FORMAT;
	int r = store_put(img->store, STORE_LAYER, diff_id, &record.base, err);
	if (r < 0)
		unlink(to);
	return r;
}

static int convert(struct img *img, const char *blob_digest, const char *diff_id, int cancel_fd,
	struct err *err)
{
	_cleanup_free_ char *blob = img_blob_path(img, blob_digest);
	_cleanup_free_ char *file = str_printf("%s/%s.erofs", img->tmp, hex_of(diff_id));
	bool opaque = false;
	if (!blob || !file)
		return err_nomem(err);
	unlink(file); /* of a conversion that was killed */
	int r = unpack(img, blob, file, diff_id, cancel_fd, &opaque, err);
	if (r == 0)
		r = publish(img, file, diff_id, opaque, err);
	unlink(file);
	return r;
}

/* 0 with the record of a layer whose file is whole and of this form; positive 1: there is none. */
static int find_layer(
	struct img *img, const char *diff_id, Bulkhead__Store__Layer **ret, struct err *err)
{
	ProtobufCMessage *record = NULL;
	int r = store_get(img->store, STORE_LAYER, diff_id, &record, err);
	if (r != 0)
		return r;
	Bulkhead__Store__Layer *layer = (Bulkhead__Store__Layer *)record;
	_cleanup_free_ char *file = img_layer_file(img, diff_id);
	struct stat st;
	if (file && stat(file, &st) == 0 && (uint64_t)st.st_size == layer->bytes &&
		layer->format == UNPACK_FORMAT) {
		*ret = layer;
		return 0;
	}
	protobuf_c_message_free_unpacked(record, NULL);
	return file ? 1 : err_nomem(err);
}

int img_layer_is_opaque(struct img *img, const char *diff_id, bool *ret, struct err *err)
{
	Bulkhead__Store__Layer *layer;
	int r = find_layer(img, diff_id, &layer, err);
	if (r > 0)
		return err_set(err, -ENOENT, "layer %s is not on this node; pull its image again",
			diff_id);
	if (r < 0)
		return r;
	*ret = layer->opaque;
	bulkhead__store__layer__free_unpacked(layer, NULL);
	return 0;
}

static bool is_remaking(struct img *img)
{
	pthread_mutex_lock(&img->lock);
	bool yes = img->remaking;
	pthread_mutex_unlock(&img->lock);
	return yes;
}

int img_layer_path(struct img *img, const char *diff_id, char **ret_path, struct err *err)
{
	bool opaque;
	int r = img_layer_is_opaque(img, diff_id, &opaque, err);
	if (r == -ENOENT && is_remaking(img))
		return err_set(err, -EAGAIN, "layer %s is being made again; try again", diff_id);
	if (r < 0)
		return r;
	*ret_path = img_layer_file(img, diff_id);
	return *ret_path ? 0 : err_nomem(err);
}

int img_convert_layer(struct img *img, const char *blob_digest, const char *diff_id, int cancel_fd,
	struct err *err)
{
	Bulkhead__Store__Layer *layer = NULL;
	int r = find_layer(img, diff_id, &layer, err);
	if (layer)
		bulkhead__store__layer__free_unpacked(layer, NULL);
	if (r > 0)
		r = convert(img, blob_digest, diff_id, cancel_fd, err);
	return r < 0 ? err_wrap(err, "layer %s", blob_digest) : 0;
}
