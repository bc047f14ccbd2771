/*
 * One run, top to bottom: the session's half of the plan, the clone, the id maps, the half that needs the
 * child, "go" - and then the child furnishes its world and becomes the program, while the session watches.
 */
#define _GNU_SOURCE
#include "isolate.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SYNC_MS = 60000 }; /* how long a child may wait for its network cable */

void run_init(struct run *run, struct peer *client, struct plan *plan) {
  memset(run, 0, sizeof *run);
  run->plan = *plan;
  run->client = client;
  run->cgroup = run->target = run->held_net = run->held_mounts = run->pidfd = run->status = run->work = run->late_root = -1;
  run->keep.lock = run->keep.listener = run->keep.exec_listener = -1;
  for (int i = 0; i < MAX_STDIO; i++) run->stdio[i].theirs = run->stdio[i].ours = -1;
}

static void shut(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void run_close(struct run *run) {
  for (int i = 0; i < MAX_STDIO; i++) shut(&run->stdio[i].theirs), shut(&run->stdio[i].ours);
  shut(&run->cgroup), shut(&run->target), shut(&run->held_net), shut(&run->held_mounts), shut(&run->pidfd), shut(&run->status), shut(&run->work), shut(&run->late_root);
  shut(&run->keep.lock), shut(&run->keep.listener), shut(&run->keep.exec_listener);
  for (int i = 0; i < run->plan.n; i++) shut(&run->plan.op[i].fd);
  buf_free(&run->input);
}

/* Every failure names the stage, the operation, the object and the error. */
void run_error(struct run *run, const char *stage, int op, int error) {
  const char *name = op >= 0 && op < run->plan.n ? run->plan.op[op].def->name : "run";
  char object[sizeof run->object]; /* an argument may be as long as the plan, a line of ours may not */
  snprintf(object, sizeof object, "%s", *run->object ? run->object : op >= 0 && op < run->plan.n && run->plan.op[op].def->nargs ? run->plan.op[op].arg[0] : "");
  const char *code = strerrorname_np(error);
  if (!run->client) {
    fprintf(stderr, "isolate: %s %s: %s\n", name, object, strerror(error));
    return;
  }
  struct json j;
  json_open(&j, "error");
  json_text(&j, "stage", stage);
  json_text(&j, "op", name);
  json_text(&j, "object", object);
  json_number(&j, "errno", error);
  json_text(&j, "code", code ? code : "");
  json_text(&j, "message", strerror(error));
  json_close(&j);
  peer_send(run->client, 'J', j.text, j.n);
}

int note_send(int socket, const struct note *note, int fd) {
  struct iovec io = { (void *)note, sizeof *note };
  char control[CMSG_SPACE(sizeof fd)] = { 0 };
  struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };
  if (fd >= 0) {
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  return sendmsg(socket, &m, MSG_NOSIGNAL) == (ssize_t)sizeof *note ? 0 : -1;
}

int note_receive(int socket, struct note *note, int *fd) {
  struct iovec io = { note, sizeof *note };
  char control[CMSG_SPACE(sizeof *fd)];
  struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
  *fd = -1;
  ssize_t n = recvmsg(socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n <= 0) return (int)n;
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  if (c && c->cmsg_type == SCM_RIGHTS) memcpy(fd, CMSG_DATA(c), sizeof *fd);
  note->object[sizeof note->object - 1] = 0;
  return n == (ssize_t)sizeof *note ? (int)n : 0;
}

/* ---- the child ---- */

_Noreturn void child_fail(struct run *run, int error) {
  struct note note = { .kind = NOTE_ERROR, .op = run->error_op, .number = error };
  snprintf(note.object, sizeof note.object, "%s", run->object);
  note_send(run->status, &note, -1);
  _exit(125);
}

static int raise_fd(int fd) { return fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 16); }

static void arrange_stdio(struct run *run) {
  int last = 0;
  run->status = raise_fd(run->status);
  if (self_fd >= 0) self_fd = raise_fd(self_fd);
  for (int i = 0; i < MAX_STDIO; i++) run->stdio[i].theirs = raise_fd(run->stdio[i].theirs);
  for (int i = 0; i < MAX_STDIO; i++) {
    if (run->stdio[i].kind == IO_INHERIT) last = i;
    else if (run->stdio[i].theirs < 0) close(i); /* below one that is given: nothing of ours may stand there */
    else if (dup2(run->stdio[i].theirs, i) < 0) child_fail(run, errno);
    else last = i;
  }
  /* Whatever else is open closes when the program starts; until then the status socket is needed. */
  if (syscall(SYS_close_range, last + 1, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */)) child_fail(run, errno);
}

_Noreturn static void become_program(struct run *run) {
  static char *no_environment[] = { NULL };
  if (!run->argc) child_fail(run, EINVAL);
  if (!run->envp) run->envp = no_environment;
  arrange_stdio(run);
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  int error;
  if (run->self) error = (int)syscall(SYS_execveat, self_fd, "", run->argv, run->envp, AT_EMPTY_PATH) ? errno : 0;
  else error = execute_along(run->argv, run->envp);
  struct note note = { .kind = NOTE_EXEC, .number = error };
  note_send(run->status, &note, -1);
  dprintf(2, "isolate: %s: %s\n", run->argv[0], error == ENOENT && !strchr(run->argv[0], '/') ? "command not found" : strerror(error));
  _exit(error == ENOENT || error == ENOTDIR ? 127 : 126);
}

/* The kernel kills us with the session; and if it died before it was asked to, its end of the socket is closed.
 * What it has sent may be here all the same. */
int die_with_session(const struct run *run) {
  char any;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)) return -1;
  if (run->status >= 0 && recv(run->status, &any, 1, MSG_PEEK | MSG_DONTWAIT) == 0) _exit(125);
  return 0;
}

/* "go", perhaps with the tree of the root. */
static bool receive_go(struct run *run) {
  struct pollfd p = { run->status, POLLIN, 0 };
  struct note note;
  while (poll(&p, 1, -1) < 0 && errno == EINTR) { }
  return note_receive(run->status, &note, &run->late_root) > 0;
}

_Noreturn void child_main(struct run *run) {
  /* Order: ask for death with the session, then wait. A session that died in between is an end of file. */
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || !receive_go(run)) _exit(125);
  child_run(run);
}

_Noreturn void child_run(struct run *run) {
  if (die_with_session(run)) child_fail(run, errno);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* until the program starts nobody inside may look at us */
  for (int i = 0; i < run->plan.n; i++) {
    struct op *op = &run->plan.op[i];
    run->error_op = i;
    if (i >= run->ahead && op->def->child && op->def->child(run, op)) child_fail(run, errno);
  }
  run->error_op = -1;
  become_program(run);
}

/* ---- the session ---- */

static int stage(struct run *run, bool after) {
  for (int i = 0; i < run->plan.n; i++) {
    struct op *op = &run->plan.op[i];
    op_fn *part = after ? op->def->after : op->def->before;
    if (part && part(run, op)) {
      run_error(run, after ? "after" : "before", i, errno);
      return -1;
    }
  }
  return 0;
}

int write_maps(struct run *run) {
  char path[64];
  if (!(run->namespaces & CLONE_NEWUSER)) return 0;
  snprintf(path, sizeof path, "/proc/%d/setgroups", run->pid);
  if ((run->deny_setgroups || geteuid()) && write_file(path, "deny")) return fail(run, path, errno);
  snprintf(path, sizeof path, "/proc/%d/uid_map", run->pid);
  if (*run->uid_map && write_file(path, run->uid_map)) return fail(run, path, errno);
  snprintf(path, sizeof path, "/proc/%d/gid_map", run->pid);
  if (*run->gid_map && write_file(path, run->gid_map)) return fail(run, path, errno);
  return 0;
}

/* Tells who the child is and waits until the client has plugged it in. */
int run_sync(struct run *run) {
  struct json j;
  if (!run->client) return 0;
  json_open(&j, "cloned");
  json_number(&j, "pid", run->pid);
  json_close(&j);
  peer_send(run->client, 'J', j.text, j.n);
  peer_drain(run->client, SYNC_MS);
  double end = now_ms() + SYNC_MS;
  for (;;) {
    char kind, *payload;
    uint32_t length;
    enum frame_result r = peer_frame(run->client, &kind, &payload, &length);
    if (r == FRAME_BAD || (r == FRAME_READY && kind != 'g')) return fail(run, "frame", EPROTO);
    if (r == FRAME_READY) return peer_consume(run->client, length), 0;
    struct pollfd p[2] = { { run->client->fd, POLLIN, 0 }, { run->pidfd, POLLIN, 0 } };
    double left = end - now_ms();
    if (left <= 0 || poll(p, 2, (int)left + 1) == 0) return fail(run, "go", ETIMEDOUT);
    if (p[1].revents) return fail(run, "child", ESRCH);
    if (p[0].revents && peer_fill(run->client)) return fail(run, "client", EPIPE);
  }
}

static void abandon(struct run *run) {
  run_kill(run, NULL);
  while (waitpid(run->pid, NULL, 0) < 0 && errno == EINTR) { }
}

/* A plan without a program only configures the session: a warm slot takes its place in the control groups. */
static bool has_program(struct run *run) {
  for (int i = 0; i < run->plan.n; i++)
    if (!strcmp(run->plan.op[i].def->name, "arg")) return true;
  return false;
}

static int configured(struct run *run) {
  struct json j;
  json_open(&j, "configured");
  json_close(&j);
  if (run->client) peer_send(run->client, 'J', j.text, j.n);
  return 0;
}

/* The child, in its namespaces and with its ids, waiting for "go". */
static int start_child(struct run *run) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) return run_error(run, "clone", -1, errno), -1;
  struct clone_args a = {
    .flags = run->namespaces | CLONE_PIDFD | (run->cgroup >= 0 ? CLONE_INTO_CGROUP : 0),
    .pidfd = (uint64_t)(uintptr_t)&run->pidfd, .exit_signal = SIGCHLD, .cgroup = run->cgroup >= 0 ? (uint64_t)run->cgroup : 0,
  };
  fflush(NULL);
  run->pid = (pid_t)syscall(SYS_clone3, &a, sizeof a);
  if (run->pid < 0) {
    int error = errno;
    close(ends[0]), close(ends[1]);
    snprintf(run->object, sizeof run->object, "clone3");
    return run_error(run, "clone", -1, error), -1;
  }
  if (run->pid == 0) {
    close(ends[0]);
    run->status = ends[1];
    child_main(run);
  }
  close(ends[1]);
  run->status = ends[0];
  if (write_maps(run)) {
    run_error(run, "maps", -1, errno);
    return abandon(run), -1;
  }
  return 0;
}

/* What the plan says nothing of is /dev/null: never what the session has there, which is the server's own. */
static int rest_of_stdio(struct run *run) {
  for (int i = 0; i < 3 && !run->tty; i++) {
    if (run->stdio[i].kind != IO_NULL || run->stdio[i].theirs >= 0) continue;
    run->stdio[i].kind = IO_FD;
    run->stdio[i].theirs = open("/dev/null", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (run->stdio[i].theirs < 0) return fail(run, "/dev/null", errno);
  }
  return 0;
}

int run_execute(struct run *run) {
  run->began = now_ms();
  if (stage(run, false)) return -1;
  if (!has_program(run)) return configured(run);
  if (rest_of_stdio(run)) return run_error(run, "before", -1, errno), -1;
  if (!prepare_take(run) && start_child(run)) return -1;
  if (stage(run, true)) return abandon(run), -1;
  struct note go = { 0 };
  if (run->prepared ? prepare_go(run) : note_send(run->status, &go, run->late_root))
    return run_error(run, "clone", -1, errno), abandon(run), -1;
  shut(&run->late_root);
  for (int i = 0; i < MAX_STDIO; i++) shut(&run->stdio[i].theirs);
  for (int i = 0; i < run->plan.n; i++) shut(&run->plan.op[i].fd);
  run_watch(run);
  return 0;
}
int run_plan(struct peer *client, struct plan *plan) {
  static struct run run; /* static: large, and pages touched once stay warm */
  run_init(&run, client, plan);
  struct peer *peers[MAX_PEERS + 1] = { client };
  run.peers = peers;
  run.npeers = 1;
  bool ran = !run_execute(&run);
  for (int i = 0; i < run.npeers; i++) peer_drain(peers[i], run.keep.on ? 1000 : 30000);
  if (run.keep.on) _exit(0); /* a keeper has done its work */
  run_close(&run); /* after the answer: what is let go of here takes its time */
  if (ran && !client->ended) prepare_next(&run);
  plan_free(plan);
  return client->ended ? -1 : 0;
}
