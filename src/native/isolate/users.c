/* The guest's own user tables, read as what they are, files somebody else wrote (passwd(5), group(5)); and the
 * search along PATH. */
#define _GNU_SOURCE
#include "isolate.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *guest_file(const char *path, size_t limit) {
  int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  struct stat s;
  char *text = NULL;
  if (fd >= 0 && !fstat(fd, &s) && S_ISREG(s.st_mode) && (text = calloc(1, limit + 1))) {
    size_t n = 0;
    ssize_t got;
    while (n < limit && (got = read(fd, text + n, limit - n)) > 0) n += (size_t)got;
  }
  if (fd >= 0) close(fd);
  return text;
}

static bool parse_account(char *line, struct account *a) {
  char *field[7];
  for (int i = 0; i < 7; i++)
    if (!(field[i] = strsep(&line, ":"))) return false;
  char *end1, *end2;
  a->uid = (unsigned)strtoul(field[2], &end1, 10);
  a->gid = (unsigned)strtoul(field[3], &end2, 10);
  if (!*field[2] || !*field[3] || *end1 || *end2) return false;
  snprintf(a->name, sizeof a->name, "%s", field[0]);
  snprintf(a->home, sizeof a->home, "%s", field[5]);
  snprintf(a->shell, sizeof a->shell, "%s", field[6]);
  return true;
}

bool find_account(const char *wanted, struct account *found) {
  char *text = guest_file("/etc/passwd", 1 << 20), *at = text, *line;
  bool ok = false;
  while (!ok && at && (line = strsep(&at, "\n"))) {
    struct account a;
    char uid[16];
    if (!parse_account(line, &a)) continue;
    snprintf(uid, sizeof uid, "%u", a.uid);
    if (!strcmp(a.name, wanted) || !strcmp(uid, wanted)) *found = a, ok = true;
  }
  free(text);
  return ok;
}

size_t find_groups(const char *member, gid_t *groups, size_t room) {
  char *text = guest_file("/etc/group", 1 << 20), *at = text, *line;
  size_t n = 0;
  while (at && (line = strsep(&at, "\n"))) {
    char *name = strsep(&line, ":"), *password = strsep(&line, ":"), *id = strsep(&line, ":"), *one;
    if (!name || !password || !id || !line) continue;
    while ((one = strsep(&line, ",")))
      if (!strcmp(one, member) && n < room) groups[n++] = (gid_t)strtoul(id, NULL, 10);
  }
  free(text);
  return n;
}

static const char *path_variable(char **envp) {
  for (; *envp; envp++)
    if (!strncmp(*envp, "PATH=", 5)) return *envp + 5;
  return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/* execve along PATH, as a shell does: the first file found counts, unless it may not be executed. */
int execute_along(char **argv, char **envp) {
  const char *name = argv[0];
  if (strchr(name, '/')) return execve(name, argv, envp), errno;
  int error = ENOENT;
  const char *path = path_variable(envp);
  for (;;) {
    size_t n = strcspn(path, ":");
    char full[4096];
    if (snprintf(full, sizeof full, "%.*s/%s", (int)(n ? n : 1), n ? path : ".", name) < (int)sizeof full) {
      execve(full, argv, envp);
      if (errno != ENOENT && errno != ENOTDIR) error = errno;
      if (error != ENOENT && error != EACCES) return error;
    }
    if (!path[n]) return error;
    path += n + 1;
  }
}
