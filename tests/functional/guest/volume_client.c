/*
 * What busybox-static lacks for looking at volumes from inside a container:
 *
 *	volume_client watch DIRECTORY     prints the name in each inotify event, one a line
 *	volume_client lock FILE           locks it and sleeps; exits with 1 when it is locked
 *	volume_client project NUMBER PATH gives it another project, for quotas
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int watch(const char *directory)
{
	char buffer[sizeof(struct inotify_event) + NAME_MAX + 1]
		__attribute__((aligned(__alignof__(struct inotify_event))));
	int fd = inotify_init1(0);

	if (fd < 0 || inotify_add_watch(fd, directory, IN_ALL_EVENTS) < 0) {
		perror(directory);
		return 1;
	}
	printf("%s: watching\n", directory);
	for (;;) {
		ssize_t n;

		fflush(stdout);
		n = read(fd, buffer, sizeof(buffer));
		if (n <= 0)
			return 1;
		for (char *at = buffer; at < buffer + n;) {
			const struct inotify_event *event = (const void *)at;

			printf("%s: %x %s\n", directory, event->mask,
				event->len ? event->name : "");
			at += sizeof(*event) + event->len;
		}
	}
}

static int lock(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT, 0644);

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0) {
		perror(path);
		return 1;
	}
	puts("locked");
	fflush(stdout);
	pause();
	return 0;
}

static int set_project(const char *number, const char *path)
{
	struct fsxattr attributes;
	int fd = open(path, O_RDONLY);

	if (fd < 0 || ioctl(fd, FS_IOC_FSGETXATTR, &attributes) < 0) {
		perror(path);
		return 1;
	}
	attributes.fsx_projid = (unsigned)strtoul(number, NULL, 10);
	if (ioctl(fd, FS_IOC_FSSETXATTR, &attributes) < 0) {
		perror("project");
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "watch") == 0)
		return watch(argv[2]);
	if (argc == 3 && strcmp(argv[1], "lock") == 0)
		return lock(argv[2]);
	if (argc == 4 && strcmp(argv[1], "project") == 0)
		return set_project(argv[2], argv[3]);
	fprintf(stderr, "usage: volume_client watch DIRECTORY | lock FILE | project NUMBER PATH\n");
	return 2;
}
