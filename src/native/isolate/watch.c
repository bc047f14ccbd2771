/* The poll loop of a run: its output, its input, its limits, and everyone who looks on. */
#define _GNU_SOURCE
#include "isolate.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void shut(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static int send_signal(struct run *run, int number) { return (int)syscall(SYS_pidfd_send_signal, run->pidfd, number, NULL, 0); }

/* Ends the tree. With a pid namespace of its own, the death of process 1 takes everything along; a joined
 * program takes its process group. */
void run_kill(struct run *run, const char *reason) {
  if (!run->killed) run->reason = reason;
  run->killed = true;
  if (run->target >= 0) kill(-run->pid, SIGKILL);
  send_signal(run, SIGKILL);
}

/* A kept run waits for nobody: whoever reads too slowly is told from which byte on the output goes on, and
 * finds what lies between in the record. False: not this piece. */
static bool keeps_up(struct run *run, struct peer *p, char kind, size_t n) {
  struct json j;
  size_t queued = buf_size(&p->out);
  bool output = kind != 'J';
  if (!run->keep.on) return true;
  if (output && queued + n > (p->behind ? MAX_BACKLOG / 2 : MAX_BACKLOG)) return p->behind = true, false;
  if (!p->behind) return true;
  p->behind = false;
  json_open(&j, "gap");
  json_number(&j, "offset", (double)keep_offset(run) - (output ? (double)n : 0));
  json_close(&j);
  peer_send(p, 'J', j.text, j.n);
  return true;
}

void run_broadcast(struct run *run, char kind, const void *data, size_t n) {
  for (int i = 0; i < run->npeers; i++)
    if (keeps_up(run, run->peers[i], kind, n)) peer_send(run->peers[i], kind, data, n);
}

/* ---- limits ---- */

static double read_counter(const struct counter *c) {
  char text[4096];
  if (read_file(c->path, text, sizeof text) < 0) return -1;
  char *at = text;
  size_t length = strlen(c->key);
  while (length && at && (strncmp(at, c->key, length) || at[length] != ' ')) {
    at = strchr(at, '\n');
    if (at) at++;
  }
  return at ? strtod(at + (length ? length + 1 : 0), NULL) * c->scale : -1;
}

static void read_counters(struct run *run, bool first) {
  for (int i = 0; i < run->ncounters; i++) {
    double value = read_counter(&run->counter[i]);
    if (first) run->counter[i].first = value;
    run->counter[i].last = value;
  }
}

static double cpu_used_ms(struct run *run) {
  for (int i = 0; i < run->ncounters; i++)
    if (!strcmp(run->counter[i].name, "cpu") && run->counter[i].first >= 0) {
      double now = read_counter(&run->counter[i]);
      return now < 0 ? -1 : (now - run->counter[i].first) / 1e6;
    }
  return -1;
}

/* Kills what is over a limit; gives the milliseconds until the next look (-1: none needed). */
static int check_limits(struct run *run) {
  static long processors;
  double now = now_ms(), next = -1;
  if (run->killed) return -1;
  if (run->wall_ms > 0) {
    double left = run->began + run->wall_ms - now;
    if (left <= 0) return run_kill(run, "wall"), -1;
    next = left + 1;
  }
  if (run->cpu_ms > 0) {
    double used = cpu_used_ms(run);
    if (used > run->cpu_ms) return run_kill(run, "cpu"), -1;
    if (used >= 0) {
      /* It cannot be used up sooner than by all processors at once. */
      if (!processors) processors = sysconf(_SC_NPROCESSORS_ONLN);
      double soonest = (run->cpu_ms - used) / (double)(processors > 0 ? processors : 1);
      if (soonest < 5) soonest = 5;
      if (next < 0 || soonest < next) next = soonest;
    }
  }
  return next < 0 ? -1 : next > 3600e3 ? 3600000 : (int)next;
}

/* ---- output and input ---- */

/* Reads one piece; false when there is nothing (more) to read now. */
static bool take_output(struct run *run, int number) {
  static char data[CHUNK];
  int *fd = &run->stdio[number].ours;
  ssize_t n = read(*fd, data, sizeof data);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n <= 0) return shut(fd), false; /* EIO: the last one closed the terminal */
  double keep = (double)n;
  if (run->output_bytes > 0 && run->out + keep > run->output_bytes) keep = run->output_bytes - run->out;
  run->out += (double)n;
  if (keep > 0) {
    if (run->keep.record && number < 3) keep_output(run, data, (size_t)keep);
    run_broadcast(run, (char)('0' + number), data, (size_t)keep);
  }
  if (run->output_bytes > 0 && run->out > run->output_bytes) run_kill(run, "output");
  return true;
}

static void give_input(struct run *run) {
  int *fd = &run->stdio[0].ours;
  while (*fd >= 0 && buf_size(&run->input)) {
    ssize_t n = write(*fd, buf_data(&run->input), buf_size(&run->input));
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) return buf_take(&run->input, buf_size(&run->input)), run->tty ? (void)0 : shut(fd);
    buf_take(&run->input, (size_t)n);
  }
  if (*fd < 0) buf_take(&run->input, buf_size(&run->input));
  else if (run->input_ended && !run->tty) shut(fd);
}

static void resize(struct run *run, const char *text) {
  struct winsize size = { 0 };
  unsigned rows, columns;
  if (!run->tty || run->stdio[0].ours < 0 || sscanf(text, "%u %u", &rows, &columns) != 2 || rows > 10000 || columns > 10000) return;
  size.ws_row = (unsigned short)rows, size.ws_col = (unsigned short)columns;
  ioctl(run->stdio[0].ours, TIOCSWINSZ, &size);
}

static void command(struct run *run, char kind, const char *payload, uint32_t length) {
  char text[64];
  snprintf(text, sizeof text, "%.*s", (int)(length < 63 ? length : 63), payload);
  if (kind == 'i' && !run->input_ended) buf_add(&run->input, payload, length);
  else if (kind == 'e') run->input_ended = true;
  else if (kind == 'r') resize(run, text);
  else if (kind == 'k') run_kill(run, "cancelled");
  else if (kind == 's') {
    int number = atoi(text);
    if (number > 0 && number < 65) send_signal(run, number);
  }
}

/* Frames that have arrived; input waits in the peer's buffer while the program does not read. */
static void obey(struct run *run, struct peer *peer) {
  char kind, *payload;
  uint32_t length;
  enum frame_result r = FRAME_NONE;
  while (buf_size(&run->input) < MAX_INPUT && (r = peer_frame(peer, &kind, &payload, &length)) == FRAME_READY) {
    if (kind == 'P') break; /* the next plan waits for its turn; a kept run never gets to it */
    command(run, kind, payload, length);
    peer_consume(peer, length);
  }
  if (r == FRAME_BAD) peer->ended = true;
}

/* ---- notes from the child ---- */

void run_note(struct run *run, const struct note *note, int fd) {
  if (note->kind == NOTE_ERROR) {
    snprintf(run->object, sizeof run->object, "%s", note->object);
    run_error(run, "child", note->op, note->number);
    run->exec_errno = -1;
  } else if (note->kind == NOTE_EXEC) run->exec_errno = note->number;
  else if (note->kind == NOTE_EXIT) {
    run->has_exit = true;
    run->exit_status = note->number;
    run->usage = note->usage;
  } else if (note->kind == NOTE_WORK && fd >= 0) {
    run->work = fd;
    for (int i = 0; i < run->plan.n; i++) {
      struct op *op = &run->plan.op[i];
      if (strcmp(op->def->name, "copy") || !copy_into(run, op->arg[0], op->arg[1])) continue;
      run_error(run, "after", i, errno);
      run->exec_errno = -1;
      run_kill(run, NULL);
    }
    if (write(run->status, "g", 1) != 1) run_kill(run, NULL);
  } else if (note->kind == NOTE_PTY && fd >= 0) {
    set_nonblocking(fd);
    run->stdio[0].ours = fd;
    run->stdio[1].ours = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  } else if (fd >= 0) close(fd);
}

static void take_notes(struct run *run) {
  struct note note;
  int fd, n;
  while (run->status >= 0 && (n = note_receive(run->status, &note, &fd)) >= 0) {
    if (n > 0) { run_note(run, &note, fd); continue; }
    shut(&run->status); /* closed by execve: the program runs */
    run->started = !run->exec_errno;
    if (run->started && run->keep.lock >= 0) keep_start(run);
  }
}

/* ---- the shell's signals: a program that handles one gets it; else process 1 would ignore it ---- */

static void forward_signal(struct run *run, int source) {
  struct signalfd_siginfo s;
  char path[64], text[4096], *line;
  if (read(source, &s, sizeof s) != (ssize_t)sizeof s) return;
  snprintf(path, sizeof path, "/proc/%d/status", run->pid);
  bool handled = read_file(path, text, sizeof text) > 0 && (line = strstr(text, "SigCgt:")) &&
    strtoull(line + 7, NULL, 16) >> (s.ssi_signo - 1) & 1;
  if (handled) { send_signal(run, (int)s.ssi_signo); return; }
  run_kill(run, NULL);
  run->has_exit = true;
  run->exit_status = (int)s.ssi_signo; /* as if it had died of it */
}

static int shell_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT), sigaddset(&set, SIGTERM), sigaddset(&set, SIGHUP), sigaddset(&set, SIGQUIT);
  sigprocmask(SIG_BLOCK, &set, NULL);
  return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* ---- the end ---- */

static void counters_json(struct run *run, struct json *j) {
  char text[1024] = "{";
  size_t n = 1;
  for (int i = 0; i < run->ncounters; i++)
    n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%.32s\":[%.16g,%.16g]", i ? "," : "", run->counter[i].name, run->counter[i].first, run->counter[i].last);
  snprintf(text + n, sizeof text - n, "}");
  json_raw(j, "counters", text);
}

/* What those have used who were waited for. */
static double usage_ms(const struct run *run) {
  const struct timeval *user = &run->usage.ru_utime, *system = &run->usage.ru_stime;
  return (double)(user->tv_sec + system->tv_sec) * 1e3 + (double)(user->tv_usec + system->tv_usec) / 1e3;
}

void run_report(struct run *run, struct json *j) {
  json_open(j, "report");
  if (WIFSIGNALED(run->exit_status)) {
    json_raw(j, "exit", "null");
    json_text(j, "signal", signal_name(WTERMSIG(run->exit_status)));
  } else {
    json_number(j, "exit", WEXITSTATUS(run->exit_status));
    json_raw(j, "signal", "null");
  }
  if (run->reason) json_text(j, "killed", run->reason);
  else json_raw(j, "killed", "null");
  json_number(j, "wall_ms", now_ms() - run->began);
  json_number(j, "cpu_ms", usage_ms(run));
  json_number(j, "maxrss_kb", (double)run->usage.ru_maxrss);
  json_number(j, "output_bytes", run->out);
  json_number(j, "exec_errno", run->exec_errno);
  json_number(j, "pid", run->pid);
  counters_json(run, j);
  json_close(j);
}

static void finish(struct run *run) {
  struct json j;
  double cpu = cpu_used_ms(run);
  if (cpu < 0) cpu = usage_ms(run); /* nothing counts: RLIMIT_CPU has ended it */
  if (run->cpu_ms > 0 && cpu > run->cpu_ms && !run->reason) run->reason = "cpu";
  read_counters(run, false);
  if (run->exec_errno < 0) return; /* the error frame has been sent: there was no run */
  if (run->client) collect_files(run);
  run_report(run, &j);
  if (run->keep.lock >= 0) keep_end(run, j.text);
  run_broadcast(run, 'J', j.text, j.n);
}

static bool reap(struct run *run) {
  int status;
  struct rusage usage;
  take_notes(run);
  /* Before it is waited for: as long as it is a zombie, no other group can have its number. */
  if (run->target >= 0 && run->killed) kill(-run->pid, SIGKILL);
  if (wait4(run->pid, &status, WNOHANG, &usage) != run->pid) return false;
  take_notes(run);
  if (!run->has_exit) run->exit_status = status;
  /* Process 1 has waited for all that ended inside, so its own figure is the whole tree's. */
  run->usage = usage;
  return true;
}

static void drop_peers(struct run *run) {
  for (int i = run->npeers - 1; i >= 0; i--) {
    struct peer *p = run->peers[i];
    if (peer_flush(p) == 0) continue;
    if (p == run->client) {
      if (!run->keep.on) { run_kill(run, "gone"); continue; }
      peer_close(p); /* a kept run does not need the one who began it */
    } else {
      peer_close(p);
      free(p);
    }
    run->peers[i] = run->peers[--run->npeers];
  }
}

/* Rounds of reading after the end, a CHUNK of each pipe: twice what a pipe can hold (fs.pipe-max-size is 1 MiB).
 * What a joined program left behind in the machine may write for ever. */
enum { LAST_ROUNDS = 32 };
enum { AT_PID, AT_STATUS, AT_IN, AT_OUT, AT_LISTEN = AT_OUT + 3, AT_SIGNAL, AT_PEER };

void run_watch(struct run *run) {
  struct pollfd p[AT_PEER + MAX_PEERS + 1];
  int source = run->client ? -1 : shell_signals();
  bool dead = false;
  int rounds = 0;
  read_counters(run, true);
  for (int i = 0; i < run->npeers; i++) obey(run, run->peers[i]); /* what came with the plan */
  if (run->input_ended || buf_size(&run->input)) give_input(run);
  for (;;) {
    bool room = run->keep.on || !run->client || run->client->ended || buf_size(&run->client->out) < MAX_BACKLOG;
    p[AT_PID] = (struct pollfd){ dead ? -1 : run->pidfd, POLLIN, 0 };
    p[AT_STATUS] = (struct pollfd){ run->status, POLLIN, 0 };
    p[AT_IN] = (struct pollfd){ buf_size(&run->input) ? run->stdio[0].ours : -1, POLLOUT, 0 };
    for (int i = 0; i < 3; i++) p[AT_OUT + i] = (struct pollfd){ room ? run->stdio[i + 1].ours : -1, POLLIN, 0 };
    p[AT_LISTEN] = (struct pollfd){ run->keep.on && run->npeers < MAX_PEERS ? run->keep.listener : -1, POLLIN, 0 };
    p[AT_SIGNAL] = (struct pollfd){ source, POLLIN, 0 };
    int n = run->npeers;
    for (int i = 0; i < n; i++) {
      struct peer *peer = run->peers[i];
      bool listen = buf_size(&run->input) < MAX_INPUT && buf_size(&peer->in) < MAX_PLAN;
      p[AT_PEER + i] = (struct pollfd){ peer->ended ? -1 : peer->fd, (short)((listen ? POLLIN : 0) | POLLRDHUP | (buf_size(&peer->out) ? POLLOUT : 0)), 0 };
    }
    int wait = dead ? (room ? 0 : 30000) : check_limits(run);
    if (poll(p, (nfds_t)(AT_PEER + n), wait) < 0 && errno != EINTR) break;
    if (p[AT_STATUS].revents) take_notes(run);
    for (int i = 0; i < n; i++) {
      struct peer *peer = run->peers[i];
      if (p[AT_PEER + i].revents & (POLLIN | POLLRDHUP | POLLHUP | POLLERR)) peer_fill(peer);
      obey(run, peer);
      if (p[AT_PEER + i].revents & (POLLRDHUP | POLLHUP | POLLERR)) peer->ended = true;
    }
    if (run->input_ended || buf_size(&run->input)) give_input(run);
    if (p[AT_LISTEN].revents) keep_accept(run);
    if (p[AT_SIGNAL].revents) forward_signal(run, source);
    bool more = false;
    for (int i = 1; i < MAX_STDIO; i++)
      if (room && run->stdio[i].ours >= 0) more |= take_output(run, i);
    if (p[AT_PID].revents && !dead) {
      dead = reap(run);
      more |= dead; /* one more round for what is still in the pipes */
    } else if (dead && room && ++rounds == LAST_ROUNDS) more = false; /* who still writes is not ours */
    drop_peers(run);
    if (dead && !more && (room || run->client->ended)) break; /* what background processes write later is not ours */
  }
  finish(run);
  if (source >= 0) close(source);
}
