/*
 * What must be there before the system's own init, which would take seconds to come to it (systemd).
 *
 * /etc/carrel/network (from the host, at every boot) has one "key=value" per line: mac, address, prefix, gateway, dns
 * (several between spaces; may be empty).
 */
#define _GNU_SOURCE
#include "early.h"
#include "../isolate/isolate.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE_BYTES = 1024, DEVICE_BYTES = 32, LAST = 19 };

static const char agent[] = "/usr/lib/carrel/agent";
static const char ssh[] = "/etc/carrel/ssh";

/* ---- programs beside us ---- */

static void start(const char *program) {
  static char *const environment[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL };
  char *const argv[] = { (char *)program, NULL };
  if (access(program, X_OK)) return;
  if (vfork()) return;
  setpriority(PRIO_PROCESS, 0, 0);
  int null = open("/dev/null", O_RDWR);
  setsid();
  for (int fd = 0; fd < 3; fd++) dup2(null, fd);
  if (null > 2) close(null);
  execve(program, argv, environment);
  _exit(127);
}

/* The mark means that all of the seed is there, also after a power cut. Nobody waits for it; without it the seed would
 * be applied once more. */
static void mark_identity(const char *id) {
  if (!*id || fork()) return;
  setpriority(PRIO_PROCESS, 0, 0);
  int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || syncfs(fd)) _exit(1);
  mkdir("/etc/carrel", 0755);
  _exit(replaced("/etc/carrel/identity", id, strlen(id), 0644, 0, 0) ? 0 : 1);
}

/* ---- file systems and names ---- */

static void mount_all(void) {
  mkdir("/dev/pts", 0755);
  mkdir("/dev/shm", 01777);
  mount("devpts", "/dev/pts", "devpts", 0, "gid=5,mode=620,ptmxmode=666");
  mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, NULL);
  mount("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755");
  mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mkdir("/run/lock", 0755);
  mkdir("/run/sshd", 0755);
}

static void set_name(void) {
  char name[256];
  if (slurp("/etc/hostname", name, sizeof name) <= 0) return;
  name[strcspn(name, " \t\r\n")] = 0;
  if (*name) sethostname(name, strlen(name));
}

/* ---- the network ---- */

struct network { char mac[LINE_BYTES], address[LINE_BYTES], prefix[LINE_BYTES], gateway[LINE_BYTES], dns[LINE_BYTES]; };

static bool read_network(struct network *n) {
  char text[4 * LINE_BYTES];
  const struct { const char *key; char *value; } known[] = {
    { "mac=", n->mac }, { "address=", n->address }, { "prefix=", n->prefix }, { "gateway=", n->gateway }, { "dns=", n->dns },
  };
  if (slurp("/etc/carrel/network", text, sizeof text) < 0) return false;
  for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
      size_t length = strlen(known[i].key);
      if (!strncmp(line, known[i].key, length)) snprintf(known[i].value, LINE_BYTES, "%s", line + length);
    }
  return *n->address;
}

/* The device with that address; without one the first that is not lo. */
static bool find_device(const char *mac, char name[DEVICE_BYTES]) {
  DIR *all = opendir("/sys/class/net");
  struct dirent *entry;
  bool found = false;
  while (all && !found && (entry = readdir(all))) {
    char path[PATH_BYTES], its[64];
    if (*entry->d_name == '.' || !strcmp(entry->d_name, "lo") || strlen(entry->d_name) >= DEVICE_BYTES) continue;
    snprintf(path, sizeof path, "/sys/class/net/%s/address", entry->d_name);
    if (slurp(path, its, sizeof its) < 0) continue;
    its[strcspn(its, "\n")] = 0;
    found = !*mac || !strcmp(mac, its);
    if (found) strcpy(name, entry->d_name);
  }
  if (all) closedir(all);
  return found;
}

/* resolv.conf(5); left alone if it says that already. */
static void write_servers(const char *dns) {
  char servers[LINE_BYTES], text[4 * LINE_BYTES] = "", known[4 * LINE_BYTES];
  size_t n = 0;
  strcpy(servers, dns);
  for (char *one = strtok(servers, " "); one && n < sizeof text; one = strtok(NULL, " "))
    n += snprintf(text + n, sizeof text - n, "nameserver %s\n", one);
  if (!n || n >= sizeof text || (slurp("/etc/resolv.conf", known, sizeof known) >= 0 && !strcmp(text, known))) return;
  int fd = open("/etc/resolv.conf", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd >= 0) write_all(fd, text, n), close(fd);
}

/* true: the host has given the machine an address. What does not work with it is seen in the machine. */
static bool set_network(void) {
  static struct network n;
  char device[DEVICE_BYTES];
  int fd = net_open();
  if (fd < 0) return false;
  net_up(fd, "lo");
  bool given = read_network(&n);
  if (given && find_device(n.mac, device)) {
    net_address(fd, device, n.address, atoi(n.prefix));
    net_up(fd, device);
    if (*n.gateway) net_gateway(fd, n.gateway);
  }
  close(fd);
  if (given) write_servers(n.dns);
  return given;
}

const char *prepare_machine(const char *new_id, bool online) {
  setpriority(PRIO_PROCESS, 0, LAST); /* what is started here goes before us: somebody waits for it */
  mount_all();
  set_name();
  start(agent);
  bool whole = set_network() && !online;
  if (whole) start(ssh);
  mark_identity(new_id);
  setpriority(PRIO_PROCESS, 0, 0);
  return whole ? "/sbin/init" : "/sbin/carrel-init";
}
