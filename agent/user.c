#include "agent/user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/root_path.h"
#include "common/fd.h"

#define FILE_MAX_BYTES (4u << 20)
#define NAME_MAX_BYTES 256
#define PASSWD_FIELDS  7
#define GROUP_FIELDS   4

struct passwd_line {
	const char *name;
	uid_t uid;
	gid_t gid;
	const char *home;
};

struct group_line {
	const char *name;
	gid_t gid;
	char *members;
};

/* Decimal digits alone; the largest value means "none" to the kernel. */
static bool parse_id(const char *text, uint32_t *ret_id)
{
	uint64_t id = 0;
	if (!*text)
		return false;
	for (const char *c = text; *c; c++) {
		if (*c < '0' || *c > '9')
			return false;
		id = id * 10 + (uint64_t)(*c - '0');
		if (id >= UINT32_MAX)
			return false;
	}
	*ret_id = (uint32_t)id;
	return true;
}

/* Cuts the next line off *text into n fields; missing ones are empty. NULL at the end. */
static char *next_line(char **text, char **fields, size_t n)
{
	if (!**text)
		return NULL;
	char *line = *text;
	size_t len = strcspn(line, "\n");
	*text = line + len + (line[len] == '\n');
	line[len] = '\0';
	char *rest = line;
	for (size_t i = 0; i < n; i++) {
		fields[i] = rest;
		size_t field = strcspn(rest, ":");
		bool last = rest[field] == '\0';
		rest[field] = '\0';
		rest += field + (last ? 0 : 1);
	}
	return line;
}

static bool next_passwd(char **text, struct passwd_line *line)
{
	char *f[PASSWD_FIELDS];
	while (next_line(text, f, PASSWD_FIELDS)) {
		line->name = f[0];
		line->home = f[5];
		if (*f[0] && parse_id(f[2], &line->uid) && parse_id(f[3], &line->gid))
			return true;
	}
	return false;
}

static bool next_group(char **text, struct group_line *line)
{
	char *f[GROUP_FIELDS];
	while (next_line(text, f, GROUP_FIELDS)) {
		line->name = f[0];
		line->members = f[3];
		if (*f[0] && parse_id(f[2], &line->gid))
			return true;
	}
	return false;
}

static bool matches(const char *wanted, const char *name, uint32_t id)
{
	char number[16];
	snprintf(number, sizeof(number), "%u", id);
	return strcmp(wanted, name) == 0 || strcmp(wanted, number) == 0;
}

/* Whether the comma-separated list has the name. */
static bool is_member(const char *list, const char *name)
{
	size_t len = strlen(name);
	while (*list) {
		size_t item = strcspn(list, ",");
		if (item == len && memcmp(list, name, len) == 0)
			return true;
		list += item + (list[item] == ',');
	}
	return false;
}

static int add_group(struct user *user, gid_t gid, struct err *err)
{
	for (size_t i = 0; i < user->n_groups; i++) {
		if (user->groups[i] == gid)
			return 0;
	}
	if (user->n_groups == USER_GROUPS_MAX)
		return err_set(err, -E2BIG, "more than %d groups", USER_GROUPS_MAX);
	user->groups[user->n_groups++] = gid;
	return 0;
}

/* Fills in uid, gid and home; *ret_name is the matching line's name or NULL. */
static int find_user(char *passwd, const Bulkhead__Agent__User *wanted, const char *name,
	struct user *user, const char **ret_name, struct err *err)
{
	char number[16];
	if (!*name) {
		snprintf(number, sizeof(number), "%u", wanted->has_uid ? wanted->uid : 0);
		name = number;
	}
	bool by_id = wanted->has_uid || name == number;
	struct passwd_line line;
	while (next_passwd(&passwd, &line)) {
		if (!matches(name, by_id ? "" : line.name, line.uid))
			continue;
		user->uid = line.uid;
		user->gid = line.gid;
		if (line.home[0] == '/' && strlen(line.home) < sizeof(user->home))
			snprintf(user->home, sizeof(user->home), "%s", line.home);
		*ret_name = line.name;
		return 0;
	}
	if (!parse_id(name, &user->uid))
		return err_set(err, -ENOENT,
			"unable to find user %s: no matching entries in passwd file", name);
	return 0;
}

static int find_group(char *group, const char *name, struct user *user, struct err *err)
{
	struct group_line line;
	while (next_group(&group, &line)) {
		if (matches(name, line.name, line.gid)) {
			user->gid = line.gid;
			return 0;
		}
	}
	if (!parse_id(name, &user->gid))
		return err_set(err, -ENOENT,
			"unable to find group %s: no matching entries in group file", name);
	return 0;
}

static int add_memberships(char *group, const char *name, struct user *user, struct err *err)
{
	struct group_line line;
	while (next_group(&group, &line)) {
		if (is_member(line.members, name) && add_group(user, line.gid, err) < 0)
			return err->code;
	}
	return 0;
}

int user_resolve_text(char *passwd, char *group, const Bulkhead__Agent__User *wanted,
	struct user *ret_user, struct err *err)
{
	static const Bulkhead__Agent__User root = BULKHEAD__AGENT__USER__INIT;
	if (!wanted)
		wanted = &root;
	struct user *user = ret_user;
	*user = (struct user){.home = "/"};
	char name[NAME_MAX_BYTES] = "";
	if (!wanted->has_uid) {
		if (strlen(wanted->name) >= sizeof(name))
			return err_set(
				err, -EINVAL, "a user name of %zu bytes", strlen(wanted->name));
		snprintf(name, sizeof(name), "%s", wanted->name);
	} else if (wanted->uid == UINT32_MAX) {
		return err_set(err, -EINVAL, "user id %u is not valid", wanted->uid);
	}
	char *group_name = strchr(name, ':');
	if (group_name)
		*group_name++ = '\0';
	const char *line_name = NULL;
	if (find_user(passwd, wanted, name, user, &line_name, err) < 0)
		return err->code;
	bool named_group = group_name && *group_name;
	if (named_group && find_group(group, group_name, user, err) < 0)
		return err->code;
	if (wanted->has_gid && wanted->gid == UINT32_MAX)
		return err_set(err, -EINVAL, "group id %u is not valid", wanted->gid);
	if (wanted->has_gid)
		user->gid = wanted->gid;
	if (add_group(user, user->gid, err) < 0)
		return err->code;
	for (size_t i = 0; i < wanted->n_supplementary_gids; i++) {
		if (add_group(user, wanted->supplementary_gids[i], err) < 0)
			return err->code;
	}
	if (!named_group && line_name && !wanted->strict)
		return add_memberships(group, line_name, user, err);
	return 0;
}

/* A missing file is an empty one. */
static int read_text(int root, const char *path, char **ret_text, struct err *err)
{
	/* Non-blocking: a FIFO in its place would hold us. */
	_cleanup_close_ int fd = root_open(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	struct stat st = {.st_size = 0};
	if (fd < 0 && fd != -ENOENT && fd != -ENOTDIR)
		return err_set(err, fd, "open %s: %s", path, strerror(-fd));
	if (fd >= 0 && fstat(fd, &st) < 0)
		return err_errno(err, "examine %s", path);
	if (fd >= 0 && !S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: not a regular file", path);
	if (st.st_size > FILE_MAX_BYTES)
		return err_set(err, -EFBIG, "%s: more than %u bytes", path, FILE_MAX_BYTES);
	size_t size = (size_t)st.st_size;
	_cleanup_free_ char *text = malloc(size + 1);
	if (!text)
		return err_nomem(err);
	size_t len = 0;
	while (len < size) {
		ssize_t n = read(fd, text + len, size - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "read %s", path);
		if (n == 0)
			break;
		len += (size_t)n;
	}
	text[len] = '\0';
	*ret_text = TAKE_PTR(text);
	return 0;
}

int user_resolve(
	int root, const Bulkhead__Agent__User *wanted, struct user *ret_user, struct err *err)
{
	_cleanup_free_ char *passwd = NULL;
	_cleanup_free_ char *group = NULL;
	if (read_text(root, "/etc/passwd", &passwd, err) < 0 ||
		read_text(root, "/etc/group", &group, err) < 0)
		return err->code;
	return user_resolve_text(passwd, group, wanted, ret_user, err);
}
