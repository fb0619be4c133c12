#include "tests/bench/results.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/fd.h"

/* What a bar bounds. */
enum bar {
	BAR_NONE,
	BAR_RATIO,     /* ratio to the baseline, at most */
	BAR_RATIO_TCG, /* the same, where programs are emulated; by KVM half of it */
	BAR_LEAST,     /* ratio to the baseline, at least */
	BAR_PAIRS,     /* the same two, of samples that were taken beside one another */
	BAR_PAIRS_LEAST,
	BAR_ADDED,  /* median - baseline */
	BAR_MEDIAN, /* the median */
	BAR_SOAK,   /* the median, which `make soak` measures and not `make bench` */
};

struct row {
	const char *name; /* of the series; "prefix.*": a row for each that begins so */
	const char *unit;
	const char *baseline; /* a series; NULL: none */
	enum bar bar;
	double limit;
};

static const struct row rows[] = {
	{"sandbox.run", "ms", "raw.boot", BAR_RATIO, 1.6},
	{"sandbox.run.*", "ms", NULL, BAR_NONE, 0},
	{"container.create", "ms", NULL, BAR_NONE, 0},
	{"container.start", "ms", NULL, BAR_NONE, 0},
	{"container.create_start", "ms", "containerd.create_start", BAR_RATIO_TCG, 3.0},
	{"exec.sync", "ms", NULL, BAR_NONE, 0},
	{"exec.stream", "ms", "containerd.exec.stream", BAR_RATIO_TCG, 3.0},
	{"exec.throughput", "MiB/s", "containerd.exec.throughput", BAR_LEAST, 0.3},
	{"image.pull.cold", "ms", "containerd.pull.cold", BAR_RATIO, 1.0},
	{"image.pull.shared", "ms", "containerd.pull.shared", BAR_RATIO, 1.0},
	{"image.pull.memory", "MiB", NULL, BAR_MEDIAN, 300},
	{"image.disk", "MiB", "containerd.disk", BAR_RATIO, 1.1},
	{"net.tcp", "MiB/s", "bare.tcp", BAR_PAIRS_LEAST, 0.95},
	{"net.rtt", "us", "bare.rtt", BAR_PAIRS, 1.05},
	{"net.frame", "us", "bare.frame", BAR_NONE, 0},
	{"net.setup", "ms", NULL, BAR_MEDIAN, 15},
	{"disk.image_read", "ms", "raw.image_read", BAR_RATIO, 1.15},
	{"disk.scratch_write", "ms", "raw.scratch_write", BAR_RATIO, 1.15},
	{"volume.read", "ms", "containerd.volume.read", BAR_NONE, 0},
	{"volume.small_files", "ms", "containerd.volume.small_files", BAR_NONE, 0},
	{"memory.pod", "MiB", "raw.memory", BAR_ADDED, 60},
	{"image.list_1000", "ms", NULL, BAR_MEDIAN, 5},
	{"list.containers_1000", "ms", NULL, BAR_MEDIAN, 10},
	{"list.sandboxes_1000", "ms", NULL, BAR_MEDIAN, 10},
	{"list.container_stats_1000", "ms", NULL, BAR_MEDIAN, 10},
	{"restart.1000_records", "ms", NULL, BAR_MEDIAN, 2000},
	{"memory.server", "MiB", NULL, BAR_MEDIAN, 64},
	{"soak.memory_slope", "KiB", NULL, BAR_SOAK, 1},
	{"soak.p99_drift", "times", NULL, BAR_SOAK, 1.2},
};

/* A row with its figures. */
struct figures {
	const struct row *row;
	const char *name;
	double median, baseline, ratio, limit;
	bool holds;
};

typedef int (*figures_fn)(void *userdata, const struct figures *figures);

static const struct series *find(const struct results *results, const char *name)
{
	for (size_t i = 0; i < results->n; i++)
		if (strcmp(results->series[i].name, name) == 0)
			return &results->series[i];
	return NULL;
}

int results_add(struct results *results, const char *name, double sample, struct err *err)
{
	struct series *series = (struct series *)find(results, name);
	if (!series) {
		if (results->n == RESULTS_SERIES_MAX || strlen(name) >= RESULTS_NAME_MAX)
			return err_set(err, -ENOBUFS, "note %s: no room for it", name);
		series = &results->series[results->n++];
		snprintf(series->name, sizeof(series->name), "%s", name);
	}
	if (series->n == RESULTS_SAMPLES_MAX)
		return err_set(err, -ENOBUFS, "note %s: too many samples", name);
	series->samples[series->n++] = sample;
	return 0;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median_of(const struct series *series)
{
	double sorted[RESULTS_SAMPLES_MAX];
	memcpy(sorted, series->samples, series->n * sizeof(sorted[0]));
	qsort(sorted, series->n, sizeof(sorted[0]), compare);
	return (sorted[(series->n - 1) / 2] + sorted[series->n / 2]) / 2;
}

static double ratio_of(
	const struct row *row, const struct series *series, const struct series *baseline)
{
	struct series ratios = {.n = series->n < baseline->n ? series->n : baseline->n};
	if (row->bar != BAR_PAIRS && row->bar != BAR_PAIRS_LEAST)
		return median_of(series) / median_of(baseline);
	for (size_t i = 0; i < ratios.n; i++)
		ratios.samples[i] = series->samples[i] / baseline->samples[i];
	return median_of(&ratios);
}

static bool names(const struct row *row, const char *name)
{
	size_t len = strlen(row->name);
	if (row->name[len - 1] == '*')
		return strncmp(row->name, name, len - 1) == 0;
	return strcmp(row->name, name) == 0;
}

static bool holds(const struct figures *f)
{
	switch (f->row->bar) {
	case BAR_RATIO:
	case BAR_RATIO_TCG:
	case BAR_PAIRS:
		return f->ratio <= f->limit;
	case BAR_LEAST:
	case BAR_PAIRS_LEAST:
		return f->ratio >= f->limit;
	case BAR_ADDED:
		return f->median - f->baseline <= f->limit;
	case BAR_MEDIAN:
	case BAR_SOAK:
		return f->median <= f->limit;
	case BAR_NONE:
		break;
	}
	return true;
}

/* Calls fn for each row that has samples, in the table's order, until it returns other than 0. */
static int each(const struct results *results, figures_fn fn, void *userdata)
{
	for (size_t k = 0; k < ARRAY_SIZE(rows); k++) {
		const struct series *baseline =
			rows[k].baseline ? find(results, rows[k].baseline) : NULL;
		for (size_t i = 0; i < results->n; i++) {
			if (!names(&rows[k], results->series[i].name))
				continue;
			struct figures figures = {
				.row = &rows[k],
				.name = results->series[i].name,
				.median = median_of(&results->series[i]),
				.baseline = baseline ? median_of(baseline) : 0,
				.ratio = baseline
						 ? ratio_of(&rows[k], &results->series[i], baseline)
						 : 0,
				.limit = rows[k].limit,
			};
			if (rows[k].bar == BAR_RATIO_TCG && results->kvm)
				figures.limit /= 2;
			figures.holds = holds(&figures);
			int r = fn(userdata, &figures);
			if (r != 0)
				return r;
		}
	}
	return 0;
}

int results_check(const struct results *results, struct err *err)
{
	for (size_t k = 0; k < ARRAY_SIZE(rows); k++) {
		bool found = rows[k].bar == BAR_SOAK;
		for (size_t i = 0; i < results->n && !found; i++)
			found = names(&rows[k], results->series[i].name);
		if (!found)
			return err_set(err, -ENODATA, "%s was not measured", rows[k].name);
		if (rows[k].baseline && !find(results, rows[k].baseline))
			return err_set(err, -ENODATA, "%s was not measured", rows[k].baseline);
	}
	return 0;
}

static void describe_bar(const struct figures *f, char *out, size_t size)
{
	out[0] = '\0';
	switch (f->row->bar) {
	case BAR_NONE:
		break;
	case BAR_RATIO:
	case BAR_RATIO_TCG:
	case BAR_LEAST:
	case BAR_PAIRS:
	case BAR_PAIRS_LEAST:
		snprintf(out, size, "%g times", f->limit);
		break;
	case BAR_ADDED:
		snprintf(out, size, "%g %s more", f->limit, f->row->unit);
		break;
	case BAR_MEDIAN:
	case BAR_SOAK:
		snprintf(out, size, "%g %s", f->limit, f->row->unit);
		break;
	}
}

static int print_row(void *userdata, const struct figures *f)
{
	FILE *out = userdata;
	char bar[32], baseline[32] = "", ratio[16] = "";
	describe_bar(f, bar, sizeof(bar));
	if (f->row->baseline) {
		snprintf(baseline, sizeof(baseline), "%.1f", f->baseline);
		snprintf(ratio, sizeof(ratio), "%.2f", f->ratio);
	}
	fprintf(out, "%-24s %-5s %10.1f %10s %7s   %-12s %s\n", f->name, f->row->unit, f->median,
		baseline, ratio, bar,
		f->row->bar == BAR_NONE ? ""
		: f->holds              ? "holds"
					: "DOES NOT HOLD");
	return 0;
}

static int print_broken(void *userdata, const struct figures *f)
{
	FILE *out = userdata;
	char bar[32];
	if (f->holds)
		return 0;
	describe_bar(f, bar, sizeof(bar));
	fprintf(out, "The bar of %s does not hold: at %s %s%s%s, but it is %.1f %s", f->name,
		f->row->bar == BAR_LEAST || f->row->bar == BAR_PAIRS_LEAST ? "least" : "most", bar,
		f->row->baseline ? " of " : "", f->row->baseline ? f->row->baseline : "", f->median,
		f->row->unit);
	if (f->row->baseline)
		fprintf(out, " against %.1f %s: %.3f times", f->baseline, f->row->unit, f->ratio);
	fputs(".\n", out);
	return 0;
}

void results_print(const struct results *results, FILE *out)
{
	fprintf(out, "%-24s %-5s %10s %10s %7s   %-12s\n", "", "unit", "median", "baseline",
		"ratio", "bar");
	each(results, print_row, out);
	each(results, print_broken, out);
}

static json_t *number_or_null(bool meaning, double value)
{
	return meaning ? json_real(value) : json_null();
}

static int append_row(void *userdata, const struct figures *f)
{
	const struct row *row = f->row;
	bool compared = row->baseline, bounded = row->bar != BAR_NONE;
	json_t *object = json_pack("{s:s, s:s, s:f, s:o, s:o, s:o, s:o}", "name", f->name, "unit",
		row->unit, "median", f->median, "baseline", number_or_null(compared, f->baseline),
		"ratio", number_or_null(compared, f->ratio), "bar",
		number_or_null(bounded, f->limit), "holds",
		bounded ? json_boolean(f->holds) : json_null());
	return json_array_append_new(userdata, object) < 0 ? -ENOMEM : 0;
}

static bool is_kept(const struct results *results, const char *name)
{
	for (size_t k = 0; k < ARRAY_SIZE(rows); k++)
		if (name && names(&rows[k], name))
			return !find(results, name);
	return false;
}

/* What another run measured, which this one did not. */
static int keep_rows(const struct results *results, const char *path, json_t *array)
{
	json_auto_t *before = json_load_file(path, 0, NULL);
	for (size_t i = 0; i < json_array_size(before); i++) {
		json_t *row = json_array_get(before, i);
		const char *name = json_string_value(json_object_get(row, "name"));
		if (is_kept(results, name) && json_array_append(array, row) < 0)
			return -ENOMEM;
	}
	return 0;
}

int results_write(const struct results *results, const char *path, struct err *err)
{
	json_auto_t *array = json_array();
	if (!array || each(results, append_row, array) < 0 || keep_rows(results, path, array) < 0)
		return err_nomem(err);
	_cleanup_free_ char *text = json_dumps(array, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
	_cleanup_free_ char *lines = text ? str_printf("%s\n", text) : NULL;
	if (!lines)
		return err_nomem(err);
	return fd_write_file(path, lines, strlen(lines), 0644, err);
}
