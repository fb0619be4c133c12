/* Garbage: dead containers and sandboxes by age, images while the disk is too full. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kubelet/scenarios.h"

static int list_images(struct node *node, Runtime__V1__ListImagesResponse **ret, struct err *err)
{
	Runtime__V1__ListImagesRequest request = RUNTIME__V1__LIST_IMAGES_REQUEST__INIT;
	return node_call(node, "ListImages", &request.base, NODE_CALL_MS, ret, err);
}

static int used_bytes(struct node *node, uint64_t *ret, struct err *err)
{
	Runtime__V1__ImageFsInfoRequest request = RUNTIME__V1__IMAGE_FS_INFO_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ImageFsInfoResponse *answer = NULL;
	int r = node_call(node, "ImageFsInfo", &request.base, NODE_CALL_MS, &answer, err);
	if (r == 0 && answer->n_image_filesystems != 1)
		r = err_set(err, -EBADMSG, "%zu image file systems", answer->n_image_filesystems);
	if (r == 0)
		*ret = answer->image_filesystems[0]->used_bytes->value;
	return r;
}

static int remove_image(struct node *node, const char *id, struct err *err)
{
	Runtime__V1__RemoveImageRequest request = RUNTIME__V1__REMOVE_IMAGE_REQUEST__INIT;
	Runtime__V1__ImageSpec spec = RUNTIME__V1__IMAGE_SPEC__INIT;
	spec.image = (char *)id;
	request.image = &spec;
	return node_call(node, "RemoveImage", &request.base, NODE_CALL_MS, NULL, err);
}

static bool in_use(const Runtime__V1__ListContainersResponse *containers, const char *image)
{
	for (size_t i = 0; i < containers->n_containers; i++)
		if (strcmp(containers->containers[i]->image_id, image) == 0)
			return true;
	return false;
}

/* All images that no container has, dead or alive; each gives space back. */
static int collect_images(struct node *node, size_t *ret_n, struct err *err)
{
	Runtime__V1__ListContainersRequest request = RUNTIME__V1__LIST_CONTAINERS_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ListContainersResponse *containers = NULL;
	_cleanup_message_ Runtime__V1__ListImagesResponse *images = NULL;
	uint64_t before = 0, after = 0;
	int r = node_call(node, "ListContainers", &request.base, NODE_CALL_MS, &containers, err);
	if (r == 0)
		r = list_images(node, &images, err);
	if (r == 0)
		r = used_bytes(node, &before, err);
	*ret_n = 0;
	for (size_t i = 0; r == 0 && i < images->n_images; i++) {
		const Runtime__V1__Image *image = images->images[i];
		if (image->pinned || in_use(containers, image->id))
			continue;
		r = remove_image(node, image->id, err);
		if (r == 0)
			r = used_bytes(node, &after, err);
		if (r == 0 && after >= before)
			r = err_set(err, -EBADMSG, "%s is removed, and nothing is free", image->id);
		before = after;
		(*ret_n)++;
	}
	return r;
}

static int expect_collected(struct node *node, size_t expected, struct err *err)
{
	size_t n = 0;
	int r = collect_images(node, &n, err);
	if (r == 0 && n != expected)
		r = err_set(err, -EBADMSG, "%zu images could go instead of %zu", n, expected);
	return r;
}

/* Dead sandboxes without containers. */
static int collect_sandboxes(struct node *node, size_t *ret_n, struct err *err)
{
	Runtime__V1__ListPodSandboxRequest request = RUNTIME__V1__LIST_POD_SANDBOX_REQUEST__INIT;
	_cleanup_message_ Runtime__V1__ListPodSandboxResponse *pods = NULL;
	int r = node_call(node, "ListPodSandbox", &request.base, NODE_CALL_MS, &pods, err);
	*ret_n = 0;
	for (size_t i = 0; r == 0 && i < pods->n_items; i++) {
		_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
		if (pods->items[i]->state != POD_NOTREADY)
			continue;
		r = pod_containers(node, pods->items[i]->id, &list, err);
		if (r < 0 || list->n_containers)
			continue;
		r = pod_stop(node, pods->items[i]->id, err);
		if (r == 0)
			r = pod_remove(node, pods->items[i]->id, err);
		(*ret_n)++;
	}
	return r;
}

/* Two attempts each of two names, of which the newest stay. */
static int make_dead(struct kubelet *k, const struct pod *pod, const char *image,
	struct container dead[2], struct err *err)
{
	_cleanup_message_ Runtime__V1__ListContainersResponse *list = NULL;
	int code, r = 0;
	for (unsigned i = 0; i < 4 && r == 0; i++) {
		dead[i % 2] = (struct container){.pod = pod,
			.name = i % 2 ? "odd" : "even",
			.script = "exit 1",
			.image = image,
			.attempt = i / 2};
		r = run_to_end(k, &dead[i % 2], &code, err);
	}
	if (r == 0)
		r = prune(k, pod, err);
	if (r == 0)
		r = pod_containers(k->node, pod->id, &list, err);
	if (r == 0 && list->n_containers != 2)
		r = err_set(err, -EBADMSG, "%zu containers are left", list->n_containers);
	for (size_t i = 0; r == 0 && i < 2; i++)
		if (list->containers[i]->metadata->attempt != 1)
			r = err_set(err, -EBADMSG, "an older one is left");
	return r;
}

int scenario_collect(struct kubelet *k, struct err *err)
{
	struct pod dead_pod = pod_named("collect-dead"), pod = pod_named("collect");
	struct container main = {.pod = &pod, .name = "main", .script = "exec sleep 1000000"};
	struct container unused = {.pod = &pod, .name = "unused", .script = "true"};
	struct container dead[2];
	size_t n = 0;
	if (!k->node->dead_image || !k->node->unused_image)
		return err_set(err, -EINVAL, "it takes --dead-image and --unused-image");
	unused.image = k->node->unused_image;
	int r = pod_run(k->node, &dead_pod, err);
	if (r == 0)
		r = make_dead(k, &dead_pod, k->node->dead_image, dead, err);
	if (r == 0)
		r = pod_kill(k->node, dead_pod.id, err);
	if (r == 0)
		r = pod_run(k->node, &pod, err);
	if (r == 0)
		r = container_run(k->node, &main, err);
	if (r == 0)
		r = container_create(k->node, &unused, err);
	if (r == 0)
		r = container_remove(k->node, unused.id, err);
	/* Nobody has the one; dead containers have the other, and keep their sandbox too. */
	if (r == 0)
		r = expect_collected(k->node, 1, err);
	if (r == 0)
		r = collect_sandboxes(k->node, &n, err);
	if (r == 0 && n != 0)
		r = err_set(err, -EBADMSG, "a sandbox went that has containers");
	for (int i = 0; i < 2 && r == 0; i++)
		r = container_remove(k->node, dead[i].id, err);
	if (r == 0)
		r = collect_sandboxes(k->node, &n, err);
	if (r == 0 && n != 1)
		r = err_set(err, -EBADMSG, "%zu dead sandboxes went instead of 1", n);
	if (r == 0)
		r = expect_collected(k->node, 1, err);
	/* What runs was not touched. */
	if (r == 0)
		r = container_probe(k->node, main.id, "true", 20, NULL, err);
	return r < 0 ? r : pod_delete(k->node, pod.id, err);
}
