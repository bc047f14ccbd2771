/*
 * A child ahead of time. Fresh namespaces are most of what a short run costs, and they do not depend on what
 * will run in them: a session whose plan says "prepare" clones the next child, with the same namespaces and id
 * maps, while it waits for the next plan. The plan and the descriptors it needs then go to that child in one
 * packet. Operations that stand before "prepare" are carried out ahead as well (they may not open or
 * gather anything); the next plan must begin with the same ones. Nothing of the earlier run is in the child:
 * it is a fresh fork in fresh namespaces.
 */
#define _GNU_SOURCE
#include "isolate.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_PACKET = 96 << 10, MAX_FDS = 64 };

/* What comes before the text of the plan. */
struct head { int kind[MAX_STDIO], nfds, owner[MAX_FDS]; /* >= 0: of that operation; else of stdio -1 - owner */ };
static struct { char bytes[MAX_PACKET]; } packet;
static struct { pid_t pid; int pidfd, status, mounts; uint64_t namespaces; char uid_map[512], gid_map[512]; bool deny; struct buf first; } ready;

static bool eligible(const struct run *run) {
  return run->prepare && run->cgroup < 0 && run->target < 0 && run->keep.lock < 0 && run->held_net < 0 && !run->tty;
}

static int prepare_index(const struct plan *plan) {
  for (int i = 0; i < plan->n; i++)
    if (!strcmp(plan->op[i].def->name, "prepare")) return i;
  return 0;
}

/* The operations that are carried out ahead, as text. */
static struct buf first_part(const struct plan *plan) {
  struct buf b = { 0 };
  for (int i = 0; i < prepare_index(plan); i++) {
    const struct op *op = &plan->op[i];
    if (!op->def->child) continue;
    buf_add(&b, op->def->name, strlen(op->def->name) + 1);
    for (int k = 0; k < op->def->nargs; k++) buf_add(&b, op->arg[k], strlen(op->arg[k]) + 1);
  }
  return b;
}

static bool same_first_part(const struct plan *plan) {
  struct buf b = first_part(plan);
  size_t n = buf_size(&b);
  bool same = n == buf_size(&ready.first) && (n == 0 || !memcmp(buf_data(&b), buf_data(&ready.first), n));
  buf_free(&b);
  return same;
}

/* When the ids are mapped. A failure ends the child, and the next run does without it. */
static void go_ahead(struct run *run, int status) {
  char go;
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || read(status, &go, 1) != 1) _exit(125);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  for (int i = 0; i < prepare_index(&run->plan); i++) {
    struct op *op = &run->plan.op[i];
    if (op->def->child && op->def->child(run, op)) _exit(125);
  }
}

_Noreturn static void prepared_main(struct run *last, int status) {
  struct plan plan;
  static struct run run;
  struct head head;
  struct pollfd p = { status, POLLIN, 0 };
  char control[CMSG_SPACE(sizeof(int) * MAX_FDS)], why[128];
  struct iovec io = { packet.bytes, sizeof packet.bytes };
  struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
  go_ahead(last, status);
  while (poll(&p, 1, -1) < 0 && errno == EINTR) { }
  ssize_t n = recvmsg(status, &m, MSG_CMSG_CLOEXEC);
  if (n <= (ssize_t)sizeof head) _exit(125); /* the session has ended, or needs another child */
  memcpy(&head, packet.bytes, sizeof head);
  if (plan_parse(&plan, packet.bytes + sizeof head, (size_t)n - sizeof head, why, sizeof why)) _exit(125);
  run_init(&run, NULL, &plan);
  run.status = status;
  run.ahead = prepare_index(&plan);
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  for (int i = 0; c && i < head.nfds; i++) {
    int fd;
    memcpy(&fd, CMSG_DATA(c) + sizeof fd * (size_t)i, sizeof fd);
    if (head.owner[i] >= 0) run.plan.op[head.owner[i]].fd = fd;
    else run.stdio[-1 - head.owner[i]].theirs = fd;
  }
  for (int i = 0; i < MAX_STDIO; i++) run.stdio[i].kind = (enum stdio_kind)head.kind[i];
  child_run(&run);
}

/* After a run: the next child, if the plan asked for it. Failure only means that the next run is slower. */
void prepare_next(struct run *run) {
  int ends[2];
  if (!eligible(run) || ready.pid > 0) return;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) return;
  struct clone_args a = { .flags = run->namespaces | CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&ready.pidfd, .exit_signal = SIGCHLD };
  pid_t pid = (pid_t)syscall(SYS_clone3, &a, sizeof a);
  if (pid == 0) {
    close(ends[0]);
    prepared_main(run, ends[1]);
  }
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    return;
  }
  ready.pid = pid;
  ready.status = ends[0];
  ready.namespaces = run->namespaces;
  ready.deny = run->deny_setgroups;
  memcpy(ready.uid_map, run->uid_map, sizeof ready.uid_map);
  memcpy(ready.gid_map, run->gid_map, sizeof ready.gid_map);
  pid_t before = run->pid;
  run->pid = pid;
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/mnt", pid);
  ready.mounts = open(path, O_RDONLY | O_CLOEXEC);
  buf_free(&ready.first);
  ready.first = first_part(&run->plan);
  if (write_maps(run) || write(ready.status, "g", 1) != 1) prepare_drop();
  run->pid = before;
}

void prepare_drop(void) {
  if (ready.pid <= 0) return;
  kill(ready.pid, SIGKILL);
  while (waitpid(ready.pid, NULL, 0) < 0 && errno == EINTR) { }
  close(ready.pidfd);
  close(ready.status);
  if (ready.mounts >= 0) close(ready.mounts);
  ready.pid = 0;
}

/* Takes the waiting child for this run, if it is of the same shape and alive. */
bool prepare_take(struct run *run) {
  if (ready.pid <= 0) return false;
  struct pollfd dead = { ready.pidfd, POLLIN, 0 };
  size_t fds = 0;
  for (int i = 0; i < run->plan.n; i++) fds += run->plan.op[i].fd >= 0;
  bool fits = eligible(run) && same_first_part(&run->plan) && run->namespaces == ready.namespaces && run->deny_setgroups == ready.deny &&
    !strcmp(run->uid_map, ready.uid_map) && !strcmp(run->gid_map, ready.gid_map) && fds + MAX_STDIO <= MAX_FDS &&
    run->plan.length + sizeof(struct head) <= MAX_PACKET && poll(&dead, 1, 0) == 0;
  for (int i = 0; i < MAX_STDIO; i++) fits &= run->stdio[i].kind != IO_INHERIT; /* its 0, 1, 2 are the session's */
  if (!fits) return prepare_drop(), false;
  run->pid = ready.pid, run->pidfd = ready.pidfd, run->status = ready.status, run->held_mounts = ready.mounts;
  ready.pid = 0;
  return run->prepared = true;
}

/* "Go", with everything: the plan, and the descriptors that its first half has opened. */
int prepare_go(struct run *run) {
  struct head head = { 0 };
  char control[CMSG_SPACE(sizeof(int) * MAX_FDS)] = { 0 };
  int fds[MAX_FDS];
  for (int i = 0; i < run->plan.n; i++)
    if (run->plan.op[i].fd >= 0) head.owner[head.nfds] = i, fds[head.nfds++] = run->plan.op[i].fd;
  for (int i = 0; i < MAX_STDIO; i++) {
    head.kind[i] = (int)run->stdio[i].kind;
    if (run->stdio[i].theirs >= 0) head.owner[head.nfds] = -1 - i, fds[head.nfds++] = run->stdio[i].theirs;
  }
  struct iovec io[2] = { { &head, sizeof head }, { run->plan.text, run->plan.length } };
  struct msghdr m = { .msg_iov = io, .msg_iovlen = 2 };
  if (head.nfds) {
    m.msg_control = control;
    m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)head.nfds);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)head.nfds);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)head.nfds);
  }
  return sendmsg(run->status, &m, MSG_NOSIGNAL) < 0 ? -1 : 0;
}
