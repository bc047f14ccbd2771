/* Small things everyone needs. */
#define _GNU_SOURCE
#include "isolate.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

int write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return -1;
  ssize_t n = write(fd, text, strlen(text));
  int error = errno;
  close(fd);
  errno = error;
  return n < 0 ? -1 : 0;
}

int read_file(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = read(fd, text, size - 1);
  int error = errno;
  close(fd);
  errno = error;
  if (n < 0) return -1;
  text[n] = 0;
  return (int)n;
}

double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

unsigned long long start_time(pid_t pid) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  if (read_file(path, text, sizeof text) < 0) return 0;
  char *at = strrchr(text, ')'); /* the name may hold anything; the rest is fields 3, 4, ... */
  if (!at) return 0;
  at++;
  for (int field = 3; field < 22; field++) {
    at = strchr(at + 1, ' ');
    if (!at) return 0;
  }
  return strtoull(at + 1, NULL, 10);
}

const char *signal_name(int signal) {
  static char name[32];
  const char *abbreviation = sigabbrev_np(signal);
  if (abbreviation) snprintf(name, sizeof name, "SIG%s", abbreviation);
  else snprintf(name, sizeof name, "SIG%d", signal);
  return name;
}

static const struct { const char *name; uint64_t flag; } namespaces[] = {
  { "user", CLONE_NEWUSER }, { "pid", CLONE_NEWPID }, { "mnt", CLONE_NEWNS }, { "uts", CLONE_NEWUTS },
  { "ipc", CLONE_NEWIPC }, { "net", CLONE_NEWNET }, { "cgroup", CLONE_NEWCGROUP }, { "time", CLONE_NEWTIME },
};

int namespace_flags(const char *list, uint64_t *flags) {
  *flags = 0;
  while (*list) {
    size_t length = strcspn(list, ",");
    bool known = false;
    for (size_t i = 0; i < sizeof namespaces / sizeof *namespaces; i++)
      if (strlen(namespaces[i].name) == length && !strncmp(namespaces[i].name, list, length)) {
        *flags |= namespaces[i].flag;
        known = true;
      }
    if (!known) { errno = EINVAL; return -1; }
    list += length;
    if (*list == ',') list++;
  }
  return 0;
}

int parse_number(const char *text, double *value) {
  char *end;
  errno = 0;
  *value = strtod(text, &end);
  if (end == text || *end || errno || !(*value >= 0 && *value <= 9e15)) { errno = EINVAL; return -1; }
  return 0;
}

int set_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

int fail(struct run *run, const char *object, int error) {
  snprintf(run->object, sizeof run->object, "%s", object);
  errno = error;
  return -1;
}

/* Opens a path that someone else may have prepared: symbolic links cannot lead out of `dir`. */
int open_in(int dir, const char *path, uint64_t flags, uint64_t resolve) {
  struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = resolve };
  return (int)syscall(SYS_openat2, dir, *path ? path : ".", &how, sizeof how);
}

/* A unix socket only its owner can use. Paths longer than 107 bytes go through /proc/self/fd. */
int listen_on(const char *path) {
  struct sockaddr_un a = { .sun_family = AF_UNIX };
  char copy[4096];
  int dir = -1;
  if (strlen(path) >= sizeof copy) { errno = ENAMETOOLONG; return -1; }
  strcpy(copy, path);
  if (strlen(path) < sizeof a.sun_path) strcpy(a.sun_path, path);
  else {
    char *slash = strrchr(copy, '/');
    if (!slash) { errno = ENAMETOOLONG; return -1; }
    *slash = 0;
    dir = open(copy, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return -1;
    if (snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/%.80s", dir, slash + 1) >= (int)sizeof a.sun_path) {
      close(dir);
      errno = ENAMETOOLONG;
      return -1;
    }
  }
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  unlink(path);
  mode_t old = umask(0177);
  int result = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&a, sizeof a);
  int error = errno;
  umask(old);
  if (!result) result = listen(fd, 128), error = errno;
  if (dir >= 0) close(dir);
  if (result && fd >= 0) close(fd);
  errno = error;
  return result ? -1 : fd;
}
