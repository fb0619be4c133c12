/*
 * A line of a container's log, as bulkheadctl shows it: what is printed of it reaches no control of
 * a terminal.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/cli/log_file.h"
#include "cri-server/cli/log_time.h"
#include "cri-server/cli/output.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void assert_shown(const char *text, size_t len)
{
	_cleanup_free_ char *shown = output_escape_line(text, len);
	if (!shown)
		abort();
	for (const unsigned char *c = (const unsigned char *)shown; *c; c++)
		if ((*c < 0x20 && *c != '\t') || *c == 0x7f ||
			(c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0))
			abort();
	/* Nothing of what is shown is escaped again. */
	_cleanup_free_ char *again = output_escape_line(shown, strlen(shown));
	if (!again || strcmp(again, shown) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *line = (const char *)data;
	struct log_entry entry;
	int64_t ns;
	if (log_entry_parse(line, size, &entry) < 0) {
		assert_shown(line, size);
		return 0;
	}
	if ((entry.fd != 1 && entry.fd != 2) || entry.time != line ||
		entry.text < entry.time + entry.time_len || entry.text + entry.len != line + size)
		abort();
	if (log_time_parse(entry.time, entry.time_len, &ns) == 0 &&
		ns < -86400 * INT64_C(1000000000))
		abort();
	assert_shown(entry.time, entry.time_len);
	assert_shown(entry.text, entry.len);
	return 0;
}
