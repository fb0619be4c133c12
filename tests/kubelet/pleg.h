/*
 * The kubelet's generator of pod lifecycle events: it lists pods and containers again and again,
 * compares each list with the one before, and asks for the status of what changed. Scenarios learn
 * by it alone what has happened, as the kubelet does.
 *
 * It checks what no list may show: a state that goes back, something that comes again after it was
 * gone, a status that contradicts a list that was answered before it was asked for.
 *
 * Any thread may wait; one owner starts and stops.
 */
#pragma once

#include "tests/kubelet/node.h"
#include "tests/kubelet/worker.h"

/* States are CRI's, of pods and containers alike. */
#define PLEG_GONE (-1)

struct pleg;

int pleg_start(struct node *node, struct pleg **ret, struct err *err);
/* 0, or the first thing that was wrong. Prints how many lists it asked for. */
int pleg_stop(struct pleg *pleg, struct err *err);

/*
 * Until a list shows the pod or container in this state, or a later one; PLEG_GONE: until one that
 * was asked for after this call does not show it. -ETIME after a minute.
 */
int pleg_wait(struct pleg *pleg, const char *id, int state, struct err *err);
/* As the last list had it. */
int pleg_state(struct pleg *pleg, const char *id);
/* Until a list that is asked for after this call has come. */
int pleg_wait_list(struct pleg *pleg, struct err *err);
