/*
 * How a debug console is asked for. CRI has no call for it: it is an Exec whose container is named
 * by this prefix and the pod's id. No container has such an id, and a kubelet execs only in
 * containers that it was told of, so none gets there by accident.
 */
#pragma once

#define DEBUG_CONSOLE_PREFIX "guest:"
