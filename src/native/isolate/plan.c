/*
 * A plan is a list of operations: NUL-terminated strings, the name and then its fixed number of arguments.
 * Each operation has up to three parts: in the session before the clone, in the session while the child
 * waits, and in the child. The parts of one stage run in the order of the plan.
 */
#define _GNU_SOURCE
#include "ops.h"
#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const struct op_def table[] = {
  /* name           arguments                          before                 after                child */
  /* limits and accounting */
  { "limit",        2 /* wall_ms|cpu_ms|output_bytes N */, limit_before,       NULL,                NULL },
  { "counter",      4 /* NAME PATH KEY SCALE */,         counter_before,       NULL,                NULL },
  { "write",        2 /* PATH TEXT */,                   write_before,         NULL,                NULL },
  { "join",         1 /* CGROUP.PROCS: the session */,   join_before,          NULL,                NULL },
  { "place",        1 /* CGROUP.PROCS: the child */,     NULL,                 place_after,         NULL },
  { "cgroup",       1 /* V2-DIRECTORY to be born in */,  cgroup_before,        NULL,                NULL },
  { "oom-adjust",   2 /* SESSION CHILD */,               oom_before,           oom_after,           NULL },
  /* namespaces and identity */
  { "namespaces",   1 /* user,pid,...: new ones */,      namespaces_before,    NULL,                NULL },
  { "target",       2 /* PID|machine, LIST: join */,     target_before,        NULL,                join_child },
  { "unshare",      1 /* LIST: later than the clone */,  NULL,                 NULL,                unshare_child },
  { "map",          4 /* uid|gid INSIDE OUTSIDE COUNT */, map_before,          NULL,                NULL },
  { "setgroups",    1 /* deny */,                        setgroups_before,     NULL,                NULL },
  { "identity",     3 /* UID GID GROUPS(,) */,           NULL,                 NULL,                identity_child },
  { "hostname",     1,                                   NULL,                 NULL,                hostname_child },
  { "prepare",      0 /* the next child ahead of time */, prepare_before,      NULL,                NULL },
  { "sync",         0 /* announce the pid, wait for 'g' */, NULL,              sync_after,          NULL },
  /* input and output */
  { "stdio",        3 /* 0..3 null|pipe|inherit|file|fd X, 4..7 fd X */, stdio_before,    NULL,                NULL },
  { "pty",          2 /* ROWS COLUMNS: stdio 0, 1, 2 */, pty_before,           NULL,                pty_child },
  { "raw",          0 /* of the pty: no echo, no lines */, NULL,               NULL,                raw_child },
  { "keep",         3 /* SOCKET LOCK REPORT */,          keep_before,          NULL,                NULL },
  { "record",       3 /* PATH HEAD-BYTES RING-BYTES */,  record_before,        NULL,                NULL },
  { "exec-server",  1 /* SOCKET */,                      exec_server_before,   NULL,                NULL },
  /* file systems in the session's own mount namespace */
  { "session-private", 0,                                session_private_before, NULL,              NULL },
  { "session-mkdir",   4 /* PATH MODE UID GID */,        session_mkdir_before, NULL,                NULL },
  { "session-mount",   5 /* TYPE SOURCE TARGET FLAGS DATA */, session_mount_before, NULL,           NULL },
  { "session-idmap",   2 /* SOURCE TARGET */,            NULL,                 idmap_after,         NULL },
  { "session-mount-late", 5 /* when the child's user namespace exists */, NULL, session_mount_after, NULL },
  /* file systems in the child */
  { "private",      0,                                   NULL,                 NULL,                private_child },
  { "root",         2 /* PATH FLAGS */,                  root_before,          NULL,                root_child },
  { "root-late",    1 /* PATH the session mounts late */, NULL,                late_root_after,     root_child },
  { "overlay-root", 2 /* PATH DIRECTORIES(:) */,         root_before,          NULL,                overlay_root_child },
  { "bind",         3 /* SOURCE TARGET FLAGS */,         bind_before,          NULL,                bind_child },
  { "mount",        5 /* TYPE SOURCE TARGET FLAGS DATA */, NULL,               NULL,                mount_child },
  { "dev",          1 /* NODES(,) */,                    NULL,                 NULL,                dev_child },
  { "remount",      2 /* TARGET FLAGS */,                NULL,                 NULL,                remount_child },
  { "mkdir",        2 /* PATH MODE */,                   NULL,                 NULL,                mkdir_child },
  { "touch",        2 /* PATH MODE */,                   NULL,                 NULL,                touch_child },
  { "symlink",      2 /* TO PATH */,                     NULL,                 NULL,                symlink_child },
  { "pivot",        0,                                   NULL,                 NULL,                pivot_child },
  { "work",         1 /* DIRECTORY handed to the session */, NULL,             NULL,                work_child },
  { "copy",         2 /* HOST-PATH PATH-IN-WORK */,      NULL,                 NULL,                NULL },
  { "collect",      2 /* PATH-IN-WORK MAX-BYTES */,      NULL,                 NULL,                NULL },
  /* network */
  { "link-up",      1,                                   NULL,                 NULL,                link_up_child },
  { "mac",          2 /* LINK MAC */,                    NULL,                 NULL,                mac_child },
  { "address",      3 /* LINK ADDRESS PREFIX */,         NULL,                 NULL,                address_child },
  { "gateway",      1,                                   NULL,                 NULL,                gateway_child },
  { "hold-net",     0 /* keep the child's first netns */, NULL,                hold_net_after,      NULL },
  { "veth",         4 /* OUTER ADDRESS INNER ADDRESS */, NULL,                 NULL,                veth_child },
  /* the program */
  { "init",         0 /* ours is process 1 */,           init_before,          NULL,                init_child },
  { "leader",       0 /* setsid */,                      NULL,                 NULL,                leader_child },
  { "rlimit",       2 /* NAME VALUE */,                  NULL,                 NULL,                rlimit_child },
  { "user",         1 /* NAME|UID of the guest */,       NULL,                 NULL,                user_child },
  { "caps",         1 /* none|all|bounding */,                 NULL,                 NULL,                caps_child },
  { "no-new-privs", 0,                                   NULL,                 NULL,                no_new_privs_child },
  { "seccomp",      1 /* sandbox|machine */,             NULL,                 NULL,                seccomp_child },
  { "env",          1 /* NAME=VALUE */,                  NULL,                 NULL,                env_child },
  { "cwd",          1,                                   NULL,                 NULL,                cwd_child },
  { "self",         0 /* the program is this binary */,  NULL,                 NULL,                self_child },
  { "arg",          1,                                   NULL,                 NULL,                arg_child },
};
/* clang-format on */

static const struct op_def *lookup(const char *name) {
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (!strcmp(table[i].name, name)) return &table[i];
  return NULL;
}

static int refuse(struct plan *plan, char *why, size_t size, const char *sentence, const char *name) {
  snprintf(why, size, sentence, name);
  plan_free(plan);
  return -1;
}

/* Takes a copy of the text: the strings of the operations point into it. */
int plan_parse(struct plan *plan, const char *text, size_t length, char *why, size_t whysize) {
  *plan = (struct plan){ 0 };
  if (length == 0 || length > MAX_PLAN) return refuse(plan, why, whysize, "a plan has 1 to 1048576 bytes%s", "");
  if (text[length - 1] != 0) return refuse(plan, why, whysize, "the last string of the plan has no end%s", "");
  plan->text = malloc(length);
  size_t strings = 0;
  for (size_t i = 0; i < length; i++) strings += text[i] == 0;
  plan->op = calloc(strings < MAX_OPS ? strings : MAX_OPS, sizeof *plan->op);
  if (!plan->text || !plan->op) return refuse(plan, why, whysize, "no memory for the plan%s", "");
  memcpy(plan->text, text, length);
  plan->length = length;
  char *at = plan->text, *end = at + length;
  while (at < end) {
    const struct op_def *def = lookup(at);
    if (!def) return refuse(plan, why, whysize, "unknown operation: %.64s", at);
    if (plan->n == MAX_OPS) return refuse(plan, why, whysize, "too many operations, at %.64s", at);
    struct op *op = &plan->op[plan->n];
    *op = (struct op){ .def = def, .fd = -1 };
    at += strlen(at) + 1;
    for (int i = 0; i < def->nargs; i++) {
      if (at >= end) return refuse(plan, why, whysize, "too few arguments for %.64s", def->name);
      op->arg[i] = at;
      at += strlen(at) + 1;
    }
    plan->n++;
  }
  return 0;
}

void plan_free(struct plan *plan) {
  free(plan->op);
  free(plan->text);
  *plan = (struct plan){ 0 };
}
