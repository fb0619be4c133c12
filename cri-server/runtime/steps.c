#include "cri-server/runtime/steps.h"

#include <assert.h>
#include <errno.h>

#include "common/fault.h"
#include "common/loop.h"

/* Made by the linker where there is such a section. */
extern const struct step_table *const __start_step_tables[] __attribute__((weak));
extern const struct step_table *const __stop_step_tables[] __attribute__((weak));

static void unwind(const struct step_table *table, size_t done, void *subject)
{
	while (done-- > 0) {
		const struct step *step = &table->steps[done];
		if (!step->undo)
			continue;
		fault_kill(table->method, step->name, "/undo");
		step->undo(subject);
	}
}

static int run_step(const struct step_table *table, size_t i, void *subject, struct err *err)
{
	const struct step *step = &table->steps[i];
	fault_kill(table->method, step->name, "");
	int r = step->run(subject, err);
	if (r >= 0 && fault_fails(table->method, step->name))
		r = err_set(err, -EIO, "a test wants it to fail");
	if (r < 0)
		err_wrap(err, "%s", step->name);
	return r;
}

int steps_run(const struct step_table *table, void *subject, bool (*cancelled)(void *subject),
	struct step_times *ret_times, struct err *err)
{
	assert(table->n <= STEPS_MAX);
	for (size_t i = 0; i < table->n; i++) {
		if (cancelled && cancelled(subject)) {
			unwind(table, i, subject);
			return err_set(err, -ECANCELED, "the caller went away before step %s",
				table->steps[i].name);
		}
		uint64_t begin = ev_now_ns();
		int r = run_step(table, i, subject, err);
		if (ret_times)
			ret_times->ns[i] = ev_now_ns() - begin;
		if (r < 0) {
			unwind(table, i + 1, subject);
			return r;
		}
	}
	fault_kill(table->method, "done", "");
	return 0;
}

void steps_print(FILE *out)
{
	for (const struct step_table *const *t = __start_step_tables; t != __stop_step_tables;
		t++) {
		for (size_t i = 0; i < (*t)->n; i++) {
			const struct step *step = &(*t)->steps[i];
			fprintf(out, "%s/%s\n", (*t)->method, step->name);
			if (step->undo)
				fprintf(out, "%s/%s/undo\n", (*t)->method, step->name);
		}
		fprintf(out, "%s/done\n", (*t)->method);
	}
	fault_print(out);
}
