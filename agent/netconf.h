/*
 * Applies ConfigureSandbox to a network namespace and its host name: interfaces, addresses, routes,
 * sysctls, and the files that containers get at /etc/hosts, /etc/resolv.conf and /etc/hostname.
 *
 * Runs in a job (process.h): it may block shortly. Repeating it after a failure is fine.
 */
#pragma once

#include "agent/proto/agent.pb-c.h"
#include "common/err.h"

/* The loopback and all interfaces. */
int netconf_interfaces(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err);

/*
 * Makes what `before` asked for into what `after` does. What the guest itself added stays, what it
 * took away of `after` comes back. After a failure an interface may be among `before` more than
 * once: as it was, and as it may have become in part.
 */
int netconf_update(const Bulkhead__Agent__UpdateInterfacesRequest *before,
	const Bulkhead__Agent__UpdateInterfacesRequest *after, struct err *err);

/* Sets the host name where there is one and writes hosts, resolv.conf and hostname into
 * `directory`, which becomes a file system of 1 MiB. */
int netconf_names(const Bulkhead__Agent__ConfigureSandboxRequest *request, const char *directory,
	struct err *err);

/* Writes them below /proc/sys, after those that a pod has by itself: everybody may send pings. */
int netconf_sysctls(const Bulkhead__Agent__ConfigureSandboxRequest *request, struct err *err);
