#include "cri-server/runtime/signals.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SIGNAL_MAX 64

/* A number without anything behind it, in 0…SIGNAL_MAX; else -1. */
static int whole_number(const char *text)
{
	char *end;
	if (*text < '0' || *text > '9')
		return -1;
	long value = strtol(text, &end, 10);
	return *end || value > SIGNAL_MAX ? -1 : (int)value;
}

static int realtime_signal(const char *name)
{
	static const struct {
		const char *prefix;
		int base, sign;
	} forms[] = {
		{"RTMIN+", 34, 1},
		{"RTMINPLUS", 34, 1},
		{"RTMAX-", SIGNAL_MAX, -1},
		{"RTMAXMINUS", SIGNAL_MAX, -1},
	};
	if (strcasecmp(name, "RTMIN") == 0)
		return 34;
	if (strcasecmp(name, "RTMAX") == 0)
		return SIGNAL_MAX;
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		size_t len = strlen(forms[i].prefix);
		if (strncasecmp(name, forms[i].prefix, len) != 0)
			continue;
		int n = whole_number(name + len);
		int signo = forms[i].base + forms[i].sign * n;
		return n >= 0 && signo >= 34 && signo <= SIGNAL_MAX ? signo : 0;
	}
	return 0;
}

int signal_from_name(const char *name)
{
	int number = whole_number(name);
	if (number >= 0)
		return number;
	if (strncasecmp(name, "SIG", 3) == 0)
		name += 3;
	for (int signo = 1; signo < 32; signo++) {
		const char *known = sigabbrev_np(signo);
		if (known && strcasecmp(known, name) == 0)
			return signo;
	}
	/* Other names of the same numbers that CRI has. */
	if (strcasecmp(name, "CLD") == 0)
		return SIGCHLD;
	if (strcasecmp(name, "IOT") == 0)
		return SIGABRT;
	if (strcasecmp(name, "IO") == 0)
		return SIGIO;
	return realtime_signal(name);
}
