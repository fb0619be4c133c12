#include "hypervisor/vsock/ring.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>

/* The guest writes while we read: each 16-bit field is loaded or stored once, and whole. */
static uint16_t load16(const uint16_t *field)
{
	return le16toh(__atomic_load_n(field, __ATOMIC_RELAXED));
}

static void store16(uint16_t *field, uint16_t value)
{
	__atomic_store_n(field, htole16(value), __ATOMIC_RELAXED);
}

/* With EVENT_IDX each side's last field, behind the ring, names the index it waits for. */
static uint16_t *used_event(const struct vs_ring *ring)
{
	return &ring->avail->ring[ring->size];
}

static uint16_t *avail_event(const struct vs_ring *ring)
{
	return (uint16_t *)&ring->used->ring[ring->size];
}

int vs_ring_set_size(struct vs_ring *ring, uint32_t size, struct err *err)
{
	if (!size || size > VS_RING_SIZE_MAX || (size & (size - 1)))
		return err_set(err, -EINVAL, "ring of %u entries", size);
	ring->size = (uint16_t)size;
	return 0;
}

int vs_ring_map(struct vs_ring *ring, const struct vs_memory *memory, struct err *err)
{
	vs_ring_unmap(ring);
	if (!ring->size)
		return err_set(err, -EINVAL, "ring has addresses before its size");
	size_t event = sizeof(uint16_t);
	size_t desc_len = sizeof(struct vring_desc) * ring->size;
	size_t avail_len = offsetof(struct vring_avail, ring[ring->size]) + event;
	size_t used_len = offsetof(struct vring_used, ring[ring->size]) + event;
	void *desc = vs_memory_user(memory, ring->addr.desc, desc_len);
	void *avail = vs_memory_user(memory, ring->addr.avail, avail_len);
	void *used = vs_memory_user(memory, ring->addr.used, used_len);
	if (!desc || !avail || !used)
		return err_set(err, -EFAULT, "ring lies outside the guest's memory");
	if ((uintptr_t)desc % VRING_DESC_ALIGN_SIZE || (uintptr_t)avail % VRING_AVAIL_ALIGN_SIZE ||
		(uintptr_t)used % VRING_USED_ALIGN_SIZE)
		return err_set(err, -EINVAL, "ring is not aligned");
	ring->desc = desc;
	ring->avail = avail;
	ring->used = used;
	return 0;
}

void vs_ring_unmap(struct vs_ring *ring)
{
	ring->desc = NULL;
	ring->avail = NULL;
	ring->used = NULL;
}

static struct vring_desc load_desc(const struct vs_ring *ring, uint16_t index)
{
	/* One copy: the volatile source keeps the compiler from going back for a field. */
	const volatile struct vring_desc *from = &ring->desc[index];
	return (struct vring_desc){
		.addr = le64toh(from->addr),
		.len = le32toh(from->len),
		.flags = le16toh(from->flags),
		.next = le16toh(from->next),
	};
}

static int add_part(struct vs_chain *chain, const struct vs_memory *memory,
	const struct vring_desc *desc, struct err *err)
{
	bool in = desc->flags & VRING_DESC_F_WRITE;
	size_t n = chain->n_out + chain->n_in;
	if (desc->flags & VRING_DESC_F_INDIRECT)
		return err_set(err, -EPROTO, "indirect descriptor, which was not offered");
	if (!in && chain->n_in)
		return err_set(err, -EPROTO, "readable descriptor behind a writable one");
	int parts = vs_memory_guest(
		memory, desc->addr, desc->len, &chain->iov[n], VS_RING_SIZE_MAX - n);
	if (parts < 0)
		return err_set(err, -EPROTO, "descriptor %s",
			parts == -E2BIG ? "chain of too many parts" : "outside the guest's memory");
	if (in) {
		chain->n_in += (size_t)parts;
		chain->in_len += desc->len;
	} else {
		chain->n_out += (size_t)parts;
		chain->out_len += desc->len;
	}
	return 0;
}

int vs_ring_peek(const struct vs_ring *ring, const struct vs_memory *memory,
	struct vs_chain *ret_chain, struct err *err)
{
	uint16_t available = (uint16_t)(load16(&ring->avail->idx) - ring->next);
	if (!available)
		return 1;
	if (available > ring->size)
		return err_set(err, -EPROTO, "available index jumps by %u", available);
	/* What the index announces is read after the index. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);

	struct vs_chain *chain = ret_chain;
	uint16_t index = load16(&ring->avail->ring[ring->next & (ring->size - 1)]);
	chain->head = index;
	chain->n_out = chain->n_in = 0;
	chain->out_len = chain->in_len = 0;
	for (unsigned seen = 0; seen < ring->size; seen++) {
		if (index >= ring->size)
			return err_set(err, -EPROTO, "descriptor %u of %u", index, ring->size);
		struct vring_desc desc = load_desc(ring, index);
		int r = add_part(chain, memory, &desc, err);
		if (r < 0)
			return r;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			return 0;
		index = desc.next;
	}
	return err_set(err, -EPROTO, "descriptor chain is a loop");
}

void vs_ring_push(struct vs_ring *ring, const struct vs_chain *chain, uint32_t written)
{
	struct vring_used_elem *elem = &ring->used->ring[ring->next & (ring->size - 1)];
	elem->id = htole32(chain->head);
	elem->len = htole32(written);
	ring->next++;
	/* The element and the data are there before the index says so. */
	__atomic_store_n(&ring->used->idx, htole16(ring->next), __ATOMIC_RELEASE);
}

bool vs_ring_take_signal(struct vs_ring *ring)
{
	uint16_t old = ring->signalled;
	if (ring->next == old)
		return false;
	ring->signalled = ring->next;
	/* The driver writes its wish, then reads our index; we must do the opposite. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (ring->event_idx)
		return vring_need_event(load16(used_event(ring)), ring->next, old);
	return !(load16(&ring->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
}

bool vs_ring_enable_kick(struct vs_ring *ring)
{
	if (ring->event_idx)
		store16(avail_event(ring), ring->next);
	else
		store16(&ring->used->flags, 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load16(&ring->avail->idx) != ring->next;
}

void vs_ring_disable_kick(struct vs_ring *ring)
{
	/* With EVENT_IDX an index that was passed already says it. */
	if (!ring->event_idx)
		store16(&ring->used->flags, VRING_USED_F_NO_NOTIFY);
}
