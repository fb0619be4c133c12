/* The client's side of the hybrid convention: its first line, `CONNECT <port>\n`. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define VS_HELLO_MAX 32

/*
 * Reads on in the line that `line` holds the first *len bytes of, and nothing behind it. 0: the
 * line is whole and names *ret_port; positive 1: it is not yet whole; -EPROTO: it is no such line,
 * -ENODATA: the client ended, or the error of reading.
 */
int vs_hello_read(int fd, char line[VS_HELLO_MAX], size_t *len, uint32_t *ret_port);
