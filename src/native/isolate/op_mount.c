/*
 * Operations on file systems, in the child. Before "pivot" the working directory is the new root, and every
 * target is resolved inside it: a symbolic link of the image cannot lead a mount elsewhere. Sources are opened
 * by the session as detached trees, because the child's id may not walk to them; without privileges the
 * session cannot, and the child binds by path.
 */
#define _GNU_SOURCE
#include "ops.h"
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sched.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where the new root is attached while it is furnished: any directory that every host has. */
#define STAGE "/tmp"

enum { FLAG_REC = 1 };
static const struct { const char *name; unsigned long mount; uint64_t attr; } flag_names[] = {
  { "ro", MS_RDONLY, MOUNT_ATTR_RDONLY }, { "nosuid", MS_NOSUID, MOUNT_ATTR_NOSUID },
  { "nodev", MS_NODEV, MOUNT_ATTR_NODEV }, { "noexec", MS_NOEXEC, MOUNT_ATTR_NOEXEC }, { "rw", 0, 0 },
};

static int flags_of(const char *list, unsigned long *mount, uint64_t *attr, bool *recursive) {
  *mount = 0, *attr = 0, *recursive = false;
  while (*list) {
    size_t length = strcspn(list, ",");
    bool known = length == 3 && !strncmp(list, "rec", 3);
    *recursive |= known;
    for (size_t i = 0; i < sizeof flag_names / sizeof *flag_names; i++)
      if (strlen(flag_names[i].name) == length && !strncmp(flag_names[i].name, list, length)) {
        *mount |= flag_names[i].mount;
        *attr |= flag_names[i].attr;
        known = true;
      }
    if (!known) { errno = EINVAL; return -1; }
    list += length;
    if (*list == ',') list++;
  }
  return 0;
}

static int inside(const char *path, uint64_t flags) {
  while (*path == '/') path++;
  return open_in(AT_FDCWD, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

/* mount(2) wants a path: the descriptor's own. */
static const char *path_of(int fd) {
  static char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  return path;
}

static int set_attributes(int fd, uint64_t attr, uint64_t propagation, bool recursive) {
  struct mount_attr a = { .attr_set = attr, .propagation = propagation };
  return (int)syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &a, sizeof a);
}

/* A clone is a peer of its original, and systemd shares all mounts of a host: without MS_PRIVATE it could not
 * become a root (pivot_root(2)), and what is mounted below it would appear on the host. */
int bind_before(struct run *run, struct op *op) {
  if (geteuid()) return 0; /* the child will bind by path */
  unsigned long mount;
  uint64_t attr;
  bool recursive;
  const char *flags = op->arg[op->def->nargs - 1];
  if (flags_of(flags, &mount, &attr, &recursive)) return fail(run, flags, errno);
  op->fd = (int)syscall(SYS_open_tree, AT_FDCWD, op->arg[0], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0));
  if (op->fd < 0) return -1;
  return set_attributes(op->fd, attr, MS_PRIVATE, recursive);
}

int root_before(struct run *run, struct op *op) {
  if (geteuid()) return 0;
  (void)run;
  op->fd = (int)syscall(SYS_open_tree, AT_FDCWD, op->arg[0], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  if (op->fd < 0) return -1;
  uint64_t attr = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  if (!strcmp(op->def->name, "root")) {
    unsigned long mount;
    bool recursive;
    if (flags_of(op->arg[1], &mount, &attr, &recursive)) return fail(run, op->arg[1], errno);
  }
  return set_attributes(op->fd, attr, MS_PRIVATE, false);
}

static int attach(int tree, const char *path) {
  return (int)syscall(SYS_move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
}

/* What the session has mounted for itself meanwhile: its tree goes to the child with "go", for the child's id
 * may not walk to the place, and its mount namespace is not the session's. */
int late_root_after(struct run *run, struct op *op) {
  run->late_root = (int)syscall(SYS_open_tree, AT_FDCWD, op->arg[0], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  return run->late_root < 0 ? -1 : 0;
}

int root_child(struct run *run, struct op *op) {
  if (run->late_root >= 0) op->fd = run->late_root;
  if (op->fd >= 0) {
    if (attach(op->fd, STAGE)) return fail(run, STAGE, errno);
    return fchdir(op->fd);
  }
  if (mount(op->arg[0], op->arg[0], NULL, MS_BIND | MS_REC, NULL)) return -1;
  return chdir(op->arg[0]);
}

static int make_parents(int root, char *path, bool directory) {
  for (char *slash = path; (slash = strchr(slash, '/')); slash++) {
    *slash = 0;
    int bad = mkdirat(root, path, 0755) && errno != EEXIST;
    *slash = '/';
    if (bad) return -1;
  }
  if (directory) return mkdirat(root, path, 0755) && errno != EEXIST ? -1 : 0;
  int fd = openat(root, path, O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0644);
  return fd < 0 ? -1 : close(fd);
}

/* A root that lacks some mount points: an overlay whose upper side is a small tmpfs holding just these.
 * The list: d/work:f/inputs/a.txt:... (d directory, f file). */
int overlay_root_child(struct run *run, struct op *op) {
  if (mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m,nr_inodes=4k") || chdir(STAGE))
    return fail(run, STAGE, errno);
  if (mkdir("lower", 0755) || mkdir("upper", 0755) || mkdir("work", 0755) || mkdir("root", 0755)) return -1;
  if (op->fd >= 0 ? attach(op->fd, "lower") : mount(op->arg[0], "lower", NULL, MS_BIND, NULL)) return -1;
  int upper = open("upper", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (upper < 0) return -1;
  for (char *save, *item = strtok_r(op->arg[1], ":", &save); item; item = strtok_r(NULL, ":", &save))
    if (item[1] != '/' || make_parents(upper, item + 2, *item == 'd')) return fail(run, item, errno);
  close(upper);
  if (mount("overlay", "root", "overlay", MS_NOSUID | MS_NODEV, "lowerdir=lower,upperdir=upper,workdir=work,userxattr"))
    return fail(run, "overlay", errno);
  return chdir("root");
}

int bind_child(struct run *run, struct op *op) {
  int target = inside(op->arg[1], O_PATH);
  if (target < 0) return fail(run, op->arg[1], errno);
  int result;
  if (op->fd >= 0) {
    result = (int)syscall(SYS_move_mount, op->fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
    close(op->fd);
  } else {
    unsigned long flags;
    uint64_t attr;
    bool recursive;
    if (flags_of(op->arg[2], &flags, &attr, &recursive)) return fail(run, op->arg[2], errno);
    result = mount(op->arg[0], path_of(target), NULL, MS_BIND | MS_REC, NULL);
    int mounted = result ? -1 : inside(op->arg[1], O_PATH);
    if (mounted >= 0) {
      result = attr ? set_attributes(mounted, attr, 0, true) : 0;
      close(mounted);
    }
  }
  close(target);
  return result ? fail(run, op->arg[1], errno) : 0;
}

int mount_child(struct run *run, struct op *op) {
  unsigned long flags;
  uint64_t attr;
  bool recursive;
  if (flags_of(op->arg[3], &flags, &attr, &recursive)) return fail(run, op->arg[3], errno);
  int target = inside(op->arg[2], O_PATH | O_DIRECTORY);
  if (target < 0) return fail(run, op->arg[2], errno);
  int result = mount(op->arg[1], path_of(target), op->arg[0], flags, *op->arg[4] ? op->arg[4] : NULL);
  close(target);
  return result ? fail(run, op->arg[2], errno) : 0;
}

/* /dev: a tmpfs of mode 755 (on a sticky one the shell's "> /dev/null" fails) with the host's nodes bound in. */
int dev_child(struct run *run, struct op *op) {
  int target = inside("dev", O_PATH | O_DIRECTORY);
  if (target < 0) return fail(run, "/dev", errno);
  if (mount("tmpfs", path_of(target), "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k,nr_inodes=128")) return fail(run, "/dev", errno);
  close(target);
  int dev = inside("dev", O_PATH | O_DIRECTORY);
  if (dev < 0) return fail(run, "/dev", errno);
  for (char *save, *node = strtok_r(op->arg[0], ",", &save); node; node = strtok_r(NULL, ",", &save)) {
    char source[64];
    snprintf(source, sizeof source, "/dev/%s", node);
    int fd = openat(dev, node, O_CREAT | O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0 || mount(source, path_of(fd), NULL, MS_BIND, NULL)) return fail(run, source, errno);
    close(fd);
  }
  static const char *links[][2] = { { "/proc/self/fd", "fd" }, { "/proc/self/fd/0", "stdin" },
    { "/proc/self/fd/1", "stdout" }, { "/proc/self/fd/2", "stderr" } };
  for (size_t i = 0; i < 4; i++)
    if (symlinkat(links[i][0], dev, links[i][1])) return fail(run, links[i][1], errno);
  close(dev);
  return 0;
}

int remount_child(struct run *run, struct op *op) {
  unsigned long flags;
  uint64_t attr;
  bool recursive;
  if (flags_of(op->arg[1], &flags, &attr, &recursive)) return fail(run, op->arg[1], errno);
  int fd = inside(op->arg[0], O_PATH);
  if (fd < 0) return -1;
  int result = set_attributes(fd, attr, 0, recursive);
  close(fd);
  return result;
}

int private_child(struct run *run, struct op *op) {
  (void)op;
  return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ? fail(run, "/", errno) : 0;
}

int pivot_child(struct run *run, struct op *op) {
  (void)op;
  if (syscall(SYS_pivot_root, ".", ".")) return fail(run, "pivot_root", errno);
  if (umount2(".", MNT_DETACH)) return fail(run, "the old root", errno);
  return chdir("/");
}

/* The parent of a path inside the root, and the last name. */
static int parent_of(const char *path, char *name, size_t size) {
  char copy[4096];
  if (strlen(path) >= sizeof copy || strlen(path) == 0) { errno = ENAMETOOLONG; return -1; }
  strcpy(copy, path);
  snprintf(name, size, "%s", basename(copy));
  strcpy(copy, path);
  char *parent = dirname(copy);
  return inside(*parent == '.' ? "" : parent, O_PATH | O_DIRECTORY);
}

static mode_t mode_of(const char *text) {
  unsigned mode = 0755;
  if (sscanf(text, "%o", &mode) != 1) return 0755;
  return (mode_t)mode;
}

int mkdir_child(struct run *run, struct op *op) {
  (void)run;
  char name[256];
  int parent = parent_of(op->arg[0], name, sizeof name);
  if (parent < 0) return -1;
  int made = !mkdirat(parent, name, mode_of(op->arg[1]));
  int result = made ? fchmodat(parent, name, mode_of(op->arg[1]), 0) : errno == EEXIST ? 0 : -1;
  close(parent);
  return result;
}

int touch_child(struct run *run, struct op *op) {
  (void)run;
  char name[256];
  int parent = parent_of(op->arg[0], name, sizeof name);
  if (parent < 0) return -1;
  int fd = openat(parent, name, O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, mode_of(op->arg[1]));
  close(parent);
  return fd < 0 ? -1 : close(fd);
}

int symlink_child(struct run *run, struct op *op) {
  (void)run;
  char name[256];
  int parent = parent_of(op->arg[1], name, sizeof name);
  if (parent < 0) return -1;
  int result = symlinkat(op->arg[0], parent, name) && errno != EEXIST ? -1 : 0;
  close(parent);
  return result;
}

/* ---- in the session's own mount namespace: what the host must not see, and the child cannot mount ---- */

int session_private_before(struct run *run, struct op *op) {
  (void)op;
  if (unshare(CLONE_NEWNS)) return fail(run, "mount namespace", errno);
  run->own_mounts = true;
  return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) ? fail(run, "/", errno) : 0;
}

int session_mkdir_before(struct run *run, struct op *op) {
  double uid, gid;
  if (parse_number(op->arg[2], &uid) || parse_number(op->arg[3], &gid)) return fail(run, op->arg[2], errno);
  if (mkdir(op->arg[0], mode_of(op->arg[1])) && errno != EEXIST) return -1;
  return lchown(op->arg[0], (uid_t)uid, (gid_t)gid);
}

int session_mount_before(struct run *run, struct op *op) {
  unsigned long flags;
  uint64_t attr;
  bool recursive;
  if (flags_of(op->arg[3], &flags, &attr, &recursive)) return fail(run, op->arg[3], errno);
  int result = mount(op->arg[1], op->arg[2], op->arg[0], flags, *op->arg[4] ? op->arg[4] : NULL);
  return result ? fail(run, op->arg[2], errno) : 0;
}

/* In reverse, and before anybody hears of the end: the next start finds device and layers free. */
void session_unmount(struct run *run) {
  for (int i = run->plan.n - 1; run->own_mounts && i >= 0; i--) {
    const struct op *op = &run->plan.op[i];
    const char *name = op->def->name;
    const char *target = !strcmp(name, "session-idmap") ? op->arg[1] : !strncmp(name, "session-mount", 13) ? op->arg[2] : NULL;
    if (target && umount2(target, UMOUNT_NOFOLLOW)) umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW);
  }
}

int session_mount_after(struct run *run, struct op *op) { return session_mount_before(run, op); }

/* A clone of the shared image in which the container's ids own what root owns: no copy, no chown. */
int idmap_after(struct run *run, struct op *op) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/user", run->pid);
  int user = open(path, O_RDONLY | O_CLOEXEC);
  if (user < 0) return fail(run, path, errno);
  int tree = (int)syscall(SYS_open_tree, AT_FDCWD, op->arg[0], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  struct mount_attr a = { .attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)user };
  int result = tree < 0 ? -1 : (int)syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &a, sizeof a);
  if (!result) result = attach(tree, op->arg[1]);
  int error = errno;
  if (tree >= 0) close(tree);
  close(user);
  errno = error;
  return result;
}
