/*
 * early: the first program of a virtual machine, /init of its RAM disk (src/images/disk/initramfs.ts). It loads what the
 * disk needs, mounts the root, gives a new machine what is its own, starts what somebody waits for (machine.c), and
 * hands over. One small program instead of a shell: where the processor is emulated, each program that a shell starts
 * costs some 20 ms.
 *
 *   /modules/virtio, /modules/ide   modules in the order of loading, one path per line
 *   /seed                           from the host, in a second archive; without it (a disk booted by hand) nothing is
 *                                   changed:
 *     id          the machine's id
 *     once/       files that are copied over the root when its id is not this one yet
 *     password    the hash for root in /etc/shadow, at that time too
 *     always/     files that are copied at every boot
 *     random      stirred into the random numbers at every boot
 *
 * initramfs: Documentation/filesystems/ramfs-rootfs-initramfs.rst
 */
#define _GNU_SOURCE
#include "early.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TEXT_BYTES = 1 << 16, WAIT_MS = 20000, STEP_MS = 10 };

static const char root[] = "/root";
/* The machine's id, when it has not been on the disk before. */
static char new_id[256];

/* Says why, for whoever looks at the console, and switches the machine off: it would only wait for ever. */
_Noreturn void give_up(const char *what) {
  fprintf(stderr, "carrel: %s: %s\n", what, strerror(errno));
  sleep(1);
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

/* At most size-1 bytes of a file and a NUL; -1 if there is none. */
ssize_t slurp(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = 0, got;
  if (fd < 0) return -1;
  while ((size_t)n < size - 1 && (got = read(fd, text + n, size - 1 - n)) > 0) n += got;
  close(fd);
  text[n] = 0;
  return n;
}

bool write_all(int fd, const char *data, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, data, size);
    if (n < 0) return false;
    data += n, size -= n;
  }
  return true;
}

bool replaced(const char *path, const char *data, size_t size, mode_t mode, uid_t uid, gid_t gid) {
  char new[PATH_BYTES];
  snprintf(new, sizeof new, "%s.carrel", path);
  unlink(new);
  int fd = open(new, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  return fd >= 0 && write_all(fd, data, size) && !fchown(fd, uid, gid) && !fchmod(fd, mode) && !close(fd) && !rename(new, path);
}

static void replace(const char *path, const char *data, size_t size, mode_t mode, uid_t uid, gid_t gid) {
  if (!replaced(path, data, size, mode, uid, gid)) give_up(path);
}

/* ---- modules ---- */

static void load(const char *list) {
  static char names[TEXT_BYTES];
  if (slurp(list, names, sizeof names) < 0) return;
  for (char *name = strtok(names, "\n"); name; name = strtok(NULL, "\n")) {
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    /* a driver without its device is no fault: not every machine has every device */
    if (fd >= 0) syscall(SYS_finit_module, fd, "", 0), close(fd);
  }
}

/* ---- the root ---- */

static const char *find_root(void) {
  static const char *const places[] = { "/dev/vda1", "/dev/sda1" };
  for (size_t i = 0; i < sizeof places / sizeof *places; i++)
    if (!access(places[i], F_OK)) return places[i];
  return NULL;
}

static void mount_root(void) {
  const char *disk = find_root();
  /* only a PC's disk (qemu -hda) takes longer: its controller looks for drives in the background */
  if (!disk) load("/modules/ide");
  for (int waited = 0; !disk && waited < WAIT_MS; waited += STEP_MS) {
    usleep(STEP_MS * 1000);
    disk = find_root();
  }
  if (!disk) errno = ENODEV, give_up("the first partition of /dev/vda or /dev/sda");
  /* nobody zeroes unused inode tables in the background: each clone of a parked machine would do it again */
  if (mount(disk, root, "ext4", MS_NOATIME, "noinit_itable")) give_up(disk);
}

/* ---- identity ---- */

static void copy_file(const char *from, const char *to, const struct stat *s) {
  char *data = malloc(s->st_size + 1);
  if (!data || slurp(from, data, s->st_size + 1) != s->st_size) give_up(from);
  replace(to, data, s->st_size, s->st_mode & 07777, s->st_uid, s->st_gid);
  free(data);
}

/* What lies below `from` over what lies below `to`; directories that are there already get the mode and owner given. */
static void copy_tree(const char *from, const char *to) {
  DIR *all = opendir(from);
  struct dirent *entry;
  while (all && (entry = readdir(all))) {
    char source[PATH_BYTES], target[PATH_BYTES];
    struct stat s;
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    int a = snprintf(source, sizeof source, "%s/%s", from, entry->d_name);
    int b = snprintf(target, sizeof target, "%s/%s", to, entry->d_name);
    if (a >= PATH_BYTES || b >= PATH_BYTES) errno = ENAMETOOLONG, give_up(from);
    if (lstat(source, &s)) give_up(source);
    if (S_ISREG(s.st_mode)) copy_file(source, target, &s);
    if (!S_ISDIR(s.st_mode)) continue;
    if ((mkdir(target, 0700) && errno != EEXIST) || chown(target, s.st_uid, s.st_gid) || chmod(target, s.st_mode & 07777))
      give_up(target);
    copy_tree(source, target);
  }
  if (all) closedir(all);
}

/* The second field of root's line. shadow(5) */
static void set_password(const char *path, char *hash) {
  static char old[TEXT_BYTES], text[TEXT_BYTES + 512];
  struct stat s;
  hash[strcspn(hash, "\n")] = 0;
  if (strpbrk(hash, ":") || stat(path, &s) || slurp(path, old, sizeof old) < 0) give_up(path);
  char *line = strncmp(old, "root:", 5) ? strstr(old, "\nroot:") : old;
  if (!line) errno = ENOENT, give_up("root in /etc/shadow");
  char *field = strchr(line, ':') + 1, *end = strchr(field, ':');
  if (!end) errno = EINVAL, give_up(path);
  int n = snprintf(text, sizeof text, "%.*s%s%s", (int)(field - old), old, hash, end);
  if (n >= (int)sizeof text) errno = EFBIG, give_up(path);
  replace(path, text, n, s.st_mode & 07777, s.st_uid, s.st_gid);
}

static void apply_seed(void) {
  char id[256], known[256] = "", text[512];
  ssize_t n = slurp("/seed/id", id, sizeof id);
  if (n < 0) return;
  slurp("/root/etc/carrel/identity", known, sizeof known);
  if (strcmp(id, known)) {
    copy_tree("/seed/once", root);
    if (slurp("/seed/password", text, sizeof text) >= 0) set_password("/root/etc/shadow", text);
    strcpy(new_id, id);
  }
  copy_tree("/seed/always", root);
  n = slurp("/seed/random", text, sizeof text);
  int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
  if (n > 0 && fd >= 0) write_all(fd, text, n);
  if (fd >= 0) close(fd);
}

/* ---- handing over ---- */

/* Frees the RAM disk's memory, and with it the keys in /seed. Mount points below are other devices: they stay. */
static void empty_tree(int above, const char *name, dev_t device) {
  int fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  struct stat s;
  DIR *all = fd < 0 || fstat(fd, &s) || s.st_dev != device ? NULL : fdopendir(fd);
  struct dirent *entry;
  while (all && (entry = readdir(all))) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    if (!unlinkat(fd, entry->d_name, 0)) continue;
    empty_tree(fd, entry->d_name, device);
    unlinkat(fd, entry->d_name, AT_REMOVEDIR);
  }
  if (all) closedir(all);
  else if (fd >= 0) close(fd);
}

/* What the kernel's command line says, init=PROGRAM; NULL: nothing. */
static const char *wanted_program(char *line) {
  const char *program = NULL;
  for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
    if (!strncmp(word, "init=", 5)) program = word + 5;
  return program;
}

static _Noreturn void hand_over(void) {
  static char line[PATH_BYTES], words[PATH_BYTES];
  if (slurp("/proc/cmdline", line, sizeof line) < 0) give_up("/proc/cmdline");
  const char *program = wanted_program(strcpy(words, line));
  static const char *const moved[] = { "/dev", "/proc", "/sys" };
  struct stat s;
  for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
    char target[32];
    snprintf(target, sizeof target, "%s%s", root, moved[i]);
    if (mount(moved[i], target, NULL, MS_MOVE, NULL)) give_up(target);
  }
  if (chdir(root) || lstat("/", &s)) give_up(root);
  empty_tree(AT_FDCWD, "/", s.st_dev);
  if (mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/")) give_up(root);
  if (!program) program = prepare_machine(new_id, strstr(line, "carrel.online") != NULL);
  execl(program, program, (char *)NULL);
  give_up(program);
}

int main(void) {
  if (getpid() != 1) return fputs("early: only a kernel starts this program\n", stderr), 2;
  if (mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=755")) give_up("/dev");
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) give_up("/proc");
  if (mount("sys", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) give_up("/sys");
  load("/modules/virtio");
  mount_root();
  apply_seed();
  hand_over();
}
