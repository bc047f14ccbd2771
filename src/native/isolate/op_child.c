/* Operations of the child: who it is, what it may do, what it becomes. */
#define _GNU_SOURCE
#include "ops.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int become(const struct run *run, uid_t uid, gid_t gid, size_t ngroups, const gid_t *groups) {
  if (setgroups(ngroups, groups) && errno != EPERM) return -1; /* EPERM: denied for this user namespace */
  if (setresgid(gid, gid, gid) || setresuid(uid, uid, uid)) return -1;
  /* The change sets this to fs.suid_dumpable, which an administrator may have made 1: then whoever has the same
   * id inside could look at us, and at what we still hold of the host. The program gets its own by execve. */
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)) return -1;
  return die_with_session(run); /* a change of identity forgets it */
}

int identity_child(struct run *run, struct op *op) {
  double uid, gid, group;
  gid_t groups[8];
  size_t n = 0;
  if (parse_number(op->arg[0], &uid) || parse_number(op->arg[1], &gid)) return fail(run, op->arg[0], errno);
  for (char *save, *item = strtok_r(op->arg[2], ",", &save); item; item = strtok_r(NULL, ",", &save)) {
    if (n == sizeof groups / sizeof *groups || parse_number(item, &group)) return fail(run, item, EINVAL);
    groups[n++] = (gid_t)group;
  }
  return become(run, (uid_t)uid, (gid_t)gid, n, groups);
}

int hostname_child(struct run *run, struct op *op) {
  (void)run;
  return sethostname(op->arg[0], strlen(op->arg[0]));
}

static const struct { const char *name; int resource; } limits[] = {
  { "core", RLIMIT_CORE }, { "fsize", RLIMIT_FSIZE }, { "nofile", RLIMIT_NOFILE }, { "cpu", RLIMIT_CPU },
  { "memlock", RLIMIT_MEMLOCK }, { "msgqueue", RLIMIT_MSGQUEUE }, { "nproc", RLIMIT_NPROC }, { "as", RLIMIT_AS },
  { "stack", RLIMIT_STACK }, { "sigpending", RLIMIT_SIGPENDING },
};

int rlimit_child(struct run *run, struct op *op) {
  double value;
  if (parse_number(op->arg[1], &value)) return fail(run, op->arg[1], errno);
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
    if (!strcmp(limits[i].name, op->arg[0])) {
      struct rlimit l = { (rlim_t)value, (rlim_t)value };
      return setrlimit((__rlimit_resource_t)limits[i].resource, &l);
    }
  return fail(run, op->arg[0], EINVAL);
}

/* From here on the plan goes on in a child of process 1: the program must not be 1 itself, for 1 ignores
 * the signals it would die of, and its orphans are nobody's. */
int init_child(struct run *run, struct op *op) {
  (void)op;
  pid_t program = fork();
  if (program < 0) return -1;
  if (program > 0) sandbox_init(run, program);
  return 0;
}

int leader_child(struct run *run, struct op *op) {
  (void)run, (void)op;
  return setsid() < 0 && errno != EPERM ? -1 : 0;
}

int caps_child(struct run *run, struct op *op) {
  bool bounding = !strcmp(op->arg[0], "bounding");
  if (!strcmp(op->arg[0], "all")) return 0;
  if (!bounding && strcmp(op->arg[0], "none")) return fail(run, op->arg[0], EINVAL);
  for (unsigned long cap = 0; cap < 64; cap++)
    if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0)) {
      if (errno == EINVAL && cap > CAP_SETPCAP) break; /* one past the kernel's last */
      return fail(run, "bounding set", errno);
    }
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)) return fail(run, "ambient set", errno);
  struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
  struct __user_cap_data_struct sets[2] = { 0 };
  /* What is left is needed to become somebody else, and the kernel takes it away with that. */
  if (bounding && syscall(SYS_capget, &head, sets)) return fail(run, "capabilities", errno);
  sets[0].inheritable = sets[1].inheritable = 0;
  return (int)syscall(SYS_capset, &head, sets);
}

int no_new_privs_child(struct run *run, struct op *op) {
  (void)run, (void)op;
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int seccomp_child(struct run *run, struct op *op) {
  (void)run;
  return seccomp_install(op->arg[0]);
}

int join_child(struct run *run, struct op *op) {
  uint64_t here = run->join & ~(uint64_t)CLONE_NEWPID;
  if (here && setns(run->target, (int)here)) return fail(run, op->arg[1], errno);
  return 0;
}

int unshare_child(struct run *run, struct op *op) {
  uint64_t flags;
  (void)run;
  if (namespace_flags(op->arg[0], &flags)) return -1;
  return unshare((int)flags);
}

static int append(char ***list, int *count, char *text) {
  char **more = realloc(*list, sizeof *more * (size_t)(*count + 2));
  if (!more) return -1;
  more[(*count)++] = text;
  more[*count] = NULL;
  *list = more;
  return 0;
}

int env_child(struct run *run, struct op *op) {
  if (!strchr(op->arg[0], '=') || op->arg[0][0] == '=') return fail(run, op->arg[0], EINVAL);
  return append(&run->envp, &run->envc, op->arg[0]);
}

int arg_child(struct run *run, struct op *op) { return append(&run->argv, &run->argc, op->arg[0]); }

int cwd_child(struct run *run, struct op *op) {
  (void)run;
  return chdir(op->arg[0]);
}

int self_child(struct run *run, struct op *op) {
  (void)op;
  run->self = true;
  return 0;
}

/* The session puts the copies in and, after the end, takes the collected files out: itself, with nothing of
 * the sandbox running any more. */
int work_child(struct run *run, struct op *op) {
  int fd = open(op->arg[0], O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  struct note note = { .kind = NOTE_WORK };
  if (note_send(run->status, &note, fd)) return -1;
  close(fd);
  char go;
  return read(run->status, &go, 1) == 1 ? 0 : fail(run, "waiting for the copies", EPIPE);
}

int pty_child(struct run *run, struct op *op) {
  (void)op;
  struct stat s;
  int unlock = 0;
  int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (master < 0) return fail(run, "/dev/pts/ptmx", errno);
  if (fstat(master, &s) || !S_ISCHR(s.st_mode) || ioctl(master, TIOCSPTLCK, &unlock)) return fail(run, "/dev/pts/ptmx", ENOTTY);
  int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) return fail(run, "pty", errno);
  struct winsize size = { .ws_row = (unsigned short)run->rows, .ws_col = (unsigned short)run->columns };
  if (ioctl(slave, TIOCSWINSZ, &size)) return fail(run, "pty size", errno);
  if ((setsid() < 0 && errno != EPERM) || ioctl(slave, TIOCSCTTY, 0)) return fail(run, "controlling terminal", errno);
  struct note note = { .kind = NOTE_PTY };
  if (note_send(run->status, &note, master)) return -1;
  close(master);
  for (int i = 0; i < 3; i++) {
    run->stdio[i].kind = IO_FD;
    run->stdio[i].theirs = fcntl(slave, F_DUPFD_CLOEXEC, 3);
    if (run->stdio[i].theirs < 0) return -1;
  }
  return close(slave);
}

/* The terminal passes every byte as it is, both ways: a serial line, whose other end has a terminal of its own. */
int raw_child(struct run *run, struct op *op) {
  (void)op;
  struct termios t;
  if (!run->tty || tcgetattr(run->stdio[0].theirs, &t)) return fail(run, "pty", ENOTTY);
  cfmakeraw(&t);
  t.c_oflag &= ~(tcflag_t)ONLCR; /* also when the program allows processing again, as QEMU does */
  return tcsetattr(run->stdio[0].theirs, TCSANOW, &t);
}

/* ---- who: by the guest's own tables ---- */

static int variable(struct run *run, const char *name, const char *value) {
  char *text;
  size_t length = strlen(name);
  for (int i = 0; i < run->envc; i++) /* what the plan says, wins */
    if (!strncmp(run->envp[i], name, length) && run->envp[i][length] == '=') return 0;
  return asprintf(&text, "%s=%s", name, value) < 0 ? -1 : append(&run->envp, &run->envc, text);
}

int user_child(struct run *run, struct op *op) {
  struct account a = { .name = "root", .home = "/root", .shell = "/bin/sh" };
  if (!find_account(op->arg[0], &a) && strcmp(op->arg[0], "0") && strcmp(op->arg[0], "root")) {
    double uid;
    if (parse_number(op->arg[0], &uid)) return fail(run, op->arg[0], ENOENT);
    a = (struct account){ .home = "/", .shell = "/bin/sh", .uid = (unsigned)uid, .gid = (unsigned)uid };
    snprintf(a.name, sizeof a.name, "%u", a.uid);
  }
  gid_t groups[64];
  size_t n = find_groups(a.name, groups, 64);
  if (variable(run, "HOME", a.home) || variable(run, "USER", a.name) || variable(run, "LOGNAME", a.name) || variable(run, "SHELL", a.shell)) return -1;
  return become(run, a.uid, a.gid, n, groups);
}

/* ---- network ---- */

static int with_netlink(int (*act)(int, struct op *), struct op *op) {
  int fd = net_open();
  if (fd < 0) return -1;
  int result = act(fd, op), error = errno;
  close(fd);
  errno = error;
  return result;
}
static int act_up(int fd, struct op *op) { return net_up(fd, op->arg[0]); }
static int act_mac(int fd, struct op *op) { return net_mac(fd, op->arg[0], op->arg[1]); }
static int act_address(int fd, struct op *op) { return net_address(fd, op->arg[0], op->arg[1], atoi(op->arg[2])); }
static int act_gateway(int fd, struct op *op) { return net_gateway(fd, op->arg[0]); }

int link_up_child(struct run *run, struct op *op) {
  (void)run;
  return with_netlink(act_up, op);
}
int mac_child(struct run *run, struct op *op) { (void)run; return with_netlink(act_mac, op); }
int address_child(struct run *run, struct op *op) { (void)run; return with_netlink(act_address, op); }
int gateway_child(struct run *run, struct op *op) { (void)run; return with_netlink(act_gateway, op); }

/*
 * A veth pair between two namespaces of our own, so that nothing appears in the host's: the one the child was
 * born in becomes the "outside" (the session holds it open), and the child moves on into a fresh "inside".
 */
int veth_child(struct run *run, struct op *op) {
  const char *outer = op->arg[0], *inner = op->arg[2];
  int outside = net_open();
  if (outside < 0 || net_up(outside, "lo")) return fail(run, "lo outside", errno);
  if (unshare(CLONE_NEWNET)) return fail(run, "network namespace", errno);
  int here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), inside = net_open();
  if (here < 0 || inside < 0) return fail(run, "network namespace", errno);
  if (net_veth(outside, outer, inner, here)) return fail(run, "veth", errno);
  if (net_address(outside, outer, op->arg[1], 24) || net_up(outside, outer)) return fail(run, outer, errno);
  if (net_address(inside, inner, op->arg[3], 24) || net_up(inside, inner)) return fail(run, inner, errno);
  close(here), close(outside), close(inside);
  return 0;
}
