/*
 * What `make bench` found: named series of samples, and the table of rows that are made of them.
 *
 * The table at the top of results.c is the one place that says which rows there are, in which
 * unit, against which baseline and with which bar. To add a row: a line there, and results_add()
 * where the thing is measured. A series that no row names (a baseline) is only compared with.
 *
 * Plain value; one thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "common/err.h"

#define RESULTS_SAMPLES_MAX 100
#define RESULTS_SERIES_MAX  96
#define RESULTS_NAME_MAX    64

struct series {
	char name[RESULTS_NAME_MAX];
	double samples[RESULTS_SAMPLES_MAX];
	size_t n;
};

struct results {
	struct series series[RESULTS_SERIES_MAX]; /* in the order of their first samples */
	size_t n;
	bool kvm; /* what the accelerator is: some bars are others then */
};

/* Notes a sample, in its row's unit. -ENOBUFS: more series or samples than there is room for. */
int results_add(struct results *results, const char *name, double sample, struct err *err);

/* -ENODATA names the first row of `make bench`, or baseline of one, that has no sample. */
int results_check(const struct results *results, struct err *err);

/* The table for people; below it each bar that does not hold. */
void results_print(const struct results *results, FILE *out);

/*
 * Writes the rows as a JSON array of {name, unit, median, baseline, ratio, bar, holds}; what has no
 * meaning for a row is null. baseline is the baseline's median and ratio the median over it, or,
 * where the table has pairs of them, the median of each sample over the baseline's. What a bar
 * bounds, the ratio, the median or what that adds to the baseline, is in the table. Rows of the
 * table that an earlier file at path has and these results have not are kept.
 */
int results_write(const struct results *results, const char *path, struct err *err);
