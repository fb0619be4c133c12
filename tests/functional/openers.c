/*
 * openers FILE: prints "watching", then the name of each process that opens the file, until it is
 * killed. What was open before is not told of.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include "common/fd.h"

static void print_opener(int pid)
{
	char path[32], name[32];
	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, name, sizeof(name));
	if (n > 0)
		printf("%.*s", (int)n, name);
	else
		puts("a process that has ended");
}

static int print_openers(int fd)
{
	struct fanotify_event_metadata events[16];
	ssize_t n;
	while ((n = read(fd, events, sizeof(events))) > 0)
		for (const struct fanotify_event_metadata *event = events; FAN_EVENT_OK(event, n);
			event = FAN_EVENT_NEXT(event, n)) {
			print_opener(event->pid);
			fd_close(event->fd);
		}
	return 1;
}

int main(int argc, char **argv)
{
	_cleanup_close_ int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC);
	if (argc != 2 || fd < 0 ||
		fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, argv[1]) < 0) {
		fprintf(stderr, "openers: %s\n", strerror(argc == 2 ? errno : EINVAL));
		return 1;
	}
	setlinebuf(stdout);
	puts("watching");
	return print_openers(fd);
}
