/*
 * Makes a machine somebody: after a clone everything in it is a copy, down to the state of its random numbers. The
 * facts come as records (tag, length, content) and are applied in their order, in a child of the agent. In tests,
 * with a root prefix, the files are written and nothing of the kernel's is touched.
 */
#define _GNU_SOURCE
#include "agent.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum tag { I_DIRECTORY = 1, I_FILE, I_HOSTNAME, I_PASSWORD, I_ENTROPY, I_CLOCK, I_NETWORK, I_SSH };
enum { MAX_ENTROPY = 512, MAX_SHADOW = 1 << 20, MAX_OLD_ADDRESSES = 16 };

static void prefixed(char *full, size_t size, const char *path) {
  if (*path != '/' || strstr(path, "/../") || snprintf(full, size, "%s%s", root_prefix, path) >= (int)size) job_fail("path", EINVAL);
}

/* Whole or not at all; `owner` from the file it replaces, if there is one to keep. */
static void replace(const char *path, const void *data, size_t n, uint32_t mode, const struct stat *owner) {
  char full[4096], beside[4104];
  prefixed(full, sizeof full, path);
  snprintf(beside, sizeof beside, "%s.carrel", full);
  unlink(beside);
  int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) job_fail(path, errno);
  const char *at = data;
  while (n) {
    ssize_t done = write(fd, at, n);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) job_fail(path, errno);
    at += done, n -= (size_t)done;
  }
  if ((owner && fchown(fd, owner->st_uid, owner->st_gid)) || fchmod(fd, mode) || close(fd) || rename(beside, full)) job_fail(path, errno);
}

static void directory(struct in *in) {
  char full[4096];
  uint32_t mode = in_u32(in);
  const char *path = in_text(in);
  if (in->bad || mode > 07777) job_fail("directory", EBADMSG);
  prefixed(full, sizeof full, path);
  if ((mkdir(full, 0700) && errno != EEXIST) || chmod(full, mode)) job_fail(path, errno);
}

static void file(struct in *in) {
  uint32_t mode = in_u32(in);
  const char *path = in_text(in);
  if (in->bad || mode > 07777) job_fail("file", EBADMSG);
  replace(path, in->at, in_left(in), mode, NULL);
}

static void hostname(struct in *in) {
  const char *name = in_text(in);
  if (in->bad || !*name || strlen(name) > 64) job_fail("hostname", EINVAL);
  if (in_guest && sethostname(name, strlen(name))) job_fail("hostname", errno);
}

/* The second field of root's line. shadow(5) */
static void password(struct in *in) {
  const char *hash = in_text(in);
  char full[4096];
  struct stat s;
  if (in->bad || strpbrk(hash, ":\n")) job_fail("password", EINVAL);
  prefixed(full, sizeof full, "/etc/shadow");
  int fd = open(full, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &s)) job_fail("/etc/shadow", errno);
  char *old = s.st_size < MAX_SHADOW ? calloc(1, (size_t)s.st_size + 1) : NULL, *text;
  if (!old || read(fd, old, (size_t)s.st_size) != s.st_size) job_fail("/etc/shadow", EIO);
  char *line = !strncmp(old, "root:", 5) ? old : strstr(old, "\nroot:");
  if (!line) job_fail("/etc/shadow", ENOENT);
  line = strchr(line, ':') + 1;
  char *rest = line + strcspn(line, ":\n");
  int n = asprintf(&text, "%.*s%s%s", (int)(line - old), old, hash, rest);
  if (n < 0) job_fail("memory", ENOMEM);
  replace("/etc/shadow", text, (size_t)n, s.st_mode & 07777, &s);
}

/*
 * The kernel draws the id of this boot once, so all clones of a machine have the same: another one is laid over it.
 * Version 4 of RFC 4122. random(4)
 */
static void boot_id(void) {
  static const char file[] = "/run/carrel-boot-id", over[] = "/proc/sys/kernel/random/boot_id";
  unsigned char r[16];
  char text[38], laid[38], seen[38];
  if (getrandom(r, sizeof r, 0) != sizeof r) job_fail("boot id", errno);
  r[6] = (unsigned char)((r[6] & 0x0f) | 0x40), r[8] = (unsigned char)((r[8] & 0x3f) | 0x80);
  snprintf(text, sizeof text, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\n", r[0], r[1], r[2], r[3],
           r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13], r[14], r[15]);
  if (read_file(file, laid, sizeof laid) == 37 && read_file(over, seen, sizeof seen) == 37 && !strcmp(laid, seen)) {
    /* it has been laid over by an earlier identity, also a parked machine's: no more is to be done than this */
    int fd = open(file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || write(fd, text, 37) != 37 || close(fd)) job_fail(file, errno);
    return;
  }
  replace(file, text, 37, 0444, NULL);
  umount2(over, MNT_DETACH);
  if (mount(file, over, NULL, MS_BIND, NULL)) job_fail("boot id", errno);
}

/* Two clones must never draw the same number. random(4) */
static void entropy(struct in *in) {
  struct { struct rand_pool_info info; unsigned char bytes[MAX_ENTROPY]; } pool;
  size_t n = in_left(in);
  if (n > MAX_ENTROPY) job_fail("entropy", EINVAL);
  if (!in_guest) return;
  pool.info = (struct rand_pool_info){ .entropy_count = (int)n * 8, .buf_size = (int)n };
  memcpy(pool.bytes, in->at, n);
  int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
  if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG)) job_fail("entropy", errno);
  close(fd);
  boot_id();
}

static void set_clock(struct in *in) {
  uint64_t ns = in_u64(in);
  struct timespec t = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };
  if (in->bad) job_fail("clock", EBADMSG);
  if (in_guest && clock_settime(CLOCK_REALTIME, &t)) job_fail("clock", errno);
}

/* The first Ethernet interface that is a device and not made by somebody in the guest. */
static void find_interface(char name[IFNAMSIZ]) {
  DIR *all = opendir("/sys/class/net");
  struct dirent *entry;
  *name = 0;
  while (all && (entry = readdir(all))) {
    char path[512], type[16];
    snprintf(path, sizeof path, "/sys/class/net/%s/device", entry->d_name);
    if (*entry->d_name == '.' || strlen(entry->d_name) >= IFNAMSIZ || access(path, F_OK)) continue;
    snprintf(path, sizeof path, "/sys/class/net/%s/type", entry->d_name);
    if (read_file(path, type, sizeof type) < 0 || atoi(type) != ARPHRD_ETHER) continue;
    if (!*name || strcmp(entry->d_name, name) < 0) strcpy(name, entry->d_name);
  }
  if (all) closedir(all);
  if (!*name) job_fail("network interface", ENODEV);
}

/*
 * Silent before it has another name: down, and without what addresses it had. Nothing is done to one that is silent, as a
 * parked machine's is: to take an address away is long work where the processor is emulated. netdevice(7)
 */
static void hush(const char *name) {
  struct ifreq r = { 0 };
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) job_fail("network", errno);
  strcpy(r.ifr_name, name);
  if (ioctl(fd, SIOCGIFFLAGS, &r)) job_fail(name, errno);
  bool up = r.ifr_flags & IFF_UP;
  r.ifr_flags = (short)(r.ifr_flags & ~IFF_UP);
  if (up && ioctl(fd, SIOCSIFFLAGS, &r)) job_fail(name, errno);
  for (int i = 0; i < MAX_OLD_ADDRESSES && !ioctl(fd, SIOCGIFADDR, &r); i++) {
    memset(&r.ifr_addr, 0, sizeof r.ifr_addr);
    r.ifr_addr.sa_family = AF_INET;
    if (ioctl(fd, SIOCSIFADDR, &r)) break;
  }
  close(fd);
}

static void network(struct in *in) {
  char mac[18], address[INET_ADDRSTRLEN], gateway[INET_ADDRSTRLEN], name[IFNAMSIZ];
  const unsigned char *m = in_bytes(in, 6), *a = in_bytes(in, 4);
  uint8_t prefix = in_u8(in);
  const unsigned char *g = in_bytes(in, 4);
  if (in->bad) job_fail("network", EBADMSG);
  if (!in_guest) return;
  snprintf(mac, sizeof mac, "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]);
  inet_ntop(AF_INET, a, address, sizeof address);
  inet_ntop(AF_INET, g, gateway, sizeof gateway);
  find_interface(name);
  hush(name);
  if (!strcmp(address, "0.0.0.0")) return; /* it is to be nobody's */
  int fd = net_open();
  if (fd < 0 || net_mac(fd, name, mac)) job_fail("mac", errno);
  if (net_address(fd, name, address, prefix)) job_fail("address", errno);
  if (net_up(fd, name)) job_fail(name, errno);
  if (strcmp(gateway, "0.0.0.0") && net_gateway(fd, gateway)) job_fail("gateway", errno);
  close(fd);
}

/*
 * The image knows which server it has, and how to start it: with the keys that are there now. One that looks for its keys
 * when somebody connects has been told to by `/etc/carrel/ssh late`, which says so in the file.
 */
static void start_ssh(void) {
  char full[4096];
  prefixed(full, sizeof full, "/run/carrel-late-ssh");
  if (!access(full, F_OK)) return;
  prefixed(full, sizeof full, "/etc/carrel/ssh");
  char *argv[] = { full, (char[]){ "restart" }, NULL };
  char *env[] = { (char[]){ "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }, (char[]){ "HOME=/root" }, NULL };
  execve(full, argv, env);
  if (errno == ENOENT) _exit(0); /* an image without one */
  job_fail("/etc/carrel/ssh", errno);
}

static const struct { enum tag tag; void (*apply)(struct in *); } facts[] = {
  { I_DIRECTORY, directory }, { I_FILE, file }, { I_HOSTNAME, hostname }, { I_PASSWORD, password },
  { I_ENTROPY, entropy }, { I_CLOCK, set_clock }, { I_NETWORK, network },
};

int identify_job(struct in *in) {
  if (!in_guest && !*root_prefix) job_fail("not a guest", EPERM);
  umask(022);
  bool ssh = false;
  while (in_left(in)) {
    uint8_t tag = in_u8(in);
    uint32_t n = in_u32(in);
    const unsigned char *at = in_bytes(in, n);
    struct in one = { at, at + n, false };
    bool known = tag == I_SSH;
    if (in->bad) job_fail("record", EBADMSG);
    ssh |= tag == I_SSH;
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
      if (facts[i].tag == tag) facts[i].apply(&one), known = true;
    if (!known) job_fail("record", EBADMSG);
  }
  if (ssh) start_ssh();
  return 0;
}
