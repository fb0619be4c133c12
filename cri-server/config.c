/*
 * The file is read by libcyaml against the schema below. Optional keys that are absent are NULL or
 * 0 after loading; fill_defaults() then gives each its default, so that the rest of the program
 * never asks.
 */
#include "cri-server/config.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/fd.h"

#define CONFIG_BYTES_MAX (1u << 20)
/* ext4 with 4 KiB blocks and without 64-bit block numbers holds no more. */
#define SCRATCH_MIB_MAX (16u << 20)
#define MEMORY_MIB_MAX  (4u << 20)

#define STRING(key, type, member)                                                                  \
	CYAML_FIELD_STRING_PTR(                                                                    \
		key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, type, member, 0, CYAML_UNLIMITED)
#define NUMBER(key, type, member) CYAML_FIELD_UINT(key, CYAML_FLAG_OPTIONAL, type, member)
#define BOOLEAN(key, type, member)                                                                 \
	CYAML_FIELD_BOOL_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, type, member)

static const cyaml_schema_field_t hypervisor_fields[] = {
	STRING("libvirt_uri", struct config_hypervisor, libvirt_uri),
	STRING("accelerator", struct config_hypervisor, accelerator),
	STRING("kernel", struct config_hypervisor, kernel),
	STRING("initramfs", struct config_hypervisor, initramfs),
	STRING("kernel_arguments", struct config_hypervisor, kernel_arguments),
	STRING("virtiofsd", struct config_hypervisor, virtiofsd),
	STRING("vsock_helper", struct config_hypervisor, vsock_helper),
	STRING("debug_console", struct config_hypervisor, debug_console),
	NUMBER("boots_max", struct config_hypervisor, boots_max),
	NUMBER("boot_timeout_ms", struct config_hypervisor, boot_timeout_ms),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t network_fields[] = {
	STRING("conf_dir", struct config_network, conf_dir),
	STRING("bin_dirs", struct config_network, bin_dirs),
	NUMBER("plugin_timeout_ms", struct config_network, plugin_timeout_ms),
	STRING("redirect", struct config_network, redirect),
	BOOLEAN("antispoof", struct config_network, antispoof),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t text_schema = {
	CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 1, CYAML_UNLIMITED),
};

static const cyaml_schema_field_t images_fields[] = {
	STRING("registries_conf", struct config_images, registries_conf),
	STRING("policy", struct config_images, policy),
	STRING("unpack_helper", struct config_images, unpack_helper),
	NUMBER("image_bytes_max", struct config_images, image_bytes_max),
	NUMBER("layer_bytes_max", struct config_images, layer_bytes_max),
	NUMBER("layer_files_max", struct config_images, layer_files_max),
	NUMBER("pull_timeout_ms", struct config_images, pull_timeout_ms),
	{
		.key = "pinned",
		.value = {CYAML_VALUE_SEQUENCE(
			CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, char *, &text_schema, 0, 1000)},
		.data_offset = offsetof(struct config_images, pinned),
		.count_offset = offsetof(struct config_images, n_pinned),
		.count_size = sizeof(((struct config_images *)0)->n_pinned),
	},
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t streaming_fields[] = {
	STRING("address", struct config_streaming, address),
	NUMBER("port", struct config_streaming, port),
	NUMBER("idle_timeout_ms", struct config_streaming, idle_timeout_ms),
	NUMBER("creation_timeout_ms", struct config_streaming, creation_timeout_ms),
	STRING("tls_certificate", struct config_streaming, tls_certificate),
	STRING("tls_key", struct config_streaming, tls_key),
	CYAML_FIELD_END,
};

static const cyaml_schema_field_t handler_fields[] = {
	CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct config_handler, name, 0, 63),
	NUMBER("vcpus", struct config_handler, vcpus),
	NUMBER("memory_mib", struct config_handler, memory_mib),
	NUMBER("vcpus_max", struct config_handler, vcpus_max),
	NUMBER("memory_max_mib", struct config_handler, memory_max_mib),
	NUMBER("scratch_mib", struct config_handler, scratch_mib),
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t handler_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_handler, handler_fields),
};

static const cyaml_schema_field_t config_fields[] = {
	STRING("socket", struct config, socket),
	STRING("state_dir", struct config, state_dir),
	STRING("run_dir", struct config, run_dir),
	STRING("log_level", struct config, log_level),
	STRING("cgroup_driver", struct config, cgroup_driver),
	NUMBER("workers", struct config, workers),
	CYAML_FIELD_MAPPING(
		"hypervisor", CYAML_FLAG_OPTIONAL, struct config, hypervisor, hypervisor_fields),
	CYAML_FIELD_MAPPING("network", CYAML_FLAG_OPTIONAL, struct config, network, network_fields),
	CYAML_FIELD_MAPPING("images", CYAML_FLAG_OPTIONAL, struct config, images, images_fields),
	CYAML_FIELD_MAPPING(
		"streaming", CYAML_FLAG_OPTIONAL, struct config, streaming, streaming_fields),
	{
		.key = "runtime_handlers",
		.value = {CYAML_VALUE_SEQUENCE(CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
			struct config_handler, &handler_schema, 0, 64)},
		.data_offset = offsetof(struct config, handlers),
		.count_offset = offsetof(struct config, n_handlers),
		.count_size = sizeof(((struct config *)0)->n_handlers),
	},
	CYAML_FIELD_END,
};

static const cyaml_schema_value_t config_schema = {
	CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct config, config_fields),
};

/* libcyaml tells what was wrong, and where, through its log: one line per level of nesting. */
static void __attribute__((format(printf, 3, 0)))
collect(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
	struct err *err = ctx;
	char line[256];
	if (level < CYAML_LOG_ERROR)
		return;
	vsnprintf(line, sizeof(line), fmt, args);
	line[strcspn(line, "\n")] = '\0';
	const char *text = strncmp(line, "Load: ", 6) == 0 ? line + 6 : line;
	text += strspn(text, " ");
	if (strcmp(text, "Backtrace:") == 0)
		return;
	size_t used = strlen(err->msg);
	snprintf(err->msg + used, sizeof(err->msg) - used, "%s%s", used ? ", " : "", text);
}

static cyaml_config_t cyaml_settings(struct err *err)
{
	return (cyaml_config_t){
		.log_fn = collect,
		.log_ctx = err,
		.log_level = CYAML_LOG_ERROR,
		.mem_fn = cyaml_mem,
		.flags = CYAML_CFG_DEFAULT,
	};
}

static bool default_string(char **field, const char *value)
{
	if (!*field)
		*field = strdup(value);
	return *field;
}

static bool default_boolean(bool **field, bool value)
{
	if (!*field && (*field = malloc(sizeof(**field))))
		**field = value;
	return *field;
}

static void default_number(unsigned *field, unsigned value)
{
	if (!*field)
		*field = value;
}

/*
 * Each boot is busy with one CPU most of its time, and waits for others (plugins, disks) for a part
 * of it.
 */
static unsigned boots_at_once(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	return cpus > 2 ? 2 * (unsigned)cpus : 4;
}

static int fill_hypervisor(struct config *c, struct err *err)
{
	struct config_hypervisor *hv = &c->hypervisor;
	if (!hv->libvirt_uri)
		hv->libvirt_uri = str_printf("qemu:///embed?root=%s/libvirt", c->state_dir);
	bool ok = hv->libvirt_uri && default_string(&hv->accelerator, "auto") &&
		  default_string(&hv->kernel, "/usr/lib/bulkhead/vmlinux") &&
		  default_string(&hv->initramfs, "/usr/lib/bulkhead/initramfs.cpio") &&
		  default_string(&hv->kernel_arguments, "") &&
		  default_string(&hv->virtiofsd, "/usr/lib/qemu/virtiofsd") &&
		  default_string(&hv->vsock_helper, "/usr/lib/bulkhead/bulkhead-vsock");
	if (!ok)
		return err_nomem(err);
	default_number(&hv->boots_max, boots_at_once());
	default_number(&hv->boot_timeout_ms, 60000);
	return 0;
}

/* What the host has, but no more than what a pod that never grows hardly pays for: QEMU takes 100
 * KiB for each GiB that may come. */
static void fill_growth(struct config_handler *h)
{
	long pages = sysconf(_SC_PHYS_PAGES);
	uint64_t mib = ((uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE)) >> 20;

	default_number(&h->memory_max_mib, mib > 16384 ? 16384 : (unsigned)mib);
	if (h->vcpus_max && h->vcpus_max < h->vcpus)
		h->vcpus_max = h->vcpus;
	if (h->memory_max_mib < h->memory_mib)
		h->memory_max_mib = h->memory_mib;
}

static int fill_handlers(struct config *c, struct err *err)
{
	if (!c->n_handlers) {
		c->handlers = calloc(1, sizeof(*c->handlers));
		if (!c->handlers)
			return err_nomem(err);
		c->n_handlers = 1;
		if (!default_string(&c->handlers[0].name, ""))
			return err_nomem(err);
	}
	for (unsigned i = 0; i < c->n_handlers; i++) {
		struct config_handler *h = &c->handlers[i];
		for (unsigned j = 0; j < i; j++)
			if (strcmp(h->name, c->handlers[j].name) == 0)
				return err_set(err, -EINVAL,
					"runtime_handlers: name '%s' stands twice", h->name);
		default_number(&h->vcpus, 1);
		default_number(&h->memory_mib, 512);
		fill_growth(h);
		if (!h->scratch_mib)
			h->scratch_mib = 10240;
	}
	return 0;
}

static int fill_defaults(struct config *c, struct err *err)
{
	bool ok = default_string(&c->state_dir, "/var/lib/bulkhead") &&
		  default_string(&c->run_dir, "/run/bulkhead") &&
		  default_string(&c->log_level, "info") &&
		  default_string(&c->cgroup_driver, "cgroupfs") &&
		  default_string(&c->images.unpack_helper, "/usr/lib/bulkhead/bulkhead-unpack") &&
		  default_string(&c->streaming.address, "127.0.0.1") &&
		  default_string(&c->network.conf_dir, "/etc/cni/net.d") &&
		  default_string(&c->network.bin_dirs, "/opt/cni/bin:/usr/lib/cni") &&
		  default_string(&c->network.redirect, "tcfilter") &&
		  default_boolean(&c->network.antispoof, true);
	if (ok && !c->socket)
		c->socket = str_printf("%s/bulkhead.sock", c->run_dir);
	if (!ok || !c->socket)
		return err_nomem(err);
	default_number(&c->workers, 512);
	default_number(&c->network.plugin_timeout_ms, 60000);
	default_number(&c->images.pull_timeout_ms, 300000);
	if (!c->images.image_bytes_max)
		c->images.image_bytes_max = UINT64_C(32) << 30;
	default_number(&c->streaming.idle_timeout_ms, 14400000);
	default_number(&c->streaming.creation_timeout_ms, 30000);
	if (!c->images.layer_bytes_max)
		c->images.layer_bytes_max = UINT64_C(16) << 30;
	if (!c->images.layer_files_max)
		c->images.layer_files_max = 2000000;
	int r = fill_hypervisor(c, err);
	return r < 0 ? r : fill_handlers(c, err);
}

static int check_handler(const struct config_handler *h, struct err *err)
{
	if (h->memory_mib < 64 || h->memory_max_mib > MEMORY_MIB_MAX || h->vcpus > 64 ||
		h->vcpus_max > 64)
		return err_set(err, -EINVAL,
			"runtime_handlers: '%s': memory_mib and memory_max_mib must be within 64 "
			"to %u, vcpus and vcpus_max 64 or less",
			h->name, MEMORY_MIB_MAX);
	if (h->scratch_mib < 16 || h->scratch_mib > SCRATCH_MIB_MAX)
		return err_set(err, -EINVAL,
			"runtime_handlers: '%s': scratch_mib must be within 16 to %u", h->name,
			SCRATCH_MIB_MAX);
	return 0;
}

static int check_choice(
	const char *key, const char *value, const char *const choices[], struct err *err)
{
	char text[64] = "";
	for (size_t i = 0; choices[i]; i++) {
		if (strcmp(value, choices[i]) == 0)
			return 0;
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s",
			i == 0           ? ""
			: choices[i + 1] ? ", "
					 : " or ",
			choices[i]);
	}
	return err_set(err, -EINVAL, "%s is '%s'; it can be %s", key, value, text);
}

static int check_choices(const struct config *c, struct err *err)
{
	static const char *const accelerators[] = {"auto", "kvm", "tcg", NULL};
	static const char *const drivers[] = {"systemd", "cgroupfs", NULL};
	static const char *const redirects[] = {"tcfilter", "macvtap", NULL};
	int r = check_choice(
		"hypervisor.accelerator", c->hypervisor.accelerator, accelerators, err);
	if (r == 0)
		r = check_choice("cgroup_driver", c->cgroup_driver, drivers, err);
	return r < 0 ? r : check_choice("network.redirect", c->network.redirect, redirects, err);
}

static int check(const struct config *c, struct err *err)
{
	int r = check_choices(c, err);
	if (r < 0)
		return r;
	if (c->hypervisor.debug_console && c->hypervisor.debug_console[0] != '/')
		return err_set(err, -EINVAL,
			"hypervisor.debug_console is '%s', not an absolute path",
			c->hypervisor.debug_console);
	if (c->streaming.port > UINT16_MAX)
		return err_set(err, -EINVAL, "streaming.port is %u; the highest port is 65535",
			c->streaming.port);
	if (!c->streaming.tls_certificate != !c->streaming.tls_key)
		return err_set(err, -EINVAL,
			"streaming.tls_certificate and streaming.tls_key go together");
	if (c->workers > 1024)
		return err_set(err, -EINVAL, "workers is %u; the most is 1024", c->workers);
	for (unsigned i = 0; r == 0 && i < c->n_handlers; i++)
		r = check_handler(&c->handlers[i], err);
	return r;
}

int config_load(const char *path, struct config **ret, struct err *err)
{
	struct config *c = NULL;
	int r;

	if (!path && access(CONFIG_PATH, F_OK) == 0)
		path = CONFIG_PATH;
	if (path) {
		_cleanup_free_ char *text = NULL;
		size_t len;
		r = fd_read_file(path, CONFIG_BYTES_MAX, &text, &len, err);
		if (r < 0)
			return err_wrap(err, "configuration");
		struct err detail = ERR_INIT;
		const cyaml_config_t settings = cyaml_settings(&detail);
		cyaml_err_t ce = cyaml_load_data((const uint8_t *)text, len, &settings,
			&config_schema, (cyaml_data_t **)&c, NULL);
		if (ce != CYAML_OK)
			return err_set(err, -EINVAL, "configuration %s: %s: %s", path,
				cyaml_strerror(ce), detail.msg);
	}
	if (!c) /* no file, or an empty one */
		c = calloc(1, sizeof(*c));
	if (!c)
		return err_nomem(err);
	r = fill_defaults(c, err);
	if (r == 0)
		r = check(c, err);
	if (r < 0) {
		config_free(c);
		return err_wrap(err, "configuration %s", path ? path : "(defaults)");
	}
	*ret = c;
	return 0;
}

struct config *config_free(struct config *c)
{
	struct err ignored = ERR_INIT;
	const cyaml_config_t settings = cyaml_settings(&ignored);
	if (c)
		cyaml_free(&settings, &config_schema, c, 0);
	return NULL;
}

const struct config_handler *config_handler(const struct config *c, const char *name)
{
	for (unsigned i = 0; i < c->n_handlers; i++)
		if (strcmp(c->handlers[i].name, name) == 0)
			return &c->handlers[i];
	return NULL;
}
