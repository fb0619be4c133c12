#include "network/offloads.h"

#include <asm/byteorder.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/fd.h"

#define INSTRUCTIONS_MAX 128

#define ETHERTYPE_AT offsetof(struct ethhdr, h_proto)
#define IP4_PROTOCOL offsetof(struct iphdr, protocol)
#define TCP_OFFSET   12 /* of the TCP header's length in words, in the upper half of a byte */

/* What is at a label of the program. A jump names one, and no instruction has code 0. */
enum label {
	DROP = 1,
	PASS,
	IP4,
	PARSED,
	NOT_PARTIAL,
	SIZES,
	WHOLE,
	COMPARE,
	LABELS,
};

/* Registers, beside those that hold arguments and results of calls. */
enum {
	R0 = BPF_REG_0,
	R1,
	R2,
	R3,
	R4,
	R5,
	FRAME,
	ETHERTYPE, /* as it is in the frame */
	TRANSPORT, /* offset of the transport header */
	PROTOCOL,  /* of the transport; 0: none that we know */
	STACK,
};

#define SPACE (-16) /* on the stack, for what is read */

#define OP(c, d, s, o, i)                                                                          \
	{                                                                                          \
		.code = (c), .dst_reg = (d), .src_reg = (s), .off = (int16_t)(o), .imm = (i)       \
	}
#define AT(label)                  OP(0, 0, 0, label, 0)
#define SET(reg, value)            OP(BPF_ALU64 | BPF_MOV | BPF_K, reg, 0, 0, value)
#define COPY(reg, from)            OP(BPF_ALU64 | BPF_MOV | BPF_X, reg, from, 0, 0)
#define DO(op, reg, value)         OP(BPF_ALU64 | (op) | BPF_K, reg, 0, 0, value)
#define DO_BY(op, reg, by)         OP(BPF_ALU64 | (op) | BPF_X, reg, by, 0, 0)
#define LOAD(size, reg, from, off) OP(BPF_LDX | BPF_MEM | (size), reg, from, off, 0)
#define CALL(helper)               OP(BPF_JMP | BPF_CALL, 0, 0, 0, helper)
#define GO(label)                  OP(BPF_JMP | BPF_JA, 0, 0, label, 0)
#define EXIT                       OP(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
/* 32 bits wide, as helpers return an int. */
#define IF(op, reg, value, label) OP(BPF_JMP32 | (op) | BPF_K, reg, 0, label, value)
/* So many bytes of the frame from the offset in R2; one that ends before is dropped. */
#define READ(n)                                                                                    \
	COPY(R1, FRAME), COPY(R3, STACK), DO(BPF_ADD, R3, SPACE), SET(R4, n),                      \
		CALL(BPF_FUNC_skb_load_bytes), IF(BPF_JNE, R0, 0, DROP)

/* Where the transport header is, and whose. */
static const struct bpf_insn find_transport[] = {
	COPY(FRAME, R1),
	LOAD(BPF_W, ETHERTYPE, FRAME, offsetof(struct __sk_buff, protocol)),
	SET(TRANSPORT, ETH_HLEN),
	SET(PROTOCOL, 0),
	IF(BPF_JEQ, ETHERTYPE, __constant_htons(ETH_P_IP), IP4),
	IF(BPF_JNE, ETHERTYPE, __constant_htons(ETH_P_IPV6), PARSED),
	SET(R2, ETH_HLEN + offsetof(struct ip6_hdr, ip6_nxt)),
	READ(1),
	LOAD(BPF_B, PROTOCOL, STACK, SPACE),
	SET(TRANSPORT, ETH_HLEN + sizeof(struct ip6_hdr)),
	GO(PARSED),
	AT(IP4),
	SET(R2, ETH_HLEN),
	READ(IP4_PROTOCOL + 1),
	LOAD(BPF_B, TRANSPORT, STACK, SPACE),
	DO(BPF_AND, TRANSPORT, 0xf),
	DO(BPF_LSH, TRANSPORT, 2),
	DO(BPF_ADD, TRANSPORT, ETH_HLEN),
	LOAD(BPF_B, PROTOCOL, STACK, SPACE + IP4_PROTOCOL),
	AT(PARSED),
};

static const struct bpf_insn check_checksum[] = {
	/* Whether a checksum is to be put: the ethertype, taken for one, then stays. */
	COPY(R1, FRAME),
	SET(R2, ETHERTYPE_AT),
	SET(R3, 0),
	SET(R4, 1),
	SET(R5, sizeof(uint16_t)),
	CALL(BPF_FUNC_l4_csum_replace),
	IF(BPF_JNE, R0, 0, DROP),
	LOAD(BPF_W, R1, FRAME, offsetof(struct __sk_buff, data)),
	LOAD(BPF_W, R2, FRAME, offsetof(struct __sk_buff, data_end)),
	COPY(R3, R1),
	DO(BPF_ADD, R3, ETH_HLEN),
	OP(BPF_JMP | BPF_JGT | BPF_X, R3, R2, DROP, 0),
	LOAD(BPF_H, R4, R1, ETHERTYPE_AT),
	OP(BPF_JMP | BPF_JNE | BPF_X, R4, ETHERTYPE, NOT_PARTIAL, 0),

	/* It is: the frame cannot be cut within its network header. */
	COPY(R1, FRAME),
	COPY(R2, TRANSPORT),
	DO(BPF_SUB, R2, 1),
	SET(R3, 0),
	CALL(BPF_FUNC_skb_change_tail),
	IF(BPF_JNE, R0, -EINVAL, DROP),
	IF(BPF_JEQ, PROTOCOL, IPPROTO_TCP, SIZES),
	IF(BPF_JEQ, PROTOCOL, IPPROTO_UDP, SIZES),
	GO(DROP),

	AT(NOT_PARTIAL),
	OP(BPF_STX | BPF_MEM | BPF_H, R1, ETHERTYPE, ETHERTYPE_AT, 0),
};

struct part {
	const struct bpf_insn *text;
	size_t n;
};

/* Leaves the markers out and lets jumps lead to where they were. */
static size_t assemble(const struct part *parts, size_t n_parts, struct bpf_insn *ret)
{
	int16_t places[LABELS] = {0};
	size_t i, k, length = 0;

	for (i = 0; i < n_parts; i++)
		for (k = 0; k < parts[i].n; k++)
			if (parts[i].text[k].code == 0)
				places[parts[i].text[k].off] = (int16_t)length;
			else
				ret[length++] = parts[i].text[k];
	for (i = 0; i < length; i++) {
		const int class = BPF_CLASS(ret[i].code), op = BPF_OP(ret[i].code);

		if ((class == BPF_JMP || class == BPF_JMP32) && op != BPF_CALL && op != BPF_EXIT)
			ret[i].off = (int16_t)(places[ret[i].off] - (int16_t)i - 1);
	}
	return length;
}

static size_t write_program(int mtu, struct bpf_insn ret[static INSTRUCTIONS_MAX])
{
	const struct bpf_insn check_sizes[] = {
		AT(SIZES),
		LOAD(BPF_W, R1, FRAME, offsetof(struct __sk_buff, gso_size)),
		IF(BPF_JEQ, R1, 0, WHOLE),
		/* Segments: the network and the transport header before each. */
		SET(R2, sizeof(struct udphdr)),
		IF(BPF_JEQ, PROTOCOL, IPPROTO_UDP, COMPARE),
		IF(BPF_JNE, PROTOCOL, IPPROTO_TCP, DROP),
		COPY(R2, TRANSPORT),
		DO(BPF_ADD, R2, TCP_OFFSET),
		READ(1),
		LOAD(BPF_B, R2, STACK, SPACE),
		DO(BPF_RSH, R2, 4),
		DO(BPF_LSH, R2, 2),
		LOAD(BPF_W, R1, FRAME, offsetof(struct __sk_buff, gso_size)),
		AT(COMPARE),
		DO_BY(BPF_ADD, R1, R2),
		DO_BY(BPF_ADD, R1, TRANSPORT),
		IF(BPF_JGT, R1, mtu + ETH_HLEN, DROP),
		GO(PASS),
		AT(WHOLE),
		LOAD(BPF_W, R1, FRAME, offsetof(struct __sk_buff, len)),
		IF(BPF_JGT, R1, mtu + ETH_HLEN, DROP),

		AT(PASS),
		SET(R0, TC_ACT_UNSPEC),
		EXIT,
		AT(DROP),
		SET(R0, TC_ACT_SHOT),
		EXIT,
	};
	const struct part parts[] = {
		{find_transport, ARRAY_SIZE(find_transport)},
		{check_checksum, ARRAY_SIZE(check_checksum)},
		{check_sizes, ARRAY_SIZE(check_sizes)},
	};

	_Static_assert(
		ARRAY_SIZE(find_transport) + ARRAY_SIZE(check_checksum) + ARRAY_SIZE(check_sizes) <=
			INSTRUCTIONS_MAX,
		"a larger program");
	return assemble(parts, ARRAY_SIZE(parts), ret);
}

int offloads_load(uint32_t mtu, int *ret_fd, struct err *err)
{
	const int mtu_max = INT32_MAX - ETH_HLEN;
	struct bpf_insn program[INSTRUCTIONS_MAX];
	union bpf_attr attr;
	int fd;

	memset(&attr, 0, sizeof(attr)); /* all of it is read */
	attr.prog_type = BPF_PROG_TYPE_SCHED_CLS;
	attr.insn_cnt =
		(uint32_t)write_program(mtu > (uint32_t)mtu_max ? mtu_max : (int)mtu, program);
	attr.insns = (uint64_t)(uintptr_t)program;
	attr.license = (uint64_t)(uintptr_t) "";
	fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
	if (fd >= 0) {
		*ret_fd = fd;
		return 0;
	}
	if (errno == ENOMEM || errno == EAGAIN)
		return err_errno(err, "load the filter of what the guest sends");
	return err_set(err, -EOPNOTSUPP,
		"filter what the guest sends: the kernel does not take a program of eBPF: %s (it "
		"needs CONFIG_BPF_SYSCALL and Linux 5.7); without it, network.antispoof must be "
		"false",
		strerror(errno));
}
