/* Process 1, twice: of a sandbox (a fork of the session, unseen inside), and of a machine (this binary). */
#define _GNU_SOURCE
#include "isolate.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Waits for everything; the end of the program is the end of all. The kernel kills the rest of the pid
 * namespace when process 1 ends, and lets nobody see that end before they are gone. */
_Noreturn void sandbox_init(struct run *run, pid_t program) {
  int status, keep = run->status;
  if (keep > 0) close_range(0, (unsigned)keep - 1, 0);
  close_range((unsigned)keep + 1, ~0U, 0); /* above all the pipes: their end must be the program's */
  for (;;) {
    pid_t pid = waitpid(-1, &status, 0);
    if (pid < 0 && errno != EINTR) _exit(125);
    if (pid != program) continue;
    if (WIFEXITED(status)) _exit(WEXITSTATUS(status)); /* one message less: our own status says it */
    struct note note = { .kind = NOTE_EXIT, .number = status };
    getrusage(RUSAGE_CHILDREN, &note.usage);
    note_send(keep, &note, -1);
    _exit(0);
  }
}

static void reap_all(void) {
  while (waitpid(-1, NULL, WNOHANG) > 0) { }
}

/* TERM to all, two seconds, then KILL: also those that were put in from outside and are not our children. */
_Noreturn static void power_off(void) {
  kill(-1, SIGTERM);
  kill(-1, SIGCONT);
  for (int i = 0; i < 200; i++) {
    reap_all();
    if (kill(-1, 0) && errno == ESRCH) exit(0);
    nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
  }
  kill(-1, SIGKILL);
  reap_all();
  exit(0);
}

int machine_init(void) {
  sigset_t set;
  sigfillset(&set);
  sigprocmask(SIG_BLOCK, &set, NULL);
  prctl(PR_SET_NAME, "init");
  for (;;) {
    siginfo_t info;
    int number = sigwaitinfo(&set, &info);
    if (number == SIGCHLD) reap_all();
    else if (number == SIGTERM || number == SIGINT || number == SIGPWR || number == SIGRTMIN + 3 || number == SIGRTMIN + 4) power_off();
  }
}
