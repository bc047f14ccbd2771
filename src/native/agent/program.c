/* A child process: how it starts, what goes in and out, how it ends. */
#define _GNU_SOURCE
#include "agent.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char default_path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
enum { OWN_VARIABLES = 6, MAX_TERMINAL = 64 << 10 };

static int status_of_child = -1; /* in a child: where trouble is told */

static void shut(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

/* ---- the request ---- */

static char **texts(struct in *in, uint32_t n, size_t extra) {
  if (n > in_left(in) / 5) { in->bad = true; return NULL; } /* each takes at least five bytes */
  char **list = calloc((size_t)n + extra + 1, sizeof *list);
  if (!list) in->bad = true;
  for (uint32_t i = 0; list && i < n; i++) list[i] = (char *)(uintptr_t)in_text(in);
  return list;
}

int request_read(struct in *in, struct request *r) {
  *r = (struct request){ 0 };
  r->limit_ms = in_u32(in);
  r->output_limit = in_u64(in);
  r->rows = in_u16(in), r->columns = in_u16(in);
  r->input = in_u8(in);
  r->user = in_text(in), r->cwd = in_text(in);
  uint32_t n = in_u32(in);
  r->argv = texts(in, n, 0);
  r->env = texts(in, in_u32(in), OWN_VARIABLES);
  if (in->bad || in_left(in) || !r->argv || !r->env || !r->argv[0]) return EBADMSG;
  for (char **v = r->env; *v; v++)
    if (!strchr(*v, '=') || **v == '=') return EBADMSG;
  return 0;
}

void request_free(struct request *r) {
  free(r->argv);
  free(r->env);
  r->argv = r->env = NULL;
}

/* ---- the child ---- */

_Noreturn void job_fail(const char *stage, int error) {
  struct trouble note = { .error = error ? error : EIO };
  snprintf(note.stage, sizeof note.stage, "%s", stage);
  if (write(status_of_child, &note, sizeof note) != (ssize_t)sizeof note) _exit(126);
  _exit(125);
}

/* Room was made for them; what the request says, wins. */
static void variable(char **env, const char *name, const char *value) {
  size_t length = strlen(name);
  char *text;
  for (; *env; env++)
    if (!strncmp(*env, name, length) && (*env)[length] == '=') return;
  if (asprintf(&text, "%s=%s", name, value) < 0) job_fail("memory", ENOMEM);
  *env = text;
}

static void become_user(const struct request *r) {
  struct account a = { .name = "root", .home = "/root", .shell = "/bin/sh" };
  if (!find_account(r->user, &a) && strcmp(r->user, "0") && strcmp(r->user, "root")) job_fail("user", ENOENT);
  gid_t groups[64];
  size_t n = find_groups(a.name, groups, 64);
  variable(r->env, "PATH", default_path + 5);
  variable(r->env, "HOME", a.home);
  variable(r->env, "USER", a.name);
  variable(r->env, "LOGNAME", a.name);
  variable(r->env, "SHELL", *a.shell ? a.shell : "/bin/sh");
  if (r->rows) variable(r->env, "TERM", "xterm-256color");
  if (geteuid()) return; /* tests without root */
  if (setgroups(n, groups) || setresgid(a.gid, a.gid, a.gid) || setresuid(a.uid, a.uid, a.uid)) job_fail("user", errno);
}

/* Nothing of the agent's goes along: not its port, not its signals, not its protection from the OOM killer. */
static void leave_agent(const int stdio[3], int status) {
  int own[3];
  sigset_t none;
  setsid();
  for (int i = 0; i < 3; i++) own[i] = fcntl(stdio[i], F_DUPFD_CLOEXEC, 16);
  status_of_child = fcntl(status, F_DUPFD_CLOEXEC, 16);
  for (int i = 0; i < 3; i++)
    if (own[i] < 0 || dup2(own[i], i) < 0) job_fail("stdio", errno);
  close_range(3, 15, 0);
  if (close_range(16, ~0U, CLOSE_RANGE_CLOEXEC)) job_fail("close_range", errno);
  write_file("/proc/self/oom_score_adj", "0");
  for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

_Noreturn static void become_program(const struct request *r) {
  if (r->rows && ioctl(0, TIOCSCTTY, 0)) job_fail("terminal", errno);
  become_user(r);
  if (chdir(r->cwd)) job_fail("cwd", errno);
  job_fail("exec", execute_along(r->argv, r->env));
}

/* ---- start ---- */

static void program_init(struct program *p) {
  *p = (struct program){ .status = -1, .in = -1, .out = { -1, -1 }, .began = now_ms(), .starting = true, .ooms = oom_kills() };
}

/* Both ends close when a program is executed; which one the agent keeps does not block it. */
static int make_pipe(int *ours, int *theirs, bool writes) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) return -1;
  *ours = ends[writes ? 1 : 0], *theirs = ends[writes ? 0 : 1];
  return set_nonblocking(*ours);
}

static int make_terminal(struct program *p, const struct request *r, int theirs[3]) {
  struct winsize size = { .ws_row = r->rows, .ws_col = r->columns };
  int master, slave;
  if (openpty(&master, &slave, NULL, NULL, &size)) return -1;
  p->in = master, theirs[0] = slave, p->tty = true;
  fcntl(master, F_SETFD, FD_CLOEXEC), fcntl(slave, F_SETFD, FD_CLOEXEC);
  p->out[0] = fcntl(master, F_DUPFD_CLOEXEC, 3);
  theirs[1] = fcntl(slave, F_DUPFD_CLOEXEC, 3), theirs[2] = fcntl(slave, F_DUPFD_CLOEXEC, 3);
  return p->out[0] < 0 || theirs[1] < 0 || theirs[2] < 0 ? -1 : set_nonblocking(master);
}

static int make_pipes(struct program *p, const struct request *r, bool merged, int theirs[3]) {
  if (r->input ? make_pipe(&p->in, &theirs[0], true) : (theirs[0] = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0) return -1;
  if (make_pipe(&p->out[0], &theirs[1], false)) return -1;
  if (!merged) return make_pipe(&p->out[1], &theirs[2], false);
  theirs[2] = fcntl(theirs[1], F_DUPFD_CLOEXEC, 3);
  return theirs[2] < 0 ? -1 : 0;
}

/* Forks; `r` or `work` is what the child does. Gives 0 or an errno. */
static int begin(struct program *p, const struct request *r, bool merged, int (*work)(struct in *), struct in *in) {
  int theirs[3] = { -1, -1, -1 }, status = -1, error = 0;
  bool ready;
  if (r) ready = !(r->rows ? make_terminal(p, r, theirs) : make_pipes(p, r, merged, theirs));
  else {
    ready = true;
    for (int i = 0; i < 3; i++) ready &= (theirs[i] = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0;
  }
  if (!ready || make_pipe(&p->status, &status, false) || (p->pid = fork()) < 0) {
    error = errno;
    p->pid = 0;
  } else if (p->pid == 0) {
    leave_agent(theirs, status);
    if (r) become_program(r);
    _exit(work(in));
  }
  for (int i = 0; i < 3; i++) shut(&theirs[i]);
  shut(&status);
  if (error) program_close(p);
  return error;
}

int program_start(struct program *p, const struct request *r, bool merged) {
  program_init(p);
  p->limit_ms = r->limit_ms;
  p->output_limit = r->output_limit;
  return begin(p, r, merged, NULL, NULL);
}

int program_job(struct program *p, int (*work)(struct in *), struct in *in, double limit_ms) {
  program_init(p);
  p->limit_ms = limit_ms;
  return begin(p, NULL, false, work, in);
}

bool program_news(struct program *p) {
  struct trouble note;
  if (!p->starting || p->status < 0) return false;
  ssize_t n = read(p->status, &note, sizeof note);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n == (ssize_t)sizeof note) {
    note.stage[sizeof note.stage - 1] = 0;
    p->trouble = note;
  }
  shut(&p->status);
  p->starting = false;
  return true;
}

/* ---- input and output ---- */

void program_give(struct program *p) {
  while (p->in >= 0 && buf_size(&p->input)) {
    ssize_t n = write(p->in, buf_data(&p->input), buf_size(&p->input));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) { shut(&p->in); break; } /* it does not read any more */
    buf_take(&p->input, (size_t)n);
  }
  if (p->in < 0) buf_take(&p->input, buf_size(&p->input));
  else if (p->input_ended && !p->tty) shut(&p->in);
}

ssize_t program_take(struct program *p, int which, void *data, size_t room) {
  int *fd = &p->out[which];
  if (p->ended && room > (size_t)p->left[which]) room = (size_t)p->left[which];
  ssize_t n = room ? read(*fd, data, room) : 0;
  if (n < 0 && errno == EINTR) return 0;
  if (n < 0 && errno == EAGAIN && !p->ended) return 0;
  if (n <= 0) { shut(fd); return 0; } /* EIO: the last one closed the terminal */
  if (p->ended && (p->left[which] -= n) <= 0) shut(fd);
  if (p->output_limit && p->output + (uint64_t)n > p->output_limit) {
    program_kill(p, R_OUTPUT);
    n = p->output < p->output_limit ? (ssize_t)(p->output_limit - p->output) : 0;
    shut(&p->out[0]), shut(&p->out[1]);
  }
  p->output += (uint64_t)n;
  return n;
}

void program_resize(struct program *p, uint16_t rows, uint16_t columns) {
  struct winsize size = { .ws_row = rows, .ws_col = columns };
  if (p->tty && p->in >= 0 && rows && columns) ioctl(p->in, TIOCSWINSZ, &size);
}

/* ---- the end ---- */

/* Field 6 of stat is the session: what has left its process group, but not that, is found by it. proc_pid_stat(5) */
static pid_t session_of(const char *pid) {
  char path[64], text[1024], state;
  int parent, group, session;
  snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
  if (read_file(path, text, sizeof text) < 0) return 0;
  char *at = strrchr(text, ')');
  return at && sscanf(at + 1, " %c %d %d %d", &state, &parent, &group, &session) == 4 ? session : 0;
}

static void kill_session(pid_t leader) {
  struct dirent *entry;
  kill(-leader, SIGKILL);
  DIR *all = opendir("/proc");
  while (all && (entry = readdir(all)))
    if (*entry->d_name >= '1' && *entry->d_name <= '9' && session_of(entry->d_name) == leader)
      kill((pid_t)atoi(entry->d_name), SIGKILL);
  if (all) closedir(all);
}

void program_kill(struct program *p, enum reason reason) {
  if (!p->pid || p->ended) return;
  if (!p->killed) p->reason = reason;
  p->killed = true;
  kill_session(p->pid);
  kill(p->pid, SIGKILL); /* before it had a session of its own */
}

bool program_reap(struct program *p) {
  siginfo_t info = { 0 };
  if (!p->pid || p->ended || waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid != p->pid) return false;
  program_news(p);
  /* Once more, for who was just being forked; and before it is waited for, while nobody else can have its number. */
  if (p->killed) kill_session(p->pid);
  if (waitpid(p->pid, &p->exit_status, 0) != p->pid) p->exit_status = SIGKILL;
  p->ended = true;
  p->wall_ms = now_ms() - p->began;
  if (!p->killed && WIFSIGNALED(p->exit_status) && WTERMSIG(p->exit_status) == SIGKILL && oom_kills() > p->ooms)
    p->reason = R_MEMORY, p->killed = true;
  for (int i = 0; i < 2; i++) {
    int here = 0;
    if (p->out[i] >= 0 && ioctl(p->out[i], FIONREAD, &here)) here = 0;
    p->left[i] = p->tty ? MAX_TERMINAL : here; /* a terminal does not know what is still on its way to it */
    if (p->left[i] <= 0) shut(&p->out[i]);
  }
  if (!p->tty) shut(&p->in);
  buf_take(&p->input, buf_size(&p->input));
  return true;
}

bool program_done(const struct program *p) { return p->ended && p->out[0] < 0 && p->out[1] < 0; }

bool program_late(struct program *p, double now, double *next) {
  if (!p->pid || p->ended || p->limit_ms <= 0) return false;
  double left = p->began + p->limit_ms - now;
  if (left <= 0 && !p->killed) return program_kill(p, R_WALL), true;
  if (left > 0 && left < *next) *next = left;
  return false;
}

void program_close(struct program *p) {
  shut(&p->status), shut(&p->in), shut(&p->out[0]), shut(&p->out[1]);
  buf_free(&p->input);
  p->pid = 0;
}

size_t ended_frame(const struct program *p, unsigned char *to) {
  bool by_signal = WIFSIGNALED(p->exit_status);
  put32(to, p->killed ? 2 : by_signal ? 1 : 0);
  put32(to + 4, (uint32_t)p->reason);
  put32(to + 8, (uint32_t)(by_signal ? WTERMSIG(p->exit_status) : WEXITSTATUS(p->exit_status)));
  put32(to + 12, (uint32_t)(p->wall_ms * 1000 > 4e9 ? 4e9 : p->wall_ms * 1000)); /* microseconds */
  put64(to + 16, p->output);
  return ENDED_BYTES;
}
