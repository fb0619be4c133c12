#include "agent/vm_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/spawn.h"

#define BOOT_TIMEOUT_MS 180000

bool vm_can_run(void)
{
	const char *kernel = getenv("BULKHEAD_KERNEL");
	const char *initramfs = getenv("BULKHEAD_INITRAMFS");
	return geteuid() == 0 && kernel && initramfs && access(kernel, R_OK) == 0 &&
	       access(initramfs, R_OK) == 0;
}

static int shell(const char *script, const char *dir, struct err *err)
{
	const char *argv[] = {"sh", "-ec", script, "sh", dir, NULL};
	struct spawn_result result = SPAWN_RESULT_INIT(65536);
	struct spawn_options options = {
		.argv = argv, .timeout_ms = 60000, .cancel_fd = -1, .netns_fd = -1};
	int r = spawn_check(&options, &result, err);
	spawn_result_done(&result);
	return r;
}

static const char make_disks[] =
	"cd \"$1\"; mkdir -p tree/bin tree/etc tree/tmp tree/home/app; cp \"$(command -v "
	"busybox)\" tree/bin/busybox\n"
	"for a in $(busybox --list); do [ $a = busybox ] || ln -s busybox tree/bin/$a; done\n"
	"echo 'root:x:0:0::/root:/bin/sh' >tree/etc/passwd\n"
	"echo 'app:x:1000:1000::/home/app:/bin/sh' >>tree/etc/passwd\n"
	"printf 'root:x:0:\\napp:x:1000:\\nextra:x:2000:app\\n' >tree/etc/group\n"
	"chown 1000:1000 tree/home/app; chmod 1777 tree/tmp\n"
	"mkfs.erofs layer.img tree; truncate -s 128M scratch.img; mke2fs -q -t ext4 -O "
	"quota,project -E quotatype=prjquota scratch.img\n";

static pid_t start(char *const *argv, int output)
{
	pid_t pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(output, STDOUT_FILENO);
	execvp(argv[0], argv);
	_exit(127);
}

static int start_vsock(struct vm *vm, struct err *err)
{
	char vhost[128], socket[128];
	snprintf(vhost, sizeof(vhost), "%s/vhost", vm->dir);
	snprintf(socket, sizeof(socket), "%s/vsock", vm->dir);
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(err, "pipe");
	char *argv[] = {
		vm->program, "--vhost-socket", vhost, "--listen", socket, "--cid", "42", NULL};
	vm->vsock = start(argv, fds[1]);
	fd_close(fds[1]);
	char line[16];
	ssize_t n = read(fds[0], line, sizeof(line));
	fd_close(fds[0]);
	return n > 0 ? 0 : err_set(err, -EIO, "%s does not start", vm->program);
}

static int start_qemu(struct vm *vm, struct err *err)
{
	char scratch[160], layer[160], serial[160], vhost[160], monitor[160];
	snprintf(scratch, sizeof(scratch),
		"file=%s/scratch.img,format=raw,if=none,id=d0,discard=unmap", vm->dir);
	snprintf(layer, sizeof(layer), "file=%s/layer.img,format=raw,if=none,id=d1,readonly=on",
		vm->dir);
	snprintf(serial, sizeof(serial), "file:%s/console", vm->dir);
	snprintf(vhost, sizeof(vhost), "socket,id=vs,path=%s/vhost", vm->dir);
	snprintf(monitor, sizeof(monitor), "unix:%s/monitor,server,nowait", vm->dir);
	char *argv[] = {"qemu-system-x86_64", "-machine", "q35,accel=tcg,memory-backend=mem",
		"-cpu", "max", "-smp", "1", "-m", "256", "-object",
		"memory-backend-memfd,id=mem,size=256M,share=on", "-nodefaults", "-no-user-config",
		"-display", "none", "-no-reboot", "-kernel", getenv("BULKHEAD_KERNEL"), "-initrd",
		getenv("BULKHEAD_INITRAMFS"), "-append", "console=ttyS0 panic=-1 loglevel=4",
		"-serial", serial, "-qmp", monitor, "-chardev", vhost, "-device",
		"vhost-user-vsock-pci,chardev=vs", "-device", "virtio-rng-pci", "-device",
		"virtio-scsi-pci,id=scsi", "-drive", scratch, "-device",
		"scsi-hd,drive=d0,bus=scsi.0,scsi-id=0,lun=0", "-drive", layer, "-device",
		"scsi-hd,drive=d1,bus=scsi.0,scsi-id=1,lun=0", "-netdev", "user,id=n0", "-device",
		"virtio-net-pci,netdev=n0,mac=" VM_MAC ",romfile=", NULL};
	vm->started_ms = ev_now_ms();
	vm->qemu = start(argv, STDERR_FILENO);
	return vm->qemu < 0 ? err_errno(err, "fork") : 0;
}

int vm_monitor(struct vm *vm, const char *command, struct err *err)
{
	static const char answered[] = "{\"return\"";
	char path[128], byte;
	_cleanup_close_ int fd = -EBADF;
	snprintf(path, sizeof(path), "%s/monitor", vm->dir);
	int r = fd_unix_connect(path, &fd, err);
	if (r < 0)
		return r;
	if (dprintf(fd, "{\"execute\": \"qmp_capabilities\"} {\"execute\": \"%s\"}\n", command) < 0)
		return err_errno(err, "write to QEMU's monitor");
	size_t matched = 0;
	for (int answers = 0; answers < 2;) {
		if (read(fd, &byte, 1) != 1)
			return err_errno(err, "read from QEMU's monitor");
		matched = byte == answered[matched] ? matched + 1 : byte == answered[0];
		if (answered[matched])
			continue;
		matched = 0;
		answers++;
	}
	return 0;
}

/* "CONNECT <port>\n" → "OK …\n", or the end of the connection while nobody listens. */
static int connect_once(struct vm *vm, uint32_t port, int *ret_fd, struct err *err)
{
	char path[128], line[64];
	snprintf(path, sizeof(path), "%s/vsock", vm->dir);
	_cleanup_close_ int fd = -EBADF;
	int r = fd_unix_connect(path, &fd, err);
	if (r < 0)
		return r;
	int len = snprintf(line, sizeof(line), "CONNECT %u\n", port);
	if (send(fd, line, (size_t)len, MSG_NOSIGNAL) != len)
		return err_errno(err, "send CONNECT");
	for (size_t i = 0; i < sizeof(line); i++) {
		if (read(fd, line + i, 1) != 1)
			return err_set(err, -ECONNREFUSED, "nobody listens on port %u", port);
		if (line[i] == '\n') {
			*ret_fd = TAKE_FD(fd);
			return strncmp(line, "OK ", 3) ? err_set(err, -EPROTO, "%s", line) : 0;
		}
	}
	return err_set(err, -EPROTO, "a long answer");
}

static int vm_connect_port(
	void *userdata, uint32_t port, uint64_t timeout_ms, int *ret_fd, struct err *err)
{
	struct vm *vm = userdata;
	uint64_t until = ev_now_ms() + timeout_ms;
	int r;
	while ((r = connect_once(vm, port, ret_fd, err)) < 0) {
		if (waitpid(vm->qemu, NULL, WNOHANG) != 0)
			return err_set(err, -EHOSTDOWN, "the machine has ended");
		if (ev_now_ms() > until)
			return r;
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	}
	return 0;
}

static int on_event(void *userdata, const Bulkhead__Agent__Event *event)
{
	struct vm *vm = userdata;
	pthread_mutex_lock(&vm->lock);
	struct vm_event *e = &vm->events[vm->n_events++ % VM_EVENTS_MAX];
	snprintf(e->container_id, sizeof(e->container_id), "%s", event->container_id);
	snprintf(e->process_id, sizeof(e->process_id), "%s", event->process_id);
	e->code = event->exit->code;
	e->oom_killed = event->exit->oom_killed;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static void on_lost(void *userdata, const char *reason)
{
	struct vm *vm = userdata;
	(void)reason;
	pthread_mutex_lock(&vm->lock);
	vm->lost = true;
	pthread_mutex_unlock(&vm->lock);
}

static void *loop_thread(void *userdata)
{
	ev_loop_run(userdata, NULL);
	return NULL;
}

int vm_connect(struct vm *vm, uint64_t after, struct err *err)
{
	struct agent_callbacks callbacks = {
		.on_event = on_event, .on_lost = on_lost, .userdata = vm};
	vm->agent = agent_close(vm->agent);
	return agent_open(
		vm->loop, &vm->transport, &callbacks, after, BOOT_TIMEOUT_MS, &vm->agent, err);
}

static int find_program(struct vm *vm, struct err *err)
{
	ssize_t n = readlink("/proc/self/exe", vm->program, sizeof(vm->program) - 64);
	if (n < 0)
		return err_errno(err, "readlink");
	vm->program[n] = '\0';
	char *name = strrchr(vm->program, '/');
	snprintf(name, sizeof(vm->program) - (size_t)(name - vm->program),
		"/../hypervisor/vsock/bulkhead-vsock");
	return 0;
}

int vm_start(struct vm *vm, struct err *err)
{
	*vm = (struct vm){.dir = "/tmp/agent-vm-test.XXXXXX",
		.transport = {.connect = vm_connect_port, .userdata = vm}};
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_init(&vm->lock, NULL);
	if (!mkdtemp(vm->dir))
		return err_errno(err, "mkdtemp");
	int r = find_program(vm, err);
	if (r == 0)
		r = shell(make_disks, vm->dir, err);
	if (r == 0)
		r = start_vsock(vm, err);
	if (r == 0)
		r = start_qemu(vm, err);
	if (r == 0)
		r = ev_loop_new(&vm->loop, err);
	if (r < 0)
		return r;
	pthread_create(&vm->loop_thread, NULL, loop_thread, vm->loop);
	return vm_connect(vm, 0, err);
}

static void end(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

void vm_stop(struct vm *vm, bool print_console)
{
	agent_close(vm->agent);
	if (vm->loop) {
		ev_loop_stop(vm->loop);
		pthread_join(vm->loop_thread, NULL);
		ev_loop_free(vm->loop);
	}
	end(vm->qemu);
	end(vm->vsock);
	char path[128];
	_cleanup_free_ char *text = NULL;
	snprintf(path, sizeof(path), "%s/console", vm->dir);
	if (print_console && fd_read_file(path, 1 << 20, &text, NULL, NULL) == 0)
		fprintf(stderr, "console:\n%s\n", text);
	fd_remove_tree(vm->dir, NULL);
}

static const struct vm_event *find_exit(
	struct vm *vm, const char *container_id, const char *process_id)
{
	for (size_t i = 0; i < vm->n_events && i < VM_EVENTS_MAX; i++)
		if (!strcmp(vm->events[i].container_id, container_id) &&
			!strcmp(vm->events[i].process_id, process_id))
			return &vm->events[i];
	return NULL;
}

bool vm_wait_exit(struct vm *vm, const char *container_id, const char *process_id,
	uint64_t timeout_ms, struct vm_event *ret)
{
	struct timespec deadline;
	clock_gettime(CLOCK_MONOTONIC, &deadline);
	deadline.tv_sec += (time_t)(timeout_ms / 1000);
	const struct vm_event *found;
	int r = 0;
	pthread_mutex_lock(&vm->lock);
	while (!(found = find_exit(vm, container_id, process_id)) && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&vm->changed, &vm->lock, &deadline);
	if (found)
		*ret = *found;
	pthread_mutex_unlock(&vm->lock);
	return found;
}

bool vm_wait_off(struct vm *vm, uint64_t timeout_ms)
{
	uint64_t until = ev_now_ms() + timeout_ms;
	while (waitpid(vm->qemu, NULL, WNOHANG) == 0) {
		if (ev_now_ms() > until)
			return false;
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	vm->qemu = 0;
	return true;
}
