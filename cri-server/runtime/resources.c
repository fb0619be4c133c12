#include "cri-server/runtime/resources.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/fd.h"
#include "cri-server/runtime/cpu_list.h"

#define UNIFIED_MAX   64
#define HUGEPAGES_MAX 8

static int check_list(const char *text, const char *field, struct err *err)
{
	struct cpu_list list = {0};
	if (!text[0] || cpu_list_add(&list, text, err) == 0)
		return 0;
	return err_wrap(err, "%s", field);
}

int resources_check(const Runtime__V1__LinuxContainerResources *res, struct err *err)
{
	if (!res)
		return 0;
	if (res->oom_score_adj < -1000 || res->oom_score_adj > 1000)
		return err_set(err, -EINVAL, "oom_score_adj %lld is not within -1000 to 1000",
			(long long)res->oom_score_adj);
	/* As runc: the limit of memory and swap together cannot be the smaller one. */
	if (res->memory_swap_limit_in_bytes > 0 &&
		res->memory_swap_limit_in_bytes < res->memory_limit_in_bytes)
		return err_set(err, -EINVAL,
			"memory_swap_limit_in_bytes %lld is less than memory_limit_in_bytes %lld",
			(long long)res->memory_swap_limit_in_bytes,
			(long long)res->memory_limit_in_bytes);
	if (res->n_unified > UNIFIED_MAX || res->n_hugepage_limits > HUGEPAGES_MAX)
		return err_set(err, -EINVAL, "more than %d unified or %d hugepage limits",
			UNIFIED_MAX, HUGEPAGES_MAX);
	if (check_list(res->cpuset_cpus, "cpuset_cpus", err) < 0 ||
		check_list(res->cpuset_mems, "cpuset_mems", err) < 0)
		return err->code;
	for (size_t i = 0; i < res->n_unified; i++) {
		const char *key = res->unified[i]->key;
		if (!strchr(key, '.') || strchr(key, '/') || strncmp(key, "cgroup.", 7) == 0)
			return err_set(err, -EINVAL,
				"unified: '%.64s' is no file of a cgroup v2 controller", key);
	}
	return 0;
}

static int add_hugepages(Bulkhead__Agent__Resources *to,
	const Runtime__V1__LinuxContainerResources *from, struct err *err)
{
	to->hugepages = calloc(from->n_hugepage_limits + 1, sizeof(*to->hugepages));
	if (!to->hugepages)
		return err_nomem(err);
	for (size_t i = 0; i < from->n_hugepage_limits; i++) {
		Bulkhead__Agent__HugepageLimit *limit = calloc(1, sizeof(*limit));
		/* A kubelet names a limit of nothing for every size that the node has. */
		if (from->hugepage_limits[i]->limit == 0) {
			free(limit);
			continue;
		}
		if (!limit)
			return err_nomem(err);
		bulkhead__agent__hugepage_limit__init(limit);
		to->hugepages[to->n_hugepages++] = limit;
		limit->bytes = from->hugepage_limits[i]->limit;
		if (message_set_string(
			    &limit->page_size, from->hugepage_limits[i]->page_size, err) < 0)
			return err->code;
	}
	return 0;
}

static int add_unified(Bulkhead__Agent__Resources *to,
	const Runtime__V1__LinuxContainerResources *from, struct err *err)
{
	to->unified = calloc(from->n_unified + 1, sizeof(*to->unified));
	if (!to->unified)
		return err_nomem(err);
	for (size_t i = 0; i < from->n_unified; i++) {
		Bulkhead__Agent__Setting *setting = calloc(1, sizeof(*setting));
		if (!setting)
			return err_nomem(err);
		bulkhead__agent__setting__init(setting);
		to->unified[to->n_unified++] = setting;
		if (message_set_string(&setting->key, from->unified[i]->key, err) < 0 ||
			message_set_string(&setting->value, from->unified[i]->value, err) < 0)
			return err->code;
	}
	return 0;
}

int resources_for_agent(const Runtime__V1__LinuxContainerResources *from,
	Bulkhead__Agent__Resources **ret, struct err *err)
{
	*ret = NULL;
	if (!from)
		return 0;
	Bulkhead__Agent__Resources *to = calloc(1, sizeof(*to));
	if (!to)
		return err_nomem(err);
	bulkhead__agent__resources__init(to);
	to->cpu_shares = from->cpu_shares > 0 ? (uint64_t)from->cpu_shares : 0;
	to->cpu_quota_us = from->cpu_quota;
	to->cpu_period_us = from->cpu_period > 0 ? (uint64_t)from->cpu_period : 0;
	to->memory_bytes = from->memory_limit_in_bytes;
	to->swap_bytes = from->memory_swap_limit_in_bytes;
	/* Not the lists of processors and memory nodes, which are the node's: pin.c. */
	int r = add_hugepages(to, from, err);
	if (r == 0)
		r = add_unified(to, from, err);
	if (r < 0) {
		bulkhead__agent__resources__free_unpacked(to, NULL);
		return r;
	}
	*ret = to;
	return 0;
}

Runtime__V1__LinuxContainerResources *resources_merge(
	const Runtime__V1__LinuxContainerResources *base,
	const Runtime__V1__LinuxContainerResources *change)
{
	/* Borrowed parts; the copy owns its own. */
	Runtime__V1__LinuxContainerResources merged = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
	if (base)
		merged = *base;
	if (change->cpu_period)
		merged.cpu_period = change->cpu_period;
	if (change->cpu_quota)
		merged.cpu_quota = change->cpu_quota;
	if (change->cpu_shares)
		merged.cpu_shares = change->cpu_shares;
	if (change->memory_limit_in_bytes)
		merged.memory_limit_in_bytes = change->memory_limit_in_bytes;
	if (change->memory_swap_limit_in_bytes)
		merged.memory_swap_limit_in_bytes = change->memory_swap_limit_in_bytes;
	/* Where no swap was allowed none is, also for a client that speaks of memory only. */
	else if (base && change->memory_limit_in_bytes &&
		 base->memory_swap_limit_in_bytes == base->memory_limit_in_bytes)
		merged.memory_swap_limit_in_bytes = change->memory_limit_in_bytes;
	if (change->oom_score_adj)
		merged.oom_score_adj = change->oom_score_adj;
	if (change->cpuset_cpus[0])
		merged.cpuset_cpus = change->cpuset_cpus;
	if (change->cpuset_mems[0])
		merged.cpuset_mems = change->cpuset_mems;
	if (change->n_hugepage_limits) {
		merged.hugepage_limits = change->hugepage_limits;
		merged.n_hugepage_limits = change->n_hugepage_limits;
	}
	if (change->n_unified) {
		merged.unified = change->unified;
		merged.n_unified = change->n_unified;
	}
	return (Runtime__V1__LinuxContainerResources *)message_copy(&merged.base);
}
