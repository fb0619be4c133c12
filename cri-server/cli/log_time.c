#include "cri-server/cli/log_time.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/fd.h"

#define NS_PER_S    1000000000
#define TEXT_MAX    40
#define SINCE_S_MAX (100LL * 366 * 86400)

/* ".678" in nanoseconds; digits beyond nine are not looked at. Returns the text behind it. */
static const char *parse_fraction(const char *text, int64_t *ret_ns)
{
	int64_t scale = NS_PER_S / 10;
	*ret_ns = 0;
	if (*text != '.')
		return text;
	for (text++; *text >= '0' && *text <= '9'; text++, scale /= 10)
		*ret_ns += (*text - '0') * scale;
	return text;
}

/* "Z" or "+01:00", in seconds east; -EINVAL. */
static int parse_zone(const char *text, int *ret_s)
{
	int hours, minutes, end = 0;
	*ret_s = 0;
	if (strcmp(text, "Z") == 0)
		return 0;
	if ((text[0] != '+' && text[0] != '-') ||
		sscanf(text + 1, "%2d:%2d%n", &hours, &minutes, &end) != 2 || end != 5 || text[6] ||
		hours < 0 || minutes < 0)
		return -EINVAL;
	*ret_s = (hours * 60 + minutes) * (text[0] == '-' ? -60 : 60);
	return 0;
}

int log_time_parse(const char *from, size_t len, int64_t *ret_ns)
{
	char text[TEXT_MAX];
	struct tm tm = {0};
	int64_t fraction;
	int zone;
	if (len >= sizeof(text))
		return -EINVAL;
	memcpy(text, from, len);
	text[len] = '\0';
	const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	if (!rest || tm.tm_year < 70 || tm.tm_year > 200)
		return -EINVAL;
	rest = parse_fraction(rest, &fraction);
	if (parse_zone(rest, &zone) < 0)
		return -EINVAL;
	*ret_ns = ((int64_t)timegm(&tm) - zone) * NS_PER_S + fraction;
	return 0;
}

/* "1h30m", in seconds; -EINVAL. */
static int parse_duration(const char *text, int64_t *ret_s)
{
	static const struct {
		char letter;
		int64_t seconds;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
	int64_t total = 0;
	if (!*text)
		return -EINVAL;
	while (*text) {
		char *end;
		size_t unit = 0;
		if (*text < '0' || *text > '9')
			return -EINVAL;
		long long n = strtoll(text, &end, 10);
		while (unit < ARRAY_SIZE(units) && units[unit].letter != *end)
			unit++;
		if (unit == ARRAY_SIZE(units) || n > SINCE_S_MAX / units[unit].seconds)
			return -EINVAL;
		total += n * units[unit].seconds;
		if (total > SINCE_S_MAX)
			return -EINVAL;
		text = end + 1;
	}
	*ret_s = total;
	return 0;
}

int log_since_parse(const char *text, int64_t now_ns, int64_t *ret_ns, struct err *err)
{
	int64_t seconds;
	if (log_time_parse(text, strlen(text), ret_ns) == 0)
		return 0;
	if (parse_duration(text, &seconds) < 0)
		return err_set(err, -EINVAL,
			"--since: '%s' is neither a duration (90s, 5m, 1h30m, 2d) nor a time "
			"(2026-01-02T03:04:05Z)",
			text);
	*ret_ns = now_ns - seconds * NS_PER_S;
	return 0;
}
