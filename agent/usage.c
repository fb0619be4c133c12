#include "agent/usage.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/loop.h"

/* memory.stat has 2 KiB, io.stat a line per disk. */
#define FILE_MAX_BYTES 16384
/* Two callers in a row would get a rate over no time: it is kept for this long. */
#define RATE_MIN_NS 500000000

/* In the order of their files, each of which is read once. */
struct figure {
	const char *file;
	const char *key; /* at the start of a line; NULL: the file is the number */
	size_t offset;
	unsigned scale;
};

#define FIGURE(file, key, field, scale)                                                            \
	{                                                                                          \
		file, key, offsetof(Bulkhead__Agent__Usage, field), scale                          \
	}

static const struct figure figures[] = {
	FIGURE("cpu.stat", "usage_usec", cpu_ns, 1000),
	FIGURE("cpu.stat", "user_usec", cpu_user_ns, 1000),
	FIGURE("cpu.stat", "system_usec", cpu_system_ns, 1000),
	FIGURE("cpu.stat", "nr_periods", cpu_periods, 1),
	FIGURE("cpu.stat", "nr_throttled", cpu_throttled_periods, 1),
	FIGURE("cpu.stat", "throttled_usec", cpu_throttled_ns, 1000),
	FIGURE("memory.current", NULL, memory_bytes, 1),
	FIGURE("memory.max", NULL, memory_limit, 1),
	FIGURE("memory.peak", NULL, memory_peak, 1),
	FIGURE("memory.stat", "anon", anon_bytes, 1),
	FIGURE("memory.stat", "file", file_bytes, 1),
	FIGURE("memory.stat", "inactive_file", inactive_file_bytes, 1),
	FIGURE("memory.stat", "file_mapped", file_mapped_bytes, 1),
	FIGURE("memory.stat", "kernel", kernel_bytes, 1),
	FIGURE("memory.stat", "pgfault", page_faults, 1),
	FIGURE("memory.stat", "pgmajfault", major_page_faults, 1),
	FIGURE("memory.events", "oom_kill", oom_kills, 1),
	FIGURE("memory.events", "max", memory_limit_hits, 1),
	FIGURE("memory.swap.current", NULL, swap_bytes, 1),
	FIGURE("memory.swap.max", NULL, swap_limit, 1),
	FIGURE("hugetlb.2MB.current", NULL, hugepage_bytes, 1),
	FIGURE("pids.current", NULL, tasks, 1),
	FIGURE("pids.max", NULL, tasks_limit, 1),
};

/* Empty when it cannot be read. */
static void read_text(int directory, const char *name, char text[static FILE_MAX_BYTES])
{
	_cleanup_close_ int fd = openat(directory, name, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n = 0;
	while (fd >= 0 && len < FILE_MAX_BYTES - 1 &&
		(n = read(fd, text + len, FILE_MAX_BYTES - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
}

static const char *next_line(const char *line)
{
	line += strcspn(line, "\n");
	return *line ? line + 1 : line;
}

/* "max" is UINT64_MAX. */
static uint64_t value_of(const char *text, const char *key)
{
	if (!key && strncmp(text, "max", 3) == 0)
		return UINT64_MAX;
	if (!key)
		return strtoull(text, NULL, 10);
	size_t len = strlen(key);
	for (const char *line = text; *line; line = next_line(line))
		if (strncmp(line, key, len) == 0 && line[len] == ' ')
			return strtoull(line + len + 1, NULL, 10);
	return 0;
}

uint64_t usage_io_sum(const char *text, const char *key)
{
	uint64_t sum = 0;
	size_t len = strlen(key);
	for (const char *at = text; (at = strstr(at, key)); at += len)
		if (at > text && at[-1] == ' ' && at[len] == '=')
			sum += strtoull(at + len + 1, NULL, 10);
	return sum;
}

static void parse_stall(const char *text, const char *name, Bulkhead__Agent__Stall *stall)
{
	size_t len = strlen(name);
	bulkhead__agent__stall__init(stall);
	for (const char *line = text; *line; line = next_line(line)) {
		unsigned a[3], b[3];
		unsigned long long total;
		if (strncmp(line, name, len) != 0 ||
			sscanf(line + len, " avg10=%u.%u avg60=%u.%u avg300=%u.%u total=%llu",
				&a[0], &b[0], &a[1], &b[1], &a[2], &b[2], &total) != 7)
			continue;
		stall->avg10 = a[0] * 100 + b[0];
		stall->avg60 = a[1] * 100 + b[1];
		stall->avg300 = a[2] * 100 + b[2];
		stall->total_us = total;
	}
}

void usage_parse_pressure(
	const char *text, Bulkhead__Agent__Stall *some, Bulkhead__Agent__Stall *full)
{
	parse_stall(text, "some", some);
	parse_stall(text, "full", full);
}

static Bulkhead__Agent__Pressure *read_pressure(
	int cgroup, const char *file, struct usage *usage, unsigned index, char *text)
{
	Bulkhead__Agent__Pressure *pressure = &usage->pressures[index];
	bulkhead__agent__pressure__init(pressure);
	read_text(cgroup, file, text);
	if (!*text)
		return NULL;
	pressure->some = &usage->stalls[2 * index];
	pressure->full = &usage->stalls[2 * index + 1];
	usage_parse_pressure(text, pressure->some, pressure->full);
	return pressure;
}

void usage_rate_begin(struct usage_rate *rate)
{
	*rate = (struct usage_rate){.at_ns = ev_now_ns()};
}

static uint64_t rate_next(struct usage_rate *rate, uint64_t cpu_ns)
{
	uint64_t now = ev_now_ns(), passed = now - rate->at_ns;
	bool first = rate->cpu_ns == 0 && rate->nano_cores == 0;
	if (passed == 0 || (passed < RATE_MIN_NS && !first))
		return rate->nano_cores;
	uint64_t used = cpu_ns > rate->cpu_ns ? cpu_ns - rate->cpu_ns : 0;
	/* In a double: hours of many CPUs times 1e9 do not fit 64 bits. */
	uint64_t nano_cores = (uint64_t)((double)used * 1e9 / (double)passed);
	*rate = (struct usage_rate){.cpu_ns = cpu_ns, .at_ns = now, .nano_cores = nano_cores};
	return nano_cores;
}

void usage_read(int cgroup, struct usage_rate *rate, struct usage *ret)
{
	char text[FILE_MAX_BYTES] = "";
	const char *file = "";
	Bulkhead__Agent__Usage *usage = &ret->message;
	bulkhead__agent__usage__init(usage);
	for (size_t i = 0; i < ARRAY_SIZE(figures); i++) {
		const struct figure *f = &figures[i];
		if (strcmp(f->file, file) != 0)
			read_text(cgroup, f->file, text);
		file = f->file;
		*(uint64_t *)((char *)usage + f->offset) = value_of(text, f->key) * f->scale;
	}
	usage->cpu_nano_cores = rate_next(rate, usage->cpu_ns);
	read_text(cgroup, "io.stat", text);
	usage->read_bytes = usage_io_sum(text, "rbytes");
	usage->written_bytes = usage_io_sum(text, "wbytes");
	usage->reads = usage_io_sum(text, "rios");
	usage->writes = usage_io_sum(text, "wios");
	usage->cpu_pressure = read_pressure(cgroup, "cpu.pressure", ret, 0, text);
	usage->memory_pressure = read_pressure(cgroup, "memory.pressure", ret, 1, text);
	usage->io_pressure = read_pressure(cgroup, "io.pressure", ret, 2, text);
}

/*
 * "  eth0: 1 2 3 …": 16 numbers, of which received ones come first. Names are a container's that
 * may make links, and any bytes; the host takes no message of which a text is not proper.
 */
static bool parse_interface(const char *line, struct usage_interface *ret)
{
	unsigned long long rx[8], tx[8];
	line += strspn(line, " ");
	size_t len = strcspn(line, ":\n");
	if (line[len] != ':' || len == 0 || len >= sizeof(ret->name))
		return false;
	if (sscanf(line + len + 1, "%llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu %llu",
		    &rx[0], &rx[1], &rx[2], &rx[3], &rx[4], &rx[5], &rx[6], &rx[7], &tx[0], &tx[1],
		    &tx[2], &tx[3]) != 12)
		return false;
	for (size_t i = 0; i < len; i++)
		ret->name[i] = line[i] > ' ' && line[i] <= '~' ? line[i] : '?';
	ret->name[len] = '\0';
	bulkhead__agent__interface_usage__init(&ret->message);
	ret->message.rx_bytes = rx[0];
	ret->message.rx_packets = rx[1];
	ret->message.rx_errors = rx[2];
	ret->message.rx_dropped = rx[3];
	ret->message.tx_bytes = tx[0];
	ret->message.tx_packets = tx[1];
	ret->message.tx_errors = tx[2];
	ret->message.tx_dropped = tx[3];
	return strcmp(ret->name, "lo") != 0;
}

size_t usage_parse_interfaces(const char *text, struct usage_interface *ret, size_t max)
{
	size_t n = 0;
	for (const char *line = text; *line && n < max; line = next_line(line))
		n += parse_interface(line, &ret[n]);
	for (size_t i = 0; i < n; i++)
		ret[i].message.name = ret[i].name;
	return n;
}

size_t usage_read_interfaces(struct usage_interface *ret, size_t max)
{
	char text[FILE_MAX_BYTES];
	read_text(AT_FDCWD, "/proc/net/dev", text);
	return usage_parse_interfaces(text, ret, max);
}

void usage_read_machine(uint64_t *ret_memory, uint64_t *ret_swap)
{
	struct sysinfo info;
	*ret_memory = *ret_swap = 0;
	if (sysinfo(&info) < 0)
		return;
	*ret_memory = (uint64_t)info.totalram * info.mem_unit;
	*ret_swap = (uint64_t)info.totalswap * info.mem_unit;
}
