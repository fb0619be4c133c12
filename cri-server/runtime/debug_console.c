#include "cri-server/runtime/debug_console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/proto/ports.h"
#include "common/fd.h"
#include "cri-server/config.h"
#include "cri-server/debug_console.h"
#include "cri-server/runtime/internal.h"
#include "cri-server/runtime/mirror.h"

#define CALL_MS 10000
/* What one message to the agent may well hold. */
#define PROGRAM_BYTES_MAX MIRROR_BYTES_MAX
/* The volume; those of the pod are called otherwise. */
#define VOLUME     "console"
#define SHELL      "sh"
#define WRITE_MS   60000
#define VOLUME_MIB 8

int debug_console_find(
	struct runtime *rt, const char *container_id, struct sandbox **ret, struct err *err)
{
	const size_t len = strlen(DEBUG_CONSOLE_PREFIX);
	if (strncmp(container_id, DEBUG_CONSOLE_PREFIX, len) != 0)
		return 0;
	if (!rt->config->hypervisor.debug_console)
		return err_set(err, -EBADFD,
			"the configuration permits no debug console: hypervisor.debug_console "
			"is not set");
	struct sandbox *sandbox = sandbox_find(rt, container_id + len, err);
	if (!sandbox)
		return err->code;
	if (sandbox_check_runs(sandbox, err) < 0) {
		sandbox_unref(sandbox);
		return err->code;
	}
	*ret = sandbox;
	return 1;
}

static int make_volume(struct machine *machine, struct err *err)
{
	Bulkhead__Agent__MakeVolumeRequest request = BULKHEAD__AGENT__MAKE_VOLUME_REQUEST__INIT;
	request.name = (char *)VOLUME;
	request.size_bytes = VOLUME_MIB << 20;
	request.mode = 0700;
	return agent_call(machine->agent, "MakeVolume", &request.base, CALL_MS, NULL, err);
}

/* The program under its own name, as it may look at that, and as a shell. */
static int write_program(
	struct machine *machine, const char *path, char *data, size_t len, struct err *err)
{
	const char *slash = strrchr(path, '/');
	char *name = (char *)(slash ? slash + 1 : path);
	Bulkhead__Agent__VolumeEntry program = BULKHEAD__AGENT__VOLUME_ENTRY__INIT;
	program.path = name;
	program.mode = S_IFREG | 0755;
	program.data = (ProtobufCBinaryData){len, (uint8_t *)data};
	Bulkhead__Agent__VolumeEntry link = BULKHEAD__AGENT__VOLUME_ENTRY__INIT;
	link.path = (char *)SHELL;
	link.mode = S_IFLNK | 0777;
	link.target = name;
	Bulkhead__Agent__VolumeEntry *entries[] = {&program, &link};
	Bulkhead__Agent__WriteVolumeRequest request = BULKHEAD__AGENT__WRITE_VOLUME_REQUEST__INIT;
	request.name = (char *)VOLUME;
	request.entries = entries;
	request.n_entries = strcmp(name, SHELL) == 0 ? 1 : 2;
	return agent_call(machine->agent, "WriteVolume", &request.base, WRITE_MS, NULL, err);
}

int debug_console_prepare(struct machine *machine, struct err *err)
{
	const char *path = machine->runtime->config->hypervisor.debug_console;
	_cleanup_free_ char *data = NULL;
	size_t len = 0;
	int r = fd_read_file(path, PROGRAM_BYTES_MAX, &data, &len, err);
	if (r == 0) {
		/* Two at once would write the same file. */
		pthread_mutex_lock(&machine->debug_console);
		r = make_volume(machine, err);
		if (r == 0)
			r = write_program(machine, path, data, len, err);
		pthread_mutex_unlock(&machine->debug_console);
	}
	return r < 0 ? err_wrap(err, "hypervisor.debug_console: %s", path) : 0;
}

int debug_console_process(ProtobufCBinaryData *ret, struct err *err)
{
	char *env[] = {(char *)"PATH=" AGENT_VOLUMES "/" VOLUME, (char *)"HOME=/"};
	Bulkhead__Agent__Process process = BULKHEAD__AGENT__PROCESS__INIT;
	process.env = env;
	process.n_env = ARRAY_SIZE(env);
	size_t len = bulkhead__agent__process__get_packed_size(&process);
	uint8_t *data = malloc(len);
	if (!data)
		return err_nomem(err);
	bulkhead__agent__process__pack(&process, data);
	*ret = (ProtobufCBinaryData){len, data};
	return 0;
}
