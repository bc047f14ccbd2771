/*
 * Runs that outlive whoever began them: a machine's init, or a command somebody may come back to. The session
 * becomes a keeper: its own process session, a lock that tells it is alive, a socket to attach to, a record of
 * the output in a file, a report at the end. A machine's keeper also has an exec server: a process that already
 * sits in the machine's control groups and forks a session per connection, so a command starts in them.
 */
#define _GNU_SOURCE
#include "ops.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* The record: this header, at 4096 the first `head` bytes of the output, then a ring of the last `ring` bytes
 * of the rest: byte n (n >= head) stands at (n - head) % ring. Byte numbers never change. */
enum { DATA = 4096, MAX_RECORD = 64 << 20 };
struct header { char magic[8]; _Atomic uint64_t total; uint64_t head, ring; };
struct record { struct header *header; char *data; };

/* Who asks whether somebody holds it has it himself for a moment: only what lasts means that it runs already. */
static int take_lock(int fd) {
  for (int i = 0; i < 20; i++) {
    if (!flock(fd, LOCK_EX | LOCK_NB)) return 0;
    if (errno != EWOULDBLOCK && errno != EINTR) return -1;
    usleep(5000);
  }
  errno = EBUSY;
  return -1;
}

int keep_before(struct run *run, struct op *op) {
  run->keep.lock = open(op->arg[1], O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (run->keep.lock < 0) return fail(run, op->arg[1], errno);
  if (take_lock(run->keep.lock)) return fail(run, op->arg[1], errno);
  run->keep.socket = op->arg[0];
  run->keep.report = op->arg[2];
  run->keep.listener = listen_on(op->arg[0]);
  if (run->keep.listener < 0) return fail(run, op->arg[0], errno);
  setsid();
  return prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
}

int record_before(struct run *run, struct op *op) {
  static struct record record;
  double head, ring;
  if (parse_number(op->arg[1], &head) || parse_number(op->arg[2], &ring) || ring < 1 || head + ring > MAX_RECORD)
    return fail(run, op->arg[1], EINVAL);
  size_t size = DATA + (size_t)head + (size_t)ring;
  int fd = open(op->arg[0], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return -1;
  int error = posix_fallocate(fd, 0, (off_t)size); /* a full disk must show here, not as SIGBUS later */
  char *map = error ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (!error && map == MAP_FAILED) error = errno;
  close(fd);
  if (error) return fail(run, op->arg[0], error);
  record = (struct record){ (struct header *)map, map + DATA };
  record.header->head = (uint64_t)head;
  record.header->ring = (uint64_t)ring;
  memcpy(record.header->magic, "CARRELR1", 8);
  run->keep.record = &record;
  return 0;
}

int exec_server_before(struct run *run, struct op *op) {
  run->keep.exec_socket = op->arg[0];
  run->keep.exec_listener = listen_on(op->arg[0]);
  return run->keep.exec_listener < 0 ? -1 : 0;
}

uint64_t keep_offset(const struct run *run) { return run->keep.record ? atomic_load(&run->keep.record->header->total) : 0; }

void keep_output(struct run *run, const char *data, size_t n) {
  struct header *h = run->keep.record->header;
  uint64_t at = atomic_load(&h->total);
  while (n) {
    uint64_t place, room;
    if (at < h->head) place = at, room = h->head - at;
    else {
      uint64_t in_ring = (at - h->head) % h->ring;
      place = h->head + in_ring, room = h->ring - in_ring;
    }
    size_t piece = n < room ? n : (size_t)room;
    memcpy(run->keep.record->data + place, data, piece);
    data += piece, n -= piece, at += piece;
    atomic_store(&h->total, at); /* after the bytes: a reader never sees a number without them */
  }
}

/* Who it is: the pid alone would name another process one day. */
static void identify(struct run *run, struct json *j, const char *phase) {
  char text[32];
  json_open(j, phase);
  json_number(j, "pid", run->pid);
  snprintf(text, sizeof text, "%llu", start_time(run->pid));
  json_text(j, "start_time", text);
  json_number(j, "keeper", getpid());
  snprintf(text, sizeof text, "%llu", start_time(getpid()));
  json_text(j, "keeper_start_time", text);
  json_number(j, "offset", (double)keep_offset(run));
  json_close(j);
}

/* Whole or not at all: written beside, then renamed. */
static void write_report(const struct run *run, const char *text) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s.new", run->keep.report) >= (int)sizeof path) return;
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return;
  bool ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text) && write(fd, "\n", 1) == 1 && !fdatasync(fd);
  close(fd);
  if (ok) rename(path, run->keep.report);
}

/* In the machine's control groups, outside its namespaces: invisible to it, and under its limits. */
_Noreturn static void exec_server(struct run *run, pid_t parent) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || getppid() != parent) _exit(1);
  machine_target = fcntl(run->pidfd, F_DUPFD_CLOEXEC, 200);
  int listener = fcntl(run->keep.exec_listener, F_DUPFD_CLOEXEC, 201), own = self_fd < 0 ? -1 : fcntl(self_fd, F_DUPFD_CLOEXEC, 202);
  if (machine_target < 0 || listener < 0) _exit(1);
  close_range(3, 199, 0);
  close_range(203, ~0U, 0);
  self_fd = own;
  for (int i = 0; i < run->plan.n; i++) {
    struct op *op = &run->plan.op[i];
    char path[4096];
    if (!strcmp(op->def->name, "place") && write_file(op->arg[0], "0")) _exit(1);
    if (strcmp(op->def->name, "cgroup")) continue;
    if (snprintf(path, sizeof path, "%s/cgroup.procs", op->arg[0]) >= (int)sizeof path || write_file(path, "0")) _exit(1);
  }
  serve_on(listener, -1);
}

void keep_start(struct run *run) {
  struct json j;
  char lock[64];
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int i = 0; i < 3; i++) dup2(null, i); /* not the log of whoever began us */
  close(null);
  run->keep.on = true;
  int n = snprintf(lock, sizeof lock, "%d %llu\n", getpid(), start_time(getpid()));
  if (ftruncate(run->keep.lock, 0) || pwrite(run->keep.lock, lock, (size_t)n, 0) != n) run->keep.on = true; /* only a courtesy to readers */
  if (run->keep.exec_listener >= 0) {
    pid_t keeper = getpid();
    run->keep.exec_server = fork();
    if (run->keep.exec_server == 0) exec_server(run, keeper);
    close(run->keep.exec_listener);
    run->keep.exec_listener = -1;
  }
  identify(run, &j, "running");
  write_report(run, j.text);
  identify(run, &j, "kept");
  run_broadcast(run, 'J', j.text, j.n);
}

void keep_accept(struct run *run) {
  int fd = accept4(run->keep.listener, NULL, NULL, SOCK_CLOEXEC);
  struct peer *peer = fd < 0 ? NULL : calloc(1, sizeof *peer);
  if (!peer) {
    if (fd >= 0) close(fd);
    return;
  }
  struct json j;
  peer->fd = fd;
  run->peers[run->npeers++] = peer;
  identify(run, &j, "attached");
  peer_send(peer, 'J', j.text, j.n);
}

void keep_end(struct run *run, const char *report) {
  if (run->keep.exec_server > 0) {
    kill(run->keep.exec_server, SIGKILL);
    while (waitpid(run->keep.exec_server, NULL, 0) < 0 && errno == EINTR) { }
  }
  session_unmount(run);
  write_report(run, report);
  unlink(run->keep.socket);
  if (run->keep.exec_socket) unlink(run->keep.exec_socket);
  close(run->keep.lock); /* last, and before the news: who hears of the end may start it again */
  run->keep.lock = -1;
}
