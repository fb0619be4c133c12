/*
 * Errors: a code and a message for people, on the caller's stack.
 *
 * A function that can fail returns 0, a positive value that it documents (a condition that the
 * caller must handle), or a negative errno with `err` filled. Nothing is allocated, so errors work
 * when memory is out. Messages grow outwards: the innermost function says what it tried and what
 * was wrong, each caller that knows more puts its own words in front:
 *
 *	Run pod 'web': attach layer sha256:12ab: open /var/lib/…: No such file or directory
 *
 * Some codes carry a meaning for the CRI client; cri-server/rpc/status.h has the one table:
 * -ENOENT not found, -EEXIST exists already, -EINVAL bad argument, -EBADFD the object is in the
 * wrong state, -EOPNOTSUPP not built, -ETIMEDOUT, -ECANCELED, -ENOSPC, -EAGAIN try again later.
 */
#pragma once

#include <stdarg.h>

struct err {
	int code; /* 0, or a negative errno */
	char msg[1024];
};

#define ERR_INIT                                                                                   \
	{                                                                                          \
		.code = 0                                                                          \
	}

/*
 * Sets code and message and returns code. `err` may be NULL: the code still travels. None of these
 * functions ever returns success: a code that is not negative becomes -EIO.
 */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set() with errno as the code and ": <its text>" appended. */
int err_errno(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Puts "<text>: " in front of the message and returns the code. Without an err to hold it the code
 * is not known here, so it is -EIO: never success.
 */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* -ENOMEM with a message. */
int err_nomem(struct err *err);

/* Tells compilers and analysers so: after `return err_set(…)` they need not follow the way of
 * success. */
static inline int err_negative(int code)
{
	if (code >= 0)
		__builtin_unreachable();
	return code;
}
#define err_set(...)   err_negative(err_set(__VA_ARGS__))
#define err_errno(...) err_negative(err_errno(__VA_ARGS__))
#define err_wrap(...)  err_negative(err_wrap(__VA_ARGS__))
#define err_nomem(err) err_negative(err_nomem(err))
