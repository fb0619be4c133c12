/*
 * Where on the host a pod's machine runs. The processors and memory nodes that a client names
 * (cpuset_cpus, cpuset_mems) are the node's, as its kubelet gives them out; those of the guest have
 * other numbers. A machine's threads do the work of all its containers, so together they have what
 * these were given; one that was given none may run anywhere, and with it the machine.
 */
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/cpu_list.h"
#include "cri-server/runtime/internal.h"

struct pinning {
	struct cpu_list cpus, mems;
	bool all_cpus, all_mems;
	const struct container *except;
};

/* Lists were checked; one that an older build took and this one does not is none. */
static bool add_list(struct cpu_list *list, const char *text)
{
	return text[0] && cpu_list_add(list, text, NULL) == 0;
}

static void add(struct pinning *p, const Runtime__V1__LinuxContainerResources *resources)
{
	p->all_cpus |= !resources || !add_list(&p->cpus, resources->cpuset_cpus);
	p->all_mems |= !resources || !add_list(&p->mems, resources->cpuset_mems);
}

static int add_container(struct container *c, void *userdata, struct err *err)
{
	struct pinning *p = userdata;
	(void)err;
	if (c != p->except && container_may_run(c))
		add(p, container_resources(c));
	return 0;
}

static int pin(struct machine *machine, struct sandbox *sandbox, struct pinning *p, struct err *err)
{
	_cleanup_free_ char *cpus = NULL, *mems = NULL;
	int r = containers_each(sandbox, add_container, p, err);
	if (r < 0)
		return r;
	cpus = p->all_cpus ? strdup("") : cpu_list_text(&p->cpus);
	mems = p->all_mems ? strdup("") : cpu_list_text(&p->mems);
	if (!cpus || !mems)
		return err_nomem(err);
	bool pinned = cpus[0] || mems[0];
	if (!pinned && !machine->pinned)
		return 0;
	machine->pinned = true; /* where it fails too: a part may be written */
	r = hv_vm_pin(machine->vm, cpus, mems, err);
	if (r < 0)
		return err_wrap(
			err, "run the pod's machine on CPUs '%s' and memory '%s'", cpus, mems);
	machine->pinned = pinned;
	return 0;
}

int pin_for_container(struct machine *machine, struct container *with,
	const Runtime__V1__LinuxContainerResources *resources, struct err *err)
{
	struct pinning p = {.except = with};
	add(&p, resources);
	return pin(machine, with->sandbox, &p, err);
}

void pin_without(struct machine *machine, struct container *without)
{
	struct pinning p = {.except = without};
	struct err err = ERR_INIT;
	if (pin(machine, without->sandbox, &p, &err) < 0)
		log_event(without->runtime->log, LOG_LEVEL_WARNING,
			"machine keeps the processors of a container that goes", "container",
			without->id, "err", err.msg, NULL);
}
