/*
 * bulkheadd's configuration: one YAML file, every key with a default. docs/configuration.md
 * describes each key for users. A key that is not known is an error with its line: a typing mistake
 * must not become a default.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

struct config_hypervisor {
	char *libvirt_uri; /* default: the embedded driver below state_dir */
	char *accelerator; /* auto, kvm, tcg */
	char *kernel;
	char *initramfs;
	char *kernel_arguments;
	char *virtiofsd;
	char *vsock_helper;
	char *debug_console; /* NULL: none */
	unsigned boots_max;
	unsigned boot_timeout_ms;
};

struct config_network {
	char *conf_dir;
	char *bin_dirs; /* colon-separated */
	unsigned plugin_timeout_ms;
	char *redirect;  /* tcfilter, macvtap */
	bool *antispoof; /* never NULL after loading */
};

struct config_images {
	char *registries_conf; /* NULL: the system's */
	char *policy;          /* NULL: the system's */
	char *unpack_helper;
	uint64_t image_bytes_max; /* to download, and unpacked */
	uint64_t layer_bytes_max;
	uint64_t layer_files_max;
	unsigned pull_timeout_ms;
	char **pinned;
	unsigned n_pinned;
};

struct config_streaming {
	char *address;
	unsigned port; /* 0: any */
	unsigned idle_timeout_ms;
	unsigned creation_timeout_ms;
	char *tls_certificate; /* NULL: no TLS */
	char *tls_key;
};

/* What a pod of this handler gets when its own resources do not say. */
struct config_handler {
	char *name; /* "" is the default handler */
	unsigned vcpus;
	unsigned vcpus_max; /* to which a machine grows; 0: as the accelerator is */
	unsigned memory_mib;
	unsigned memory_max_mib;
	uint64_t scratch_mib; /* size of the writable disk; sparse */
};

struct config {
	char *socket;
	char *state_dir;
	char *run_dir;
	char *log_level;
	char *cgroup_driver; /* what RuntimeConfig tells the kubelet: systemd or cgroupfs */
	unsigned workers;
	struct config_hypervisor hypervisor;
	struct config_network network;
	struct config_images images;
	struct config_streaming streaming;
	struct config_handler *handlers;
	unsigned n_handlers;
};

/* A host's own. */
#define CONFIG_PATH "/etc/bulkhead/config.yaml"

/*
 * Reads path; NULL is CONFIG_PATH where it is there, else the defaults. Errors: -ENOENT; -EINVAL
 * with key and line. Free with config_free().
 */
int config_load(const char *path, struct config **ret, struct err *err);
struct config *config_free(struct config *config);

/* The handler of that name; NULL when there is none. */
const struct config_handler *config_handler(const struct config *config, const char *name);
