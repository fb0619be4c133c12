/*
 * Names of signals, as images, CRI and people write them. Pure.
 */
#pragma once

/*
 * "SIGTERM", "TERM", "15", "SIGRTMIN+3", and CRI's "SIGRTMINPLUS3" → the number as Linux has it
 * (SIGRTMIN is 34, as glibc counts), 0 for what is none of these.
 */
int signal_from_name(const char *name);
