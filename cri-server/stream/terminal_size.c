#include "cri-server/stream/terminal_size.h"

#include <jansson.h>
#include <stdint.h>

#define TEXT_MAX 1024 /* a size that is not complete */

struct terminal_size terminal_size_init(void)
{
	return (struct terminal_size){.text = buf_init(TEXT_MAX)};
}

void terminal_size_done(struct terminal_size *size)
{
	buf_done(&size->text);
}

static bool take(struct terminal_size *size, const json_t *json)
{
	json_int_t columns = json_integer_value(json_object_get(json, "Width"));
	json_int_t rows = json_integer_value(json_object_get(json, "Height"));
	if (columns < 1 || rows < 1 || columns > UINT16_MAX || rows > UINT16_MAX)
		return false;
	size->columns = (unsigned)columns;
	size->rows = (unsigned)rows;
	return true;
}

bool terminal_size_feed(struct terminal_size *size, const void *data, size_t len)
{
	struct buf *text = &size->text;
	bool is_new = false;
	if (buf_append(text, data, len) < 0) {
		buf_consume(text, text->len);
		return false;
	}
	while (text->len) {
		json_error_t error;
		json_t *json = json_loadb(text->data, text->len, JSON_DISABLE_EOF_CHECK, &error);
		if (!json && json_error_code(&error) != json_error_premature_end_of_input)
			buf_consume(text, text->len); /* nonsense */
		if (!json)
			break;
		is_new |= take(size, json);
		json_decref(json);
		buf_consume(text, (size_t)error.position);
	}
	return is_new;
}
