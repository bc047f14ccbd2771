/* Operations of the session: what the run shall be, decided before there is a child. */
#define _GNU_SOURCE
#include "ops.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int limit_before(struct run *run, struct op *op) {
  double value;
  if (parse_number(op->arg[1], &value)) return fail(run, op->arg[1], errno);
  if (!strcmp(op->arg[0], "wall_ms")) run->wall_ms = value;
  else if (!strcmp(op->arg[0], "cpu_ms")) run->cpu_ms = value;
  else if (!strcmp(op->arg[0], "output_bytes")) run->output_bytes = value;
  else return fail(run, op->arg[0], EINVAL);
  return 0;
}

/* A number in a file that only grows (usage of a control group): read at the start and at the end.
 * The one called "cpu" is in nanoseconds after scaling, and is what limit cpu_ms looks at. */
int counter_before(struct run *run, struct op *op) {
  if (run->ncounters == MAX_COUNTERS) return fail(run, op->arg[0], E2BIG);
  struct counter c = { .name = op->arg[0], .path = op->arg[1], .key = op->arg[2] };
  if (parse_number(op->arg[3], &c.scale)) return fail(run, op->arg[3], errno);
  run->counter[run->ncounters++] = c;
  return 0;
}

int write_before(struct run *run, struct op *op) {
  (void)run;
  return write_file(op->arg[0], op->arg[1]);
}

int join_before(struct run *run, struct op *op) {
  (void)run;
  return write_file(op->arg[0], "0");
}

int place_after(struct run *run, struct op *op) {
  char pid[16];
  snprintf(pid, sizeof pid, "%d", run->pid);
  return write_file(op->arg[0], pid);
}

int cgroup_before(struct run *run, struct op *op) {
  run->cgroup = open(op->arg[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return run->cgroup < 0 ? -1 : 0;
}

/* The session must outlive what the kernel kills for memory; its child must not inherit that. Lowering the
 * own score takes CAP_SYS_RESOURCE, which a daemon in a container may lack: the child's higher one then helps. */
int oom_before(struct run *run, struct op *op) {
  (void)run;
  if (write_file("/proc/self/oom_score_adj", op->arg[0]) && errno != EACCES && errno != EPERM) return -1;
  return 0;
}

int oom_after(struct run *run, struct op *op) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/oom_score_adj", run->pid);
  return write_file(path, op->arg[1]);
}

int namespaces_before(struct run *run, struct op *op) { return namespace_flags(op->arg[0], &run->namespaces); }

/* The pid namespace is joined here: it counts for children only, so the session itself stays outside. */
int target_before(struct run *run, struct op *op) {
  if (namespace_flags(op->arg[1], &run->join)) return fail(run, op->arg[1], errno);
  if (!strcmp(op->arg[0], "machine")) run->target = machine_target < 0 ? -1 : fcntl(machine_target, F_DUPFD_CLOEXEC, 0);
  else run->target = (int)syscall(SYS_pidfd_open, atoi(op->arg[0]), 0);
  if (run->target < 0) return fail(run, op->arg[0], ESRCH);
  if (run->join & CLONE_NEWPID && setns(run->target, CLONE_NEWPID)) return fail(run, "pid namespace", errno);
  return 0;
}

int map_before(struct run *run, struct op *op) {
  char *map = !strcmp(op->arg[0], "uid") ? run->uid_map : !strcmp(op->arg[0], "gid") ? run->gid_map : NULL;
  if (!map) return fail(run, op->arg[0], EINVAL);
  size_t used = strlen(map);
  int n = snprintf(map + used, sizeof run->uid_map - used, "%s %s %s\n", op->arg[1], op->arg[2], op->arg[3]);
  return n < 0 || (size_t)n >= sizeof run->uid_map - used ? fail(run, "map", E2BIG) : 0;
}

int setgroups_before(struct run *run, struct op *op) {
  run->deny_setgroups = !strcmp(op->arg[0], "deny");
  return run->deny_setgroups ? 0 : fail(run, op->arg[0], EINVAL);
}

int init_before(struct run *run, struct op *op) {
  (void)op;
  run->separate_init = true;
  return 0;
}

int prepare_before(struct run *run, struct op *op) {
  (void)op;
  run->prepare = true;
  return 0;
}

int pty_before(struct run *run, struct op *op) {
  run->tty = true;
  run->rows = atoi(op->arg[0]);
  run->columns = atoi(op->arg[1]);
  return 0;
}

/* Opens both ends; ours never blocks. */
static int pipe_for(struct run *run, int number) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC)) return -1;
  int input = number == 0;
  run->stdio[number].theirs = ends[input ? 0 : 1];
  run->stdio[number].ours = ends[input ? 1 : 0];
  return set_nonblocking(run->stdio[number].ours);
}

int stdio_before(struct run *run, struct op *op) {
  int number = atoi(op->arg[0]);
  const char *kind = op->arg[1], *what = op->arg[2];
  if (number < 0 || number >= MAX_STDIO || run->stdio[number].theirs >= 0) return fail(run, op->arg[0], EINVAL);
  if (number > 3 && strcmp(kind, "fd")) return fail(run, kind, EINVAL); /* nobody would read or feed them */
  if (!strcmp(kind, "inherit")) {
    run->stdio[number].kind = IO_INHERIT;
    return 0;
  }
  if (!strcmp(kind, "pipe")) {
    run->stdio[number].kind = IO_PIPE;
    return pipe_for(run, number);
  }
  run->stdio[number].kind = IO_FD;
  if (!strcmp(kind, "null")) run->stdio[number].theirs = open("/dev/null", O_RDWR | O_CLOEXEC | O_NOCTTY);
  else if (!strcmp(kind, "file")) run->stdio[number].theirs = open(what, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  else if (!strcmp(kind, "fd")) {
    int i = atoi(what);
    if (!run->client || i < 0 || i >= run->client->npassed || run->client->passed[i] < 0) return fail(run, what, EBADF);
    run->stdio[number].theirs = run->client->passed[i];
    run->client->passed[i] = -1;
  } else return fail(run, kind, EINVAL);
  return run->stdio[number].theirs < 0 ? fail(run, what, errno) : 0;
}

int sync_after(struct run *run, struct op *op) {
  (void)op;
  return run_sync(run);
}

/* The network namespace the child was born in lives as long as the run, even when the child leaves it. */
int hold_net_after(struct run *run, struct op *op) {
  (void)op;
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/net", run->pid);
  run->held_net = open(path, O_RDONLY | O_CLOEXEC);
  return run->held_net < 0 ? fail(run, path, errno) : 0;
}
