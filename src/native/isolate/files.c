/*
 * Files into the work directory before the program starts, and out of it when all is dead. The session does
 * both, through a descriptor of the directory, so nothing inside takes part in it.
 */
#define _GNU_SOURCE
#include "isolate.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 64, SEND_MS = 30000 };
static const uint64_t strict = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;

/* New files must belong to the sandbox: its tmpfs refuses ids it does not know (EOVERFLOW). */
static void write_as(uid_t uid, gid_t gid) {
  setfsgid(gid);
  setfsuid(uid);
}

static int copy_file(int from, int to) {
  char data[CHUNK];
  ssize_t n;
  while ((n = read(from, data, sizeof data)) > 0)
    for (ssize_t done = 0, w; done < n; done += w)
      if ((w = write(to, data + done, (size_t)(n - done))) < 0) return -1;
  return n < 0 ? -1 : 0;
}

static int copy_entry(int from_dir, const char *from, int to_dir, const char *to, const struct stat *owner, int depth);

static int copy_tree(int from, int to_dir, const char *to, const struct stat *owner, int depth) {
  if (depth > MAX_DEPTH) { errno = ELOOP; return -1; }
  write_as(owner->st_uid, owner->st_gid);
  int made = mkdirat(to_dir, to, 0755) && errno != EEXIST ? -1 : openat(to_dir, to, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  write_as(0, 0);
  int list = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = list < 0 ? NULL : fdopendir(list);
  int result = made < 0 || !dir ? -1 : 0;
  struct dirent *e;
  while (!result && (errno = 0, e = readdir(dir))) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    result = copy_entry(from, e->d_name, made, e->d_name, owner, depth + 1);
  }
  int error = errno;
  if (dir) closedir(dir);
  else if (list >= 0) close(list);
  if (made >= 0) close(made);
  errno = error;
  return result;
}

static int copy_entry(int from_dir, const char *from, int to_dir, const char *to, const struct stat *owner, int depth) {
  struct stat s;
  if (fstatat(from_dir, from, &s, AT_SYMLINK_NOFOLLOW)) return -1;
  if (S_ISLNK(s.st_mode)) {
    char text[4096];
    ssize_t n = readlinkat(from_dir, from, text, sizeof text - 1);
    if (n < 0) return -1;
    text[n] = 0;
    write_as(owner->st_uid, owner->st_gid);
    int result = symlinkat(text, to_dir, to);
    write_as(0, 0);
    return result;
  }
  if (!S_ISDIR(s.st_mode) && !S_ISREG(s.st_mode)) { errno = EINVAL; return -1; }
  int in = openat(from_dir, from, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (in < 0) return -1;
  int result;
  if (S_ISDIR(s.st_mode)) result = copy_tree(in, to_dir, to, owner, depth);
  else {
    write_as(owner->st_uid, owner->st_gid);
    int out = openat(to_dir, to, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, s.st_mode & 0111 ? 0755 : 0644);
    write_as(0, 0);
    result = out < 0 ? -1 : copy_file(in, out);
    if (out >= 0) close(out);
  }
  int error = errno;
  close(in);
  errno = error;
  return result;
}

/* Copies a file or a tree of the host to a path of the work directory; missing parents are made. */
int copy_into(struct run *run, const char *from, const char *to) {
  struct stat owner;
  char path[4096];
  while (*to == '/') to++;
  if (fstat(run->work, &owner) || snprintf(path, sizeof path, "%s", *to ? to : ".") >= (int)sizeof path) return fail(run, to, ENAMETOOLONG);
  int dir = fcntl(run->work, F_DUPFD_CLOEXEC, 3);
  char *name = path, *slash;
  while (dir >= 0 && (slash = strchr(name, '/'))) {
    *slash = 0;
    write_as(owner.st_uid, owner.st_gid);
    int next = mkdirat(dir, name, 0755) && errno != EEXIST ? -1 : open_in(dir, name, O_PATH | O_DIRECTORY, strict);
    write_as(0, 0);
    close(dir);
    dir = next;
    name = slash + 1;
  }
  int result = dir < 0 ? -1 : copy_entry(AT_FDCWD, from, dir, name, &owner, 0);
  int error = errno;
  if (dir >= 0) close(dir);
  return result ? fail(run, from, error) : 0;
}

static void send_piece(struct run *run, uint32_t index, char state, const char *data, size_t n) {
  static char frame[5 + CHUNK];
  memcpy(frame, &index, 4);
  frame[4] = state;
  if (n) memcpy(frame + 5, data, n);
  peer_send(run->client, 'F', frame, 5 + n);
  peer_drain(run->client, SEND_MS);
}

/* Frame F: u32 index, then 'm' more | 'e' end | 'x' errno name, then bytes. */
static void collect(struct run *run, uint32_t index, const char *path, double limit) {
  static char data[CHUNK];
  struct stat s;
  while (*path == '/') path++;
  int error = 0, fd = open_in(run->work, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW, strict);
  if (fd < 0) error = errno;
  else if (fstat(fd, &s)) error = errno;
  else if (!S_ISREG(s.st_mode)) error = EINVAL;
  else if ((double)s.st_size > limit) error = EFBIG;
  ssize_t n = 0;
  double total = 0;
  while (!error && (n = read(fd, data, sizeof data)) > 0) {
    total += (double)n;
    if (total > limit) error = EFBIG;
    else send_piece(run, index, 'm', data, (size_t)n);
  }
  if (n < 0) error = errno;
  if (fd >= 0) close(fd);
  const char *name = error ? strerrorname_np(error) : "";
  send_piece(run, index, error ? 'x' : 'e', name, strlen(name));
}

void collect_files(struct run *run) {
  uint32_t index = 0;
  if (run->work < 0) return;
  for (int i = 0; i < run->plan.n; i++) {
    struct op *op = &run->plan.op[i];
    double limit;
    if (strcmp(op->def->name, "collect")) continue;
    if (parse_number(op->arg[1], &limit)) limit = 0;
    collect(run, index++, op->arg[0], limit);
  }
}
