#include "cri-server/cli/terminal.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/fd.h"

static const int deadly[] = {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM};

/* A signal's handler is given nothing: what stdin's terminal was before. */
static struct termios saved;

static void restore_and_die(int signo)
{
	tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	signal(signo, SIG_DFL);
	raise(signo);
}

/* Only those that would end the process; others are somebody's. */
static void exchange(void (*from)(int), void (*to)(int))
{
	for (size_t i = 0; i < ARRAY_SIZE(deadly); i++) {
		struct sigaction now;
		if (sigaction(deadly[i], NULL, &now) == 0 && now.sa_handler == from)
			signal(deadly[i], to);
	}
}

static void winch_set(sigset_t *ret)
{
	sigemptyset(ret);
	sigaddset(ret, SIGWINCH);
}

void terminal_block_resizes(void)
{
	sigset_t winch;
	winch_set(&winch);
	sigprocmask(SIG_BLOCK, &winch, NULL);
}

int terminal_begin(struct terminal *terminal, bool raw, struct err *err)
{
	sigset_t winch;
	winch_set(&winch);
	terminal->resized = signalfd(-1, &winch, SFD_CLOEXEC | SFD_NONBLOCK);
	if (terminal->resized < 0)
		return err_errno(err, "signalfd");
	if (!raw || tcgetattr(STDIN_FILENO, &terminal->before) < 0)
		return 0;
	saved = terminal->before;
	exchange(SIG_DFL, restore_and_die);
	struct termios now = terminal->before;
	cfmakeraw(&now);
	terminal->raw = tcsetattr(STDIN_FILENO, TCSANOW, &now) == 0;
	return 0;
}

bool terminal_was_resized(struct terminal *terminal)
{
	struct signalfd_siginfo info;
	return read(terminal->resized, &info, sizeof(info)) > 0;
}

void terminal_end(struct terminal *terminal)
{
	if (terminal->raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &terminal->before);
	exchange(restore_and_die, SIG_DFL);
	terminal->raw = false;
	terminal->resized = fd_close(terminal->resized);
}
