/* Power, and what the machine uses. */
#define _GNU_SOURCE
#include "agent.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

int sync_job(struct in *in) {
  (void)in;
  sync();
  return 0;
}

enum { LAST = 19, LATER_S = 2 };

/* In a guest after its first command, for which somebody may be waiting. */
int sync_later_job(struct in *in) {
  setpriority(PRIO_PROCESS, 0, LAST);
  if (in_guest) sleep(LATER_S);
  return sync_job(in);
}

/* systemd(1) and busybox's init are asked in different ways; whoever else is 1 is not asked. */
static int ask_init(bool again) {
  char name[32];
  if (read_file("/proc/1/comm", name, sizeof name) < 0) return ESRCH;
  name[strcspn(name, "\n")] = 0;
  if (!strcmp(name, "systemd")) return kill(1, SIGRTMIN + (again ? 5 : 4)) ? errno : 0;
  if (!strcmp(name, "init") || !strcmp(name, "busybox")) return kill(1, again ? SIGTERM : SIGUSR2) ? errno : 0;
  return ESRCH;
}

enum { READ_ONLY_TRIES = 1000, READ_ONLY_US = 10000 };

/* What is still mounted becomes read-only, so that nothing is torn. A worker of the kernel does it: reboot(2) would be
 * faster. Documentation/admin-guide/sysrq.rst
 * ext4 says read-only before its journal is closed, in the same remount: sync(2) takes each file system's s_umount and so
 * returns after that. */
static void make_read_only(void) {
  struct statvfs root;
  if (write_file("/proc/sysrq-trigger", "u")) return;
  for (int i = 0; i < READ_ONLY_TRIES && !statvfs("/", &root) && !(root.f_flag & ST_RDONLY); i++) usleep(READ_ONLY_US);
  sync();
}

void power_request(uint32_t id, struct in *in) {
  uint8_t again = in_u8(in), now = in_u8(in);
  if (in->bad || again > 1 || now > 1) { channel_failed(id, "request", EBADMSG); return; }
  if (!in_guest) { channel_failed(id, "not a guest", EPERM); return; }
  bool asked = !now && !ask_init(again);
  link_send(T_DONE, id, NULL, 0);
  link_flush();
  if (asked) return;
  sync();
  make_read_only();
  reboot(again ? RB_AUTOBOOT : RB_POWER_OFF);
}

static uint64_t value_of(const char *text, const char *key) {
  const char *at = strstr(text, key);
  return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

uint64_t oom_kills(void) {
  char text[8192];
  return read_file("/proc/vmstat", text, sizeof text) < 0 ? 0 : value_of(text, "\noom_kill ");
}

uint64_t memory_bytes(void) {
  char text[4096];
  return read_file("/proc/meminfo", text, sizeof text) < 0 ? 0 : value_of(text, "MemTotal:") << 10;
}

void usage_request(uint32_t id) {
  unsigned char answer[40];
  char text[4096];
  struct statvfs disk = { 0 };
  if (read_file("/proc/meminfo", text, sizeof text) < 0 || statvfs("/", &disk)) { channel_failed(id, "usage", errno); return; }
  put64(answer, value_of(text, "MemTotal:") << 10);
  put64(answer + 8, value_of(text, "MemAvailable:") << 10);
  put64(answer + 16, disk.f_blocks * disk.f_frsize);
  put64(answer + 24, (disk.f_blocks - disk.f_bfree) * disk.f_frsize);
  /* loadavg: "0.00 0.01 0.05 1/123 456", proc_loadavg(5) */
  const char *slash = read_file("/proc/loadavg", text, sizeof text) < 0 ? NULL : strchr(text, '/');
  put64(answer + 32, slash ? strtoull(slash + 1, NULL, 10) : 0);
  link_send(T_DONE, id, answer, sizeof answer);
}
