/*
 * agent [PORT]                                    in a guest; without PORT it finds the port by its name
 * agent --foreground SOCKET|fd:N [--root DIR]     for tests: listens on a unix socket, or speaks on a descriptor
 *
 * Nobody is needed on the other side: while the host's end is closed it sleeps until the port's SIGIO, or looks
 * again after a moment. One process, one poll loop; children are programs and jobs.
 */
#define _GNU_SOURCE
#include "agent.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static const char port_name[] = "carrel.agent.0";
enum { PORT_MS = 10, PORT_MS_MAX = 200, CLOSED_MS = 50, CLOSED_MS_MAX = 1000, MAX_POLL = 3 + MAX_CHANNELS * 4 + MAX_KEPT * 3 };

bool in_guest;
const char *root_prefix = "";

static int listener = -1;

/* ---- the port ---- */

static int open_port(const char *path) { return open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC); }

/* Without udev there is no /dev/virtio-ports, but sysfs knows the names. */
static int search_port(void) {
  DIR *all = opendir("/sys/class/virtio-ports");
  struct dirent *entry;
  int fd = -1;
  while (all && fd < 0 && (entry = readdir(all))) {
    char path[512], name[64];
    if (*entry->d_name == '.') continue;
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
    if (read_file(path, name, sizeof name) < 0) continue;
    name[strcspn(name, "\n")] = 0;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    if (!strcmp(name, port_name)) fd = open_port(path);
  }
  if (all) closedir(all);
  return fd;
}

static int find_port(const char *path) {
  struct stat s;
  for (int pause = PORT_MS;; pause = pause < PORT_MS_MAX / 2 ? pause * 2 : PORT_MS_MAX) {
    int fd = path ? open_port(path) : open_port("/dev/virtio-ports/carrel.agent.0");
    if (fd < 0 && !path) fd = search_port();
    if (fd >= 0 && !fstat(fd, &s) && S_ISCHR(s.st_mode)) {
      fcntl(fd, F_SETOWN, getpid());
      fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC); /* SIGIO when the host opens or closes its end */
      return fd;
    }
    if (fd >= 0) close(fd);
    usleep((useconds_t)pause * 1000);
  }
}

static int test_port(const char *where) {
  if (strncmp(where, "fd:", 3)) {
    listener = listen_on(where);
    return -1;
  }
  int fd = atoi(where + 3);
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) || set_nonblocking(fd)) {
    perror(where);
    _exit(2);
  }
  return fd;
}

/* The host has gone: for a virtio port the descriptor stays, and the next host comes to the same one. */
static void host_gone(void) {
  channels_reset();
  link_reset();
  if (in_guest) return;
  close(host.fd);
  host.fd = -1;
  if (listener < 0) _exit(0);
}

/* ---- the loop ---- */

static bool channel_step(struct channel *c) {
  switch (c->kind) {
    case C_RUN: case C_JOB: return run_step(c);
    case C_VIEW: return view_step(c);
    case C_READ: return read_step(c);
    default: return false;
  }
}

static size_t channel_poll(const struct channel *c, struct pollfd *p) {
  const struct program *one = &c->program;
  size_t n = 0;
  if (c->kind != C_RUN && c->kind != C_JOB) return 0;
  if (one->starting) p[n++] = (struct pollfd){ one->status, POLLIN, 0 };
  if (one->in >= 0 && buf_size(&one->input)) p[n++] = (struct pollfd){ one->in, POLLOUT, 0 };
  for (int i = 0; i < 2; i++)
    if (one->out[i] >= 0 && c->id && c->credit && link_room()) p[n++] = (struct pollfd){ one->out[i], POLLIN, 0 };
  return n;
}

/* Everything that can be done without waiting; true: there may be more. */
static bool work(void) {
  struct frame f;
  bool moved = false;
  while (buf_size(&host.out) < OUT_FULL && link_frame(&f)) {
    channel_obey(&f);
    link_consume(&f);
    moved = true;
  }
  for (int i = 0; i < MAX_CHANNELS; i++) moved |= channel_step(&channels[i]);
  return moved | kept_step();
}

static void reap(int signals) {
  struct signalfd_siginfo info;
  while (read(signals, &info, sizeof info) == (ssize_t)sizeof info) { }
  for (int i = 0; i < MAX_CHANNELS; i++)
    if (channels[i].kind != C_FREE) program_reap(&channels[i].program);
  kept_reap();
}

/* Milliseconds until a program's time is up; -1: no limit runs. */
static int next_limit(void) {
  double now = now_ms(), next = 3600e3;
  for (int i = 0; i < MAX_CHANNELS; i++)
    if (channels[i].kind != C_FREE) program_late(&channels[i].program, now, &next);
  return next < 3600e3 ? (int)next + 1 : -1;
}

static void run_for_ever(int signals) {
  static struct pollfd p[MAX_POLL];
  int pause = CLOSED_MS;
  bool open = true; /* the host's end, as far as we know */
  for (;;) {
    bool more = work();
    if (host.fd >= 0 && link_flush()) host_gone(), open = false;
    int wait = next_limit();
    if (in_guest && !open && (wait < 0 || wait > pause)) wait = pause;
    bool read_more = host.fd >= 0 && open && buf_size(&host.out) < OUT_FULL;
    p[0] = (struct pollfd){ signals, POLLIN, 0 };
    p[1] = (struct pollfd){ open ? host.fd : -1, (short)((read_more ? POLLIN : 0) | (buf_size(&host.out) ? POLLOUT : 0)), 0 };
    p[2] = (struct pollfd){ host.fd < 0 ? listener : -1, POLLIN, 0 };
    size_t n = 3;
    for (int i = 0; i < MAX_CHANNELS; i++) n += channel_poll(&channels[i], p + n);
    n += kept_poll(p + n, MAX_POLL - n);
    if (poll(p, n, more ? 0 : wait) < 0 && errno != EINTR) _exit(1);
    reap(signals);
    if (p[2].revents) {
      host.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
      open = true;
      continue;
    }
    if (host.fd < 0) continue;
    if (in_guest && !open) { /* has it come back? */
      struct pollfd look = { host.fd, POLLIN | POLLOUT, 0 };
      open = poll(&look, 1, 0) >= 0 && !(look.revents & POLLHUP);
      pause = open ? CLOSED_MS : pause < CLOSED_MS_MAX / 2 ? pause * 2 : CLOSED_MS_MAX;
      continue;
    }
    bool closed = (p[1].revents & (POLLHUP | POLLERR)) && !(p[1].revents & POLLIN);
    if (closed || ((p[1].revents & POLLIN) && link_fill())) host_gone(), open = host.fd < 0;
  }
}

/* At start the disk may be larger than the image was. Nobody waits for it, and nobody minds if it cannot be done. */
static void grow_at_start(void) {
  struct in nothing = { 0 };
  struct channel *c = channel_new(C_JOB, UINT32_MAX);
  if (!c) return;
  c->id = 0;
  if (program_job(&c->program, grow_job, &nothing, 0)) channel_free(c);
}

int main(int argc, char **argv) {
  bool test = argc >= 3 && !strcmp(argv[1], "--foreground");
  if (test ? argc != 3 && !(argc == 5 && !strcmp(argv[3], "--root")) : argc > 2) {
    fputs("usage: agent [PORT]\n", stderr);
    return 2;
  }
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD), sigaddset(&set, SIGIO);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN), signal(SIGHUP, SIG_IGN);
  int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0) return 1;
  if (test) {
    if (argc == 5) root_prefix = argv[4];
    prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0); /* a test that is killed leaves nothing behind */
    host.fd = test_port(argv[2]);
    if (host.fd < 0 && listener < 0) {
      perror(argv[2]);
      return 1;
    }
  } else {
    write_file("/proc/self/oom_score_adj", "-1000");
    host.fd = find_port(argc == 2 ? argv[1] : NULL);
    in_guest = true;
    grow_at_start();
  }
  run_for_ever(signals);
}
