/* Answers as JSON and YAML. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/document.h"
#include "cri-server/cli/message_json.h"
#include "cri-server/proto/cri.pb-c.h"

static char *print(const json_t *json, enum document_format format, bool next)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	assert_int_equal((next ? document_print_next : document_print)(out, json, format), 0);
	fclose(out);
	return text;
}

static void messages_have_protos_form(void **state)
{
	(void)state;
	Runtime__V1__Container c = RUNTIME__V1__CONTAINER__INIT;
	Runtime__V1__Container__LabelsEntry label = RUNTIME__V1__CONTAINER__LABELS_ENTRY__INIT;
	Runtime__V1__Container__LabelsEntry *labels[] = {&label};
	Runtime__V1__ContainerMetadata metadata = RUNTIME__V1__CONTAINER_METADATA__INIT;
	label.key = (char *)"app";
	label.value = (char *)"web\x1b[2J";
	metadata.name = (char *)"not utf-8: \xff";
	metadata.attempt = 3;
	c.metadata = &metadata;
	c.pod_sandbox_id = (char *)"abc";
	c.state = RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
	c.created_at = 1700000000123456789;
	c.labels = labels;
	c.n_labels = 1;
	json_auto_t *json = message_json(&c.base);
	_cleanup_free_ char *text = print(json, DOCUMENT_JSON, true);
	assert_non_null(strstr(text, "\"podSandboxId\":\"abc\""));
	assert_non_null(strstr(text, "\"state\":\"CONTAINER_RUNNING\""));
	assert_non_null(strstr(text, "\"createdAt\":\"1700000000123456789\""));
	assert_non_null(strstr(text, "\"labels\":{\"app\":\"web\\u001B[2J\"}"));
	assert_non_null(strstr(text, "\"annotations\":{}"));
	assert_non_null(strstr(text, "\"name\":\"not utf-8: \\\\xff\""));
	assert_non_null(strstr(text, "\"attempt\":3"));
	assert_null(strstr(text, "\"image\":"));

	c.state = 77; /* of a newer version */
	json_auto_t *newer = message_json(&c.base);
	assert_int_equal(json_integer_value(json_object_get(newer, "state")), 77);
}

static void lists_and_numbers(void **state)
{
	(void)state;
	Runtime__V1__PsiData psi = RUNTIME__V1__PSI_DATA__INIT;
	Runtime__V1__PortForwardRequest ports = RUNTIME__V1__PORT_FORWARD_REQUEST__INIT;
	Runtime__V1__Image image = RUNTIME__V1__IMAGE__INIT;
	int32_t numbers[] = {80, -1};
	char *tags[] = {(char *)"a:1", (char *)"b:2"};
	psi.total = UINT64_MAX;
	psi.avg10 = 0.5;
	ports.port = numbers;
	ports.n_port = 2;
	image.repo_tags = tags;
	image.n_repo_tags = 2;
	json_auto_t *a = message_json(&psi.base), *b = message_json(&ports.base),
		    *c = message_json(&image.base);
	_cleanup_free_ char *psi_text = print(a, DOCUMENT_JSON, true);
	_cleanup_free_ char *ports_text = print(b, DOCUMENT_JSON, true);
	_cleanup_free_ char *image_text = print(c, DOCUMENT_JSON, true);
	assert_non_null(strstr(psi_text, "\"Total\":\"18446744073709551615\",\"Avg10\":0.5"));
	assert_string_equal(ports_text, "{\"podSandboxId\":\"\",\"port\":[80,-1]}\n");
	assert_non_null(strstr(image_text, "\"repoTags\":[\"a:1\",\"b:2\"],\"repoDigests\":[]"));
	assert_non_null(strstr(image_text, "\"pinned\":false"));
}

/* What a terminal acts on is escaped, so that the document still says the same. */
static void documents_are_safe_on_terminals(void **state)
{
	static const char hostile[] = "\x1b]0;t\x07 \x7f \xc2\x9b \xe2\x80\xa8 caf\xc3\xa9";
	(void)state;
	json_auto_t *json = json_pack("{s:s}", hostile, hostile);
	for (enum document_format f = DOCUMENT_JSON; f <= DOCUMENT_YAML; f++) {
		_cleanup_free_ char *text = print(json, f, false);
		for (const char *c = text; *c; c++)
			assert_true((unsigned char)*c >= 0x20 ? *c != 0x7f : *c == '\n');
		assert_null(strstr(text, "\xc2\x9b"));
		assert_null(strstr(text, "\xe2\x80\xa8"));
		assert_non_null(strstr(text, "caf\xc3\xa9"));
		json_auto_t *again = f == DOCUMENT_JSON ? json_loads(text, 0, NULL) : NULL;
		assert_true(f == DOCUMENT_YAML || json_equal(json, again));
	}
}

static void yaml(void **state)
{
	(void)state;
	json_auto_t *json =
		json_loads("{\"items\": [{\"id\": \"x\", \"n\": 1, \"deep\": [[], [true, null]]},"
			   " {}], \"a.b/c\": \"no\", \"no\": -1.5, \"empty\": {}, \"id2\": {\"k\": "
			   "\"a\\nb\"}}",
			0, NULL);
	_cleanup_free_ char *text = print(json, DOCUMENT_YAML, false);
	assert_string_equal(text, "items:\n"
				  "  - id: \"x\"\n"
				  "    \"n\": 1\n"
				  "    deep:\n"
				  "      - []\n"
				  "      - - true\n"
				  "        - null\n"
				  "  - {}\n"
				  "\"a.b/c\": \"no\"\n"
				  "\"no\": -1.5\n"
				  "empty: {}\n"
				  "id2:\n"
				  "  k: \"a\\nb\"\n");
	json_auto_t *empty = json_object();
	_cleanup_free_ char *next = print(empty, DOCUMENT_YAML, true);
	assert_string_equal(next, "---\n{}\n");
}

static void formats(void **state)
{
	(void)state;
	assert_int_equal(document_format(NULL), DOCUMENT_TABLE);
	assert_int_equal(document_format("table"), DOCUMENT_TABLE);
	assert_int_equal(document_format("json"), DOCUMENT_JSON);
	assert_int_equal(document_format("yaml"), DOCUMENT_YAML);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_have_protos_form),
		cmocka_unit_test(lists_and_numbers),
		cmocka_unit_test(documents_are_safe_on_terminals),
		cmocka_unit_test(yaml),
		cmocka_unit_test(formats),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
