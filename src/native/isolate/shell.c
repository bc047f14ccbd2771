/*
 * `isolate PROGRAM [ARGS...]`: the program as process 1 of new user, pid, mount, uts, ipc and network
 * namespaces, on the host's files. It is one plan, written in the language of all plans; as an ordinary user
 * the own id becomes root, as root all ids keep their numbers.
 *
 * Network: veth0 10.11.12.13/24 and peer0 10.11.12.14/24. The program has peer0; veth0 is in a second
 * namespace of the run's own, so the host sees neither, runs do not disturb each other, and nothing is left.
 */
#define _GNU_SOURCE
#include "isolate.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct buf text;

static void say(const char *first, ...) __attribute__((sentinel));
static void say(const char *first, ...) {
  va_list list;
  va_start(list, first);
  for (const char *s = first; s; s = va_arg(list, const char *)) buf_add(&text, s, strlen(s) + 1);
  va_end(list);
}

static void map_ids(void) {
  char uid[16], gid[16];
  snprintf(uid, sizeof uid, "%u", geteuid());
  snprintf(gid, sizeof gid, "%u", getegid());
  bool root = geteuid() == 0;
  say("map", "uid", "0", root ? "0" : uid, root ? "4294967295" : "1", NULL);
  say("map", "gid", "0", root ? "0" : gid, root ? "4294967295" : "1", NULL);
}

int shell(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: isolate PROGRAM [ARGS...]\n");
    return 1;
  }
  char *here = getcwd(NULL, 0);
  for (int i = 0; i < 3; i++) say("stdio", (const char *[]){ "0", "1", "2" }[i], "inherit", "", NULL);
  say("namespaces", "user,pid,mnt,uts,ipc,net", NULL);
  map_ids();
  say("hold-net", NULL);
  say("identity", "0", "0", "", NULL);
  say("hostname", "isolated", NULL);
  say("private", NULL);
  say("cwd", "/", NULL);
  say("mount", "proc", "proc", "/proc", "nosuid,nodev,noexec", "", NULL);
  say("veth", "veth0", "10.11.12.13", "peer0", "10.11.12.14", NULL);
  say("link-up", "lo", NULL);
  if (here) say("cwd", here, NULL);
  for (char **e = environ; *e; e++)
    if (strchr(*e, '=') && **e != '=') say("env", *e, NULL);
  for (int i = 1; i < argc; i++) say("arg", argv[i], NULL);

  struct plan plan;
  struct run run;
  char why[128];
  if (plan_parse(&plan, buf_data(&text), buf_size(&text), why, sizeof why)) {
    fprintf(stderr, "isolate: %s\n", why);
    return 125;
  }
  run_init(&run, NULL, &plan);
  bool failed = run_execute(&run) || run.exec_errno < 0;
  plan_free(&plan);
  buf_free(&text);
  free(here);
  if (failed) return 125;
  return WIFSIGNALED(run.exit_status) ? 128 + WTERMSIG(run.exit_status) : WEXITSTATUS(run.exit_status);
}
