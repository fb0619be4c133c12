/*
 * The default profile: what Docker's and containerd's let containers do on x86-64, as names. What
 * is not here is refused with EPERM. io_uring is left out as in their later versions.
 */
#include "cri-server/seccomp/profile.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/fd.h"
#include "cri-server/seccomp/cache.h"

#define CAP_BIT(cap) (UINT64_C(1) << (cap))
#define RULES_MAX    32

/* For everybody. A blank after each name. */
static const char always[] =
	"accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir "
	"chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres "
	"clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep "
	"clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 "
	"dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 "
	"epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group "
	"faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod "
	"fchmodat fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr "
	"flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync "
	"ftruncate ftruncate64 futex futex_time64 futex_waitv futimesat getcpu getcwd "
	"getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups "
	"getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority "
	"getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list "
	"getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday "
	"getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1 "
	"inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents "
	"io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill "
	"landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 "
	"lgetxattr link linkat listen listxattr llistxattr _llseek lremovexattr lseek "
	"lsetxattr lstat lstat64 madvise membarrier memfd_create memfd_secret mincore "
	"mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect "
	"mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 "
	"mq_timedsend mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd "
	"msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect "
	"open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc "
	"pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 "
	"prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 "
	"pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink "
	"readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages "
	"removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction "
	"rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend "
	"rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity "
	"sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min "
	"sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 "
	"sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield "
	"seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile "
	"sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid "
	"setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 "
	"setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit "
	"set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32 "
	"setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 "
	"sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 "
	"statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time "
	"timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 "
	"timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 "
	"timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit "
	"umask uname unlink unlinkat utime utimensat utimensat_time64 utimes vfork "
	"vmsplice wait4 waitid waitpid write writev ";
/* With any of the capabilities. */
static const struct {
	uint64_t capabilities;
	const char *names;
} by_capability[] = {
	{CAP_BIT(CAP_SYS_ADMIN),
		"bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie "
		"mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd "
		"setdomainname sethostname setns syslog umount umount2 unshare "},
	{CAP_BIT(CAP_BPF), "bpf "},
	{CAP_BIT(CAP_PERFMON), "perf_event_open "},
	{CAP_BIT(CAP_DAC_READ_SEARCH), "open_by_handle_at "},
	{CAP_BIT(CAP_SYSLOG), "syslog "},
	{CAP_BIT(CAP_SYS_BOOT), "reboot "},
	{CAP_BIT(CAP_SYS_CHROOT), "chroot "},
	{CAP_BIT(CAP_SYS_MODULE), "delete_module finit_module init_module "},
	{CAP_BIT(CAP_SYS_NICE), "get_mempolicy mbind set_mempolicy set_mempolicy_home_node "},
	{CAP_BIT(CAP_SYS_PACCT), "acct "},
	{CAP_BIT(CAP_SYS_PTRACE), "kcmp pidfd_getfd process_madvise "},
	{CAP_BIT(CAP_SYS_RAWIO), "ioperm iopl "},
	{CAP_BIT(CAP_SYS_TIME), "clock_settime clock_settime64 settimeofday stime "},
	{CAP_BIT(CAP_SYS_TTY_CONFIG), "vhangup "},
};

/* Where an argument decides. */
static const struct {
	const char *name;
	struct scmp_arg_cmp arg;
} by_argument[] = {
	{"personality ", {0, SCMP_CMP_EQ, 0x0, 0}},
	{"personality ", {0, SCMP_CMP_EQ, 0x8, 0}},
	{"personality ", {0, SCMP_CMP_EQ, 0x20000, 0}},
	{"personality ", {0, SCMP_CMP_EQ, 0x20008, 0}},
	{"personality ", {0, SCMP_CMP_EQ, 0xffffffff, 0}},
	/* The way out of a virtual machine that is none of a container's. */
	{"socket ", {0, SCMP_CMP_NE, AF_VSOCK, 0}},
};

#define NAMESPACES                                                                                 \
	(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | \
		CLONE_NEWCGROUP)

static size_t count(const char *names)
{
	size_t n = 0;
	for (; *names; names++)
		n += *names == ' ';
	return n;
}

static int add_rule(struct profile *profile, const char *names, uint32_t action,
	const struct scmp_arg_cmp *arg, struct err *err)
{
	struct profile_rule *rule = &profile->rules[profile->n_rules++];
	rule->action = action;
	if (arg) {
		rule->args[0] = *arg;
		rule->n_args = 1;
	}
	rule->names = calloc(count(names), sizeof(char *));
	if (!rule->names)
		return err_nomem(err);
	for (; *names; names += strcspn(names, " ") + 1) {
		rule->names[rule->n_names] = strndup(names, strcspn(names, " "));
		if (!rule->names[rule->n_names++])
			return err_nomem(err);
	}
	return 0;
}

static int compose(uint64_t capabilities, struct profile *profile, struct err *err)
{
	static const struct scmp_arg_cmp no_namespace = {0, SCMP_CMP_MASKED_EQ, NAMESPACES, 0};
	profile->rules = calloc(RULES_MAX, sizeof(*profile->rules));
	if (!profile->rules)
		return err_nomem(err);
	int r = add_rule(profile, always, SCMP_ACT_ALLOW, NULL, err);
	for (size_t i = 0; i < ARRAY_SIZE(by_capability) && r == 0; i++) {
		if (capabilities & by_capability[i].capabilities)
			r = add_rule(profile, by_capability[i].names, SCMP_ACT_ALLOW, NULL, err);
	}
	for (size_t i = 0; i < ARRAY_SIZE(by_argument) && r == 0; i++)
		r = add_rule(
			profile, by_argument[i].name, SCMP_ACT_ALLOW, &by_argument[i].arg, err);
	if (r < 0 || capabilities & CAP_BIT(CAP_SYS_ADMIN))
		return r;
	r = add_rule(profile, "clone ", SCMP_ACT_ALLOW, &no_namespace, err);
	/* A filter cannot see what clone3() asks for; programs that hear this use clone(). */
	return r < 0 ? r : add_rule(profile, "clone3 ", SCMP_ACT_ERRNO(ENOSYS), NULL, err);
}

/* All that matter here. */
static uint64_t relevant(uint64_t capabilities)
{
	uint64_t all = 0;
	for (size_t i = 0; i < ARRAY_SIZE(by_capability); i++)
		all |= by_capability[i].capabilities;
	return capabilities & all;
}

int filter_default(
	struct filter_cache *cache, uint64_t capabilities, struct filter *ret, struct err *err)
{
	uint64_t key = relevant(capabilities);
	int r = filter_cache_find(cache, FILTER_DEFAULT, &key, sizeof(key), ret, err);
	if (r <= 0)
		return r;
	struct profile profile = {.default_action = SCMP_ACT_ERRNO(EPERM),
		.arches = PROFILE_X86_64 | PROFILE_X86 | PROFILE_X32};
	r = compose(key, &profile, err);
	if (r == 0)
		r = profile_compile(&profile, ret, err);
	profile_done(&profile);
	if (r < 0)
		return err_wrap(err, "the default seccomp profile");
	filter_cache_keep(cache, FILTER_DEFAULT, &key, sizeof(key), ret);
	return 0;
}
