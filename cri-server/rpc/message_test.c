#include "cri-server/rpc/message.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/fd.h"
#include "cri-server/proto/cri.pb-c.h"
#include "cri-server/rpc/answer.h"

static int check(const ProtobufCMessageDescriptor *type, const char *bytes, size_t len)
{
	struct err err = ERR_INIT;
	int r = rpc_message_check(type, (const uint8_t *)bytes, len, &err);
	assert_int_equal(err.msg[0] != '\0', r < 0);
	return r;
}

#define VERSION(bytes) check(&runtime__v1__version_request__descriptor, bytes, sizeof(bytes) - 1)
#define RUN(bytes)                                                                                 \
	check(&runtime__v1__run_pod_sandbox_request__descriptor, bytes, sizeof(bytes) - 1)

static void test_well_formed(void **state)
{
	(void)state;
	assert_int_equal(VERSION(""), 0);
	assert_int_equal(VERSION("\x0a\x02v1"), 0);
	assert_int_equal(VERSION("\x0a\x06\xc3\xa4\xf0\x9f\x98\x80"), 0);
	assert_int_equal(VERSION("\x1a\x02\xff\xff"), 0); /* an unknown field may hold any bytes */
	assert_int_equal(VERSION("\x18\x05\x0a\x01x"), 0);
	/* config.metadata.name */
	assert_int_equal(RUN("\x0a\x05\x0a\x03\x0a\x01n"), 0);
}

static void test_strings(void **state)
{
	(void)state;
	assert_int_equal(VERSION("\x0a\x03"
				 "a\0b"),
		-EBADMSG);
	assert_int_equal(VERSION("\x0a\x01\xff"), -EBADMSG);
	assert_int_equal(VERSION("\x0a\x02\xc0\x80"), -EBADMSG);         /* overlong */
	assert_int_equal(VERSION("\x0a\x03\xed\xa0\x80"), -EBADMSG);     /* surrogate */
	assert_int_equal(VERSION("\x0a\x04\xf4\x90\x80\x80"), -EBADMSG); /* past U+10FFFF */
	assert_int_equal(VERSION("\x0a\x02\xe2\x82"), -EBADMSG);         /* cut */
	assert_int_equal(RUN("\x0a\x05\x0a\x03\x0a\x01\xff"), -EBADMSG);
	/* a map's value: config.labels */
	assert_int_equal(RUN("\x0a\x08\x32\x06\x0a\x01k\x12\x01\xff"), -EBADMSG);
}

static void test_malformed(void **state)
{
	(void)state;
	assert_int_equal(VERSION("\x0a"), -EBADMSG);
	assert_int_equal(VERSION("\x0a\x05v1"), -EBADMSG);
	assert_int_equal(VERSION("\x0b\x0c"), -EBADMSG);                 /* a group */
	assert_int_equal(VERSION("\x02\x01x"), -EBADMSG);                /* field 0 */
	assert_int_equal(VERSION("\x0a\xff\xff\xff\xff\x0f"), -EBADMSG); /* 4 GiB long */
	assert_int_equal(VERSION("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), -EBADMSG);
	assert_int_equal(VERSION("\x19\x01\x02"), -EBADMSG);
	assert_int_equal(RUN("\x0a\x02\x0a\x03"), -EBADMSG);
}

/* A few MiB of empty messages that would unpack to hundreds. */
static void test_amplification(void **state)
{
	(void)state;
	size_t n = (size_t)1 << 20;
	char *bytes = malloc(2 * n);
	assert_non_null(bytes);
	for (size_t i = 0; i < n; i++)
		memcpy(bytes + 2 * i, "\x0a\x00", 2); /* containers: one more */
	assert_int_equal(
		check(&runtime__v1__list_containers_response__descriptor, bytes, 2 * n), -ENOBUFS);
	/* An ordinary list of a thousand passes. */
	assert_int_equal(check(&runtime__v1__list_containers_response__descriptor, bytes, 2000), 0);
	free(bytes);
}

/*
 * protobuf merges a message that is given again into the one before, and protobuf-c copies all
 * elements of a list for each that is added so. Here a list of 3 million numbers, and then a
 * hundred thousand times one more.
 */
static void test_merging(void **state)
{
	static const uint8_t more[] = {0x12, 0x03, 0x2a, 0x01, 0x01};
	const ProtobufCMessageDescriptor *type = &runtime__v1__linux_pod_sandbox_config__descriptor;
	const size_t numbers = 3000000, again = 100000, head = 10;
	uint8_t *bytes = calloc(1, head + numbers + again * sizeof(more));
	(void)state;
	assert_non_null(bytes);
	/* security_context.supplemental_groups, packed: lengths in four bytes of seven bits. */
	const uint8_t begin[] = {0x12, 0x80 | ((numbers + 5) & 0x7f),
		0x80 | ((numbers + 5) >> 7 & 0x7f), 0x80 | ((numbers + 5) >> 14 & 0x7f),
		(numbers + 5) >> 21, 0x2a, 0x80 | (numbers & 0x7f), 0x80 | (numbers >> 7 & 0x7f),
		0x80 | (numbers >> 14 & 0x7f), numbers >> 21};
	memcpy(bytes, begin, head);
	for (size_t i = 0; i < again; i++)
		memcpy(bytes + head + numbers + i * sizeof(more), more, sizeof(more));
	const char *text = (const char *)bytes;
	assert_int_equal(check(type, text, head + numbers), 0);
	assert_int_equal(check(type, text, head + numbers + sizeof(more)), 0);
	assert_int_equal(check(type, text, head + numbers + again * sizeof(more)), -ENOBUFS);
	free(bytes);
}

static void test_scrub(void **state)
{
	(void)state;
	Runtime__V1__RunPodSandboxRequest request = RUNTIME__V1__RUN_POD_SANDBOX_REQUEST__INIT;
	Runtime__V1__PodSandboxConfig config = RUNTIME__V1__POD_SANDBOX_CONFIG__INIT;
	Runtime__V1__PodSandboxConfig__LabelsEntry label =
		RUNTIME__V1__POD_SANDBOX_CONFIG__LABELS_ENTRY__INIT;
	Runtime__V1__PodSandboxConfig__LabelsEntry *labels[] = {&label};
	request.config = &config;
	config.hostname = (char *)"a\xff"
				  "b\xc3\xa4\xe2\x82";
	config.n_labels = ARRAY_SIZE(labels);
	config.labels = labels;
	label.value = (char *)"\x80ok";

	struct rpc_answer answer;
	assert_int_equal(respond(&request.base, &answer, NULL), 0);
	Runtime__V1__RunPodSandboxRequest *got =
		runtime__v1__run_pod_sandbox_request__unpack(NULL, answer.len, answer.data);
	assert_non_null(got);
	assert_string_equal(got->config->hostname, "a?b\xc3\xa4??");
	assert_string_equal(got->config->labels[0]->value, "?ok");
	assert_string_equal(got->config->labels[0]->key, "");
	runtime__v1__run_pod_sandbox_request__free_unpacked(got, NULL);
	rpc_answer_done(&answer);
}

/* Strings of every length around the eight bytes that are looked at together; bytes stay. */
static void test_scrub_lengths(void **state)
{
	(void)state;
	for (size_t len = 1; len < 40; len++) {
		for (size_t at = 0; at < len; at++) {
			char text[41] = {0};
			memset(text, 'a', len);
			text[at] = (char)0xff;
			Runtime__V1__ExecSyncResponse response =
				RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;
			response.stdout = (ProtobufCBinaryData){len, (uint8_t *)text};
			struct rpc_answer answer;
			assert_int_equal(respond(&response.base, &answer, NULL), 0);
			assert_memory_equal(answer.data + answer.len - len, text, len);
			rpc_answer_done(&answer);

			Runtime__V1__VersionResponse version = RUNTIME__V1__VERSION_RESPONSE__INIT;
			version.version = text;
			assert_int_equal(respond(&version.base, &answer, NULL), 0);
			text[at] = '?';
			assert_int_equal(answer.len, len + 2);
			assert_memory_equal(answer.data + 2, text, len);
			rpc_answer_done(&answer);
		}
	}
}

/* Whoever is done first, the others still have them. */
static void test_shared_answer(void **state)
{
	(void)state;
	Runtime__V1__VersionResponse version = RUNTIME__V1__VERSION_RESPONSE__INIT;
	version.version = (char *)"v1";
	struct rpc_answer first;
	assert_int_equal(respond(&version.base, &first, NULL), 0);
	struct rpc_answer second = rpc_answer_share(&first), third = rpc_answer_share(&second);
	assert_ptr_equal(second.data, first.data);
	rpc_answer_done(&first);
	assert_null(first.data);
	rpc_answer_unref_data(third.data);
	assert_int_equal(second.len, 4);
	assert_memory_equal(second.data, "\x0a\x02v1", 4);
	rpc_answer_done(&second);
	rpc_answer_done(&second);
}

static void test_joined_answers(void **state)
{
	(void)state;
	const ProtobufCMessageDescriptor *type =
		&runtime__v1__list_pod_sandbox_response__descriptor;
	struct rpc_answer parts[2], all;
	const struct rpc_answer *pointers[2];
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		Runtime__V1__PodSandbox item = RUNTIME__V1__POD_SANDBOX__INIT, *items[] = {&item};
		Runtime__V1__ListPodSandboxResponse one =
			RUNTIME__V1__LIST_POD_SANDBOX_RESPONSE__INIT;
		item.id = (char *)(i == 0 ? "first" : "second");
		one.items = items;
		one.n_items = 1;
		assert_int_equal(respond(&one.base, &parts[i], NULL), 0);
		pointers[i] = &parts[i];
	}
	assert_int_equal(respond_joined(type, pointers, 2, &all, NULL), 0);
	rpc_answer_done(&parts[0]);
	rpc_answer_done(&parts[1]);
	Runtime__V1__ListPodSandboxResponse *got =
		runtime__v1__list_pod_sandbox_response__unpack(NULL, all.len, all.data);
	assert_non_null(got);
	assert_int_equal(got->n_items, 2);
	assert_string_equal(got->items[0]->id, "first");
	assert_string_equal(got->items[1]->id, "second");
	runtime__v1__list_pod_sandbox_response__free_unpacked(got, NULL);
	rpc_answer_done(&all);
	assert_int_equal(respond_joined(type, NULL, 0, &all, NULL), 0);
	assert_int_equal(all.len, 0);
	rpc_answer_done(&all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_well_formed),
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_amplification),
		cmocka_unit_test(test_merging),
		cmocka_unit_test(test_scrub),
		cmocka_unit_test(test_scrub_lengths),
		cmocka_unit_test(test_shared_answer),
		cmocka_unit_test(test_joined_answers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
