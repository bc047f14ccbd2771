/* Reads and writes a file, in pieces, so that one of 1 GiB needs no more memory than one of 1 KiB. */
#define _GNU_SOURCE
#include "agent.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- read ---- */

void read_request(uint32_t id, struct in *in) {
  const char *path = in_text(in);
  uint64_t most = in_u64(in);
  uint32_t credit = in_u32(in);
  struct stat s;
  unsigned char facts[12];
  if (in->bad || *path != '/') { channel_failed(id, "request", EINVAL); return; }
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC); /* a FIFO must not hold us up */
  int error = fd < 0 || fstat(fd, &s) ? errno : S_ISDIR(s.st_mode) ? EISDIR : !S_ISREG(s.st_mode) ? EINVAL : (uint64_t)s.st_size > most ? EFBIG : 0;
  struct channel *c = error ? (channel_failed(id, "read", error), NULL) : channel_new(C_READ, id);
  if (!c) {
    if (fd >= 0) close(fd);
    return;
  }
  c->file = fd, c->size = most, c->credit = credit;
  put32(facts, s.st_mode & 07777);
  put64(facts + 4, (uint64_t)s.st_size);
  link_send(T_FILE, id, facts, sizeof facts);
}

bool read_step(struct channel *c) {
  static char data[PIECE];
  if (!c->credit || !link_room()) return false;
  ssize_t n = read(c->file, data, c->credit < PIECE ? (size_t)c->credit : PIECE);
  int error = n < 0 ? errno : 0;
  if (error == EINTR) return true;
  if (n > 0 && (c->done += (uint64_t)n) > c->size) error = EFBIG; /* it grew meanwhile */
  if (error) channel_failed(c->id, "read", error);
  else if (n == 0) link_send(T_DONE, c->id, NULL, 0);
  else {
    c->credit -= (uint64_t)n;
    link_send(T_STDOUT, c->id, data, (size_t)n);
    return true;
  }
  channel_free(c);
  return true;
}

/* ---- write ---- */

static void temporary_name(char *to, size_t size) {
  unsigned char random[8] = { 0 };
  if (getrandom(random, sizeof random, GRND_NONBLOCK) < 0) put64(random, (uint64_t)(now_ms() * 1e6)); /* a name, not a secret */
  snprintf(to, size, ".carrel-%02x%02x%02x%02x%02x%02x", random[0], random[1], random[2], random[3], random[4], random[5]);
}

/* The directory stays open: its name may change, and the new file must not end up elsewhere. */
static int open_beside(struct channel *c) {
  char *slash = strrchr(c->path, '/');
  struct stat s;
  if (!slash || !slash[1] || !strcmp(slash + 1, ".") || !strcmp(slash + 1, "..")) return EINVAL;
  *slash = 0;
  c->directory = open(*c->path ? c->path : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  int error = errno;
  *slash = '/';
  if (c->directory < 0) return error;
  if (!fstatat(c->directory, slash + 1, &s, 0) && !S_ISREG(s.st_mode)) return S_ISDIR(s.st_mode) ? EISDIR : EINVAL;
  temporary_name(c->temporary, sizeof c->temporary);
  c->file = openat(c->directory, c->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (c->file < 0) return error = errno, *c->temporary = 0, error;
  return 0;
}

void write_request(uint32_t id, struct in *in) {
  const char *path = in_text(in);
  uint32_t mode = in_u32(in);
  if (in->bad || *path != '/' || mode > 07777) { channel_failed(id, "request", EINVAL); return; }
  struct channel *c = channel_new(C_WRITE, id);
  if (!c) return;
  /* Through a link, as a program in the guest would write: the new content goes to what it leads to. */
  c->path = realpath(path, NULL);
  if (!c->path) c->path = strdup(path);
  c->mode = mode;
  int error = c->path ? open_beside(c) : ENOMEM;
  if (error) channel_failed(id, "write", error), write_abandon(c), channel_free(c);
}

static void write_failed(struct channel *c, int error) {
  channel_failed(c->id, "write", error);
  write_abandon(c);
  channel_free(c);
}

void write_piece(struct channel *c, const void *data, size_t n) {
  const char *at = data;
  c->outstanding = n;
  while (n) {
    ssize_t done = write(c->file, at, n);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) { write_failed(c, done ? errno : EIO); return; }
    at += done, n -= (size_t)done;
  }
  channel_taken(c, 0);
}

void write_finish(struct channel *c) {
  if (fchmod(c->file, c->mode) || fsync(c->file) || renameat(c->directory, c->temporary, c->directory, strrchr(c->path, '/') + 1)) {
    write_failed(c, errno);
    return;
  }
  *c->temporary = 0;
  link_send(T_DONE, c->id, NULL, 0);
  channel_free(c);
}

void write_abandon(struct channel *c) {
  if (*c->temporary && c->directory >= 0) unlinkat(c->directory, c->temporary, 0);
  *c->temporary = 0;
}
