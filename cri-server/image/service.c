#include "cri-server/image/service.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "common/fd.h"
#include "cri-server/daemon.h"
#include "cri-server/proto/cri.pb-c.h"

static struct img *call_images(const struct rpc_call *call)
{
	return ((struct daemon *)rpc_call_userdata(call))->images;
}

static int wanted_name(const Runtime__V1__ImageSpec *spec, const char **ret, struct err *err)
{
	if (!spec || !spec->image[0])
		return err_set(err, -EINVAL, "the image reference is empty");
	*ret = spec->image;
	return 0;
}

#define SPEC_BYTES_MAX (64u << 10)

/* The client's annotations and the like stay with the image. */
static int note_spec(
	struct img *img, const char *id, const Runtime__V1__ImageSpec *spec, struct err *err)
{
	_cleanup_free_ uint8_t *packed = malloc(protobuf_c_message_get_packed_size(&spec->base));
	if (!packed)
		return err_nomem(err);
	return img_note_spec(img, id, packed, protobuf_c_message_pack(&spec->base, packed), err);
}

static int check_spec(const Runtime__V1__ImageSpec *spec, struct err *err)
{
	if (protobuf_c_message_get_packed_size(&spec->base) <= SPEC_BYTES_MAX)
		return 0;
	return err_set(
		err, -EINVAL, "the image's specification has more than %u bytes", SPEC_BYTES_MAX);
}

static int pull_image(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	const Runtime__V1__PullImageRequest *req = (const Runtime__V1__PullImageRequest *)request;
	const char *name = NULL;
	int r = wanted_name(req->image, &name, err);
	if (r == 0)
		r = check_spec(req->image, err);
	if (r < 0)
		return r;
	struct img_auth auth = {0};
	if (req->auth)
		auth = (struct img_auth){
			.username = req->auth->username,
			.password = req->auth->password,
			.auth = req->auth->auth,
			.server_address = req->auth->server_address,
			.identity_token = req->auth->identity_token,
			.registry_token = req->auth->registry_token,
		};
	_cleanup_free_ char *id = NULL;
	r = img_pull(call_images(call), name, req->auth ? &auth : NULL, rpc_call_cancel_fd(call),
		&id, err);
	if (r == 0)
		r = note_spec(call_images(call), id, req->image, err);
	if (r < 0)
		return r;
	Runtime__V1__PullImageResponse response = RUNTIME__V1__PULL_IMAGE_RESPONSE__INIT;
	response.image_ref = id;
	return respond(&response.base, ret_response, err);
}

/* The image's user as CRI splits it: a number is the uid, anything else a name; groups are left
 * out. */
static void fill_user(Runtime__V1__Image *to, Runtime__V1__Int64Value *uid, char *name, size_t size,
	const char *user)
{
	size_t len = strcspn(user, ":");
	if (!len || len >= size)
		return;
	memcpy(name, user, len);
	name[len] = '\0';
	char *end;
	long long number = strtoll(name, &end, 10);
	if (*end) {
		to->username = name;
		return;
	}
	uid->value = number;
	to->uid = uid;
}

#define VARINT_MAX 10

struct image_answer {
	Runtime__V1__Image image;
	Runtime__V1__Int64Value uid;
	ProtobufCMessageUnknownField spec; /* its bytes are ours */
	char user[256];
};

/*
 * The record has the specification packed, and so it goes into the answer: protobuf-c packs what it
 * does not know as it is, the bytes of a message after their number.
 */
static int fill_spec(struct image_answer *a, const ProtobufCBinaryData *spec, struct err *err)
{
	const ProtobufCFieldDescriptor *field =
		protobuf_c_message_descriptor_get_field_by_name(a->image.base.descriptor, "spec");
	uint8_t *data = malloc(VARINT_MAX + spec->len);
	if (!data)
		return err_nomem(err);
	size_t n = 0;
	for (size_t rest = spec->len; n == 0 || rest; rest >>= 7)
		data[n++] = (uint8_t)((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
	memcpy(data + n, spec->data, spec->len);
	a->spec = (ProtobufCMessageUnknownField){.tag = field->id,
		.wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED,
		.len = n + spec->len,
		.data = data};
	a->image.base.unknown_fields = &a->spec;
	a->image.base.n_unknown_fields = 1;
	return 0;
}

static int fill_image(struct image_answer *a, const struct img *img, const struct img_image *from,
	struct err *err)
{
	runtime__v1__image__init(&a->image);
	runtime__v1__int64_value__init(&a->uid);
	a->image.id = from->id;
	a->image.repo_tags = from->record->tags;
	a->image.n_repo_tags = from->record->n_tags;
	a->image.repo_digests = from->record->digests;
	a->image.n_repo_digests = from->record->n_digests;
	a->image.size = from->record->size;
	a->image.pinned = img_is_pinned(img, from);
	fill_user(&a->image, &a->uid, a->user, sizeof(a->user), from->record->config->user);
	return from->record->spec.len ? fill_spec(a, &from->record->spec, err) : 0;
}

static void free_answers(struct image_answer *answers, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(answers[i].spec.data);
}

static char *verbose_info(const struct img_image *image)
{
	const Bulkhead__Store__Image *record = image->record;
	json_t *layers = json_array();
	for (size_t i = 0; i < record->n_layers; i++)
		json_array_append_new(layers, json_string(record->layers[i]));
	json_t *info = json_pack("{s:s, s:o, s:s, s:s}", "manifest", record->manifest_digest,
		"diffIDs", layers, "architecture", record->config->architecture, "os",
		record->config->os);
	char *text = info ? json_dumps(info, JSON_COMPACT) : NULL;
	json_decref(info);
	return text;
}

static int image_status(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	const Runtime__V1__ImageStatusRequest *req =
		(const Runtime__V1__ImageStatusRequest *)request;
	Runtime__V1__ImageStatusResponse response = RUNTIME__V1__IMAGE_STATUS_RESPONSE__INIT;
	Runtime__V1__ImageStatusResponse__InfoEntry entry =
		RUNTIME__V1__IMAGE_STATUS_RESPONSE__INFO_ENTRY__INIT;
	Runtime__V1__ImageStatusResponse__InfoEntry *entries[] = {&entry};
	_cleanup_free_ char *info = NULL;
	struct image_answer answer = {0};
	struct img_image *image = NULL;
	const char *name = NULL;
	int r = wanted_name(req->image, &name, err);
	if (r == 0)
		r = img_find(call_images(call), name, &image, err);
	if (r < 0)
		return r;
	if (r == 0) {
		r = fill_image(&answer, call_images(call), image, err);
		response.image = &answer.image;
	}
	if (image && req->verbose && (info = verbose_info(image))) {
		entry.key = (char *)"info";
		entry.value = info;
		response.info = entries;
		response.n_info = 1;
	}
	if (r >= 0)
		r = respond(&response.base, ret_response, err);
	free_answers(&answer, 1);
	img_image_unref(image);
	return r;
}

static int answer_list(const struct img *img, struct img_image *const *images, size_t n,
	struct rpc_answer *ret_response, struct err *err)
{
	_cleanup_free_ struct image_answer *answers = calloc(n + 1, sizeof(*answers));
	_cleanup_free_ Runtime__V1__Image **pointers = calloc(n + 1, sizeof(*pointers));
	if (!answers || !pointers)
		return err_nomem(err);
	int r = 0;
	for (size_t i = 0; i < n && r == 0; i++) {
		r = fill_image(&answers[i], img, images[i], err);
		pointers[i] = &answers[i].image;
	}
	Runtime__V1__ListImagesResponse response = RUNTIME__V1__LIST_IMAGES_RESPONSE__INIT;
	response.images = pointers;
	response.n_images = n;
	if (r == 0)
		r = respond(&response.base, ret_response, err);
	free_answers(answers, n);
	return r;
}

/* ---- the list of all, kept ---- */

struct image_answers {
	pthread_mutex_t lock; /* protects what follows; held while an answer is made */
	uint64_t generation;  /* of the list that it was made of, or an older one's */
	struct rpc_answer all;
};

int image_answers_new(struct image_answers **ret, struct err *err)
{
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		return err_nomem(err);
	pthread_mutex_init(&(*ret)->lock, NULL);
	return 0;
}

struct image_answers *image_answers_free(struct image_answers *answers)
{
	if (!answers)
		return NULL;
	rpc_answer_done(&answers->all);
	pthread_mutex_destroy(&answers->lock);
	free(answers);
	return NULL;
}

static int answer_all(struct img *img, struct rpc_answer *ret, struct err *err)
{
	struct img_image **images;
	size_t n;
	int r = img_list(img, &images, &n, err);
	if (r < 0)
		return r;
	r = answer_list(img, images, n, ret, err);
	img_list_free(images, n);
	return r;
}

static int list_all(struct rpc_call *call, struct rpc_answer *ret, struct err *err)
{
	const struct daemon *daemon = rpc_call_userdata(call);
	struct image_answers *answers = daemon->image_answers;
	int r = 0;
	pthread_mutex_lock(&answers->lock);
	uint64_t generation = img_generation(daemon->images);
	if (!answers->all.data || answers->generation != generation) {
		rpc_answer_done(&answers->all);
		r = answer_all(daemon->images, &answers->all, err);
		answers->generation = generation;
	}
	if (r == 0)
		*ret = rpc_answer_share(&answers->all);
	pthread_mutex_unlock(&answers->lock);
	return r;
}

static int list_images(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	const Runtime__V1__ListImagesRequest *req = (const Runtime__V1__ListImagesRequest *)request;
	struct img *img = call_images(call);
	if (req->filter && req->filter->image && req->filter->image->image[0]) {
		struct img_image *one = NULL;
		int r = img_find(img, req->filter->image->image, &one, err);
		if (r < 0)
			return r;
		r = answer_list(img, &one, r == 0, ret_response, err);
		img_image_unref(one);
		return r;
	}
	return list_all(call, ret_response, err);
}

static int remove_image(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	const Runtime__V1__RemoveImageRequest *req =
		(const Runtime__V1__RemoveImageRequest *)request;
	const char *name = NULL;
	int r = wanted_name(req->image, &name, err);
	if (r == 0)
		r = img_remove(call_images(call), name, err);
	if (r < 0)
		return r;
	Runtime__V1__RemoveImageResponse response = RUNTIME__V1__REMOVE_IMAGE_RESPONSE__INIT;
	return respond(&response.base, ret_response, err);
}

struct usage_answer {
	Runtime__V1__FilesystemUsage usage;
	Runtime__V1__FilesystemIdentifier id;
	Runtime__V1__UInt64Value bytes, inodes;
};

static void fill_usage(struct usage_answer *a, const struct img_usage *from)
{
	runtime__v1__filesystem_usage__init(&a->usage);
	runtime__v1__filesystem_identifier__init(&a->id);
	runtime__v1__uint64_value__init(&a->bytes);
	runtime__v1__uint64_value__init(&a->inodes);
	a->bytes.value = from->bytes;
	a->inodes.value = from->inodes;
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	a->usage.timestamp = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	a->id.mountpoint = from->mountpoint;
	a->usage.fs_id = &a->id;
	a->usage.used_bytes = &a->bytes;
	a->usage.inodes_used = &a->inodes;
}

static int image_fs_info(struct rpc_call *call, const ProtobufCMessage *request,
	struct rpc_answer *ret_response, struct err *err)
{
	(void)request;
	const struct daemon *daemon = rpc_call_userdata(call);
	struct usage_answer images, containers;
	struct img_usage image_files = {0}, container_files = {0};
	Runtime__V1__FilesystemUsage *image_usage[] = {&images.usage};
	Runtime__V1__FilesystemUsage *container_usage[] = {&containers.usage};
	int r = img_usage(daemon->images, &image_files, err);
	if (r == 0)
		r = img_directory_usage(daemon->scratch_dir, &container_files, err);
	if (r == 0) {
		fill_usage(&images, &image_files);
		fill_usage(&containers, &container_files);
		Runtime__V1__ImageFsInfoResponse response =
			RUNTIME__V1__IMAGE_FS_INFO_RESPONSE__INIT;
		response.image_filesystems = image_usage;
		response.n_image_filesystems = 1;
		response.container_filesystems = container_usage;
		response.n_container_filesystems = 1;
		r = respond(&response.base, ret_response, err);
	}
	free(image_files.mountpoint);
	free(container_files.mountpoint);
	return r;
}

char *image_service_pulls(struct img *img)
{
	struct img_pull_progress *pulls;
	size_t n;
	if (img_pulls(img, &pulls, &n, NULL) < 0)
		return NULL;
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++) {
		const struct img_pull_progress *p = &pulls[i];
		uint64_t came = p->bytes_done - p->bytes_reused;
		json_t *one = json_pack("{s:s, s:i, s:I, s:I, s:I, s:i, s:i, s:i, s:I}",
			"reference", p->reference, "callers", (int)p->callers, "startedAt",
			(json_int_t)p->started_ns, "bytesTotal", (json_int_t)p->bytes_total,
			"bytesDone", (json_int_t)p->bytes_done, "layersTotal", (int)p->layers,
			"layersDownloaded", (int)p->layers_done, "layersConverted",
			(int)p->layers_converted, "bytesPerSecond",
			(json_int_t)(p->elapsed_ms ? came * 1000 / p->elapsed_ms : 0));
		json_array_append_new(list, one);
	}
	char *text = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	img_pulls_free(pulls, n);
	return text;
}

static int stream_images(struct rpc_call *call, const ProtobufCMessage *request, struct err *err)
{
	return rpc_stream_list(call, request, list_images, err);
}

static const struct rpc_method methods[] = {
	{"PullImage", pull_image},
	{"ImageStatus", image_status},
	{"ListImages", list_images},
	{"RemoveImage", remove_image},
	{"ImageFsInfo", image_fs_info},
};

static const char *const quick[] = {
	"ImageStatus", "ListImages", "ImageFsInfo", "StreamImages", NULL};

static const struct rpc_stream_method streams[] = {
	{"StreamImages", stream_images},
};

const struct rpc_service image_service = {
	.descriptor = &runtime__v1__image_service__descriptor,
	.methods = methods,
	.n_methods = ARRAY_SIZE(methods),
	.streams = streams,
	.n_streams = ARRAY_SIZE(streams),
	.quick = quick,
};
