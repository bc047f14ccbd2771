/*
 * The root file system grows to the end of its disk, without a tool in the guest: entry 1 of the MBR, then what
 * the kernel knows of it (BLKPG), then ext4 (EXT4_IOC_RESIZE_FS, online). Repeatable: each step looks first.
 */
#define _GNU_SOURCE
#include "agent.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* linux/ext4.h has it since 6.1 or so; ext4(5). */
#define RESIZE_FS _IOW('f', 16, uint64_t)
enum { SECTOR = 512, TABLE = 446, ENTRY = 16, MIB_SECTORS = 2048, BUSY_TRIES = 250, BUSY_US = 100000 };

static uint64_t number_in(const char *directory, const char *name) {
  char path[512], text[32];
  if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path || read_file(path, text, sizeof text) < 0) return 0;
  return strtoull(text, NULL, 10);
}

static uint32_t get32(const unsigned char *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

/* Only a table that we understand wholly is touched: one partition, at the place the kernel says. */
static bool is_ours(const unsigned char *sector, uint64_t start) {
  static const unsigned char none[3 * ENTRY];
  return sector[510] == 0x55 && sector[511] == 0xaa && sector[TABLE + 4] == 0x83 && get32(sector + TABLE + 8) == start &&
    !memcmp(sector + TABLE + ENTRY, none, sizeof none);
}

static void grow_partition(const char *disk, uint64_t start, uint64_t sectors) {
  unsigned char table[SECTOR];
  int fd = open(disk, O_RDWR | O_CLOEXEC);
  if (fd < 0 || pread(fd, table, sizeof table, 0) != SECTOR) job_fail(disk, errno);
  if (!is_ours(table, start)) job_fail("partition table", ENOTSUP);
  put32(table + TABLE + 12, (uint32_t)sectors);
  if (pwrite(fd, table, sizeof table, 0) != SECTOR || fsync(fd)) job_fail(disk, errno);
  struct blkpg_partition part = { .start = (long long)(start * SECTOR), .length = (long long)(sectors * SECTOR), .pno = 1 };
  struct blkpg_ioctl_arg arg = { .op = BLKPG_RESIZE_PARTITION, .datalen = sizeof part, .data = &part };
  if (ioctl(fd, BLKPG, &arg)) job_fail("BLKPG_RESIZE_PARTITION", errno);
  close(fd);
}

/* mke2fs gives smaller ones a journal of 1024 blocks, in which the kernel (6.1) waits for ever for room to grow. */
enum { LEAST_BLOCKS = 32768 };

/* The root directory of an ext4 that can grow. */
static int open_root(uint64_t sectors, uint64_t *block) {
  struct statfs s;
  int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || fstatfs(fd, &s)) job_fail("/", errno);
  *block = (uint64_t)s.f_bsize;
  if (s.f_type != EXT4_SUPER_MAGIC || s.f_bsize < SECTOR || sectors * SECTOR / *block < LEAST_BLOCKS) job_fail("root file system", ENOTSUP);
  return fd;
}

static void grow_file_system(int root, uint64_t blocks) {
  int failed = ioctl(root, RESIZE_FS, &blocks);
  for (int i = 0; failed && errno == EBUSY && i < BUSY_TRIES; i++) { /* the job of the start is still at it */
    usleep(BUSY_US);
    failed = ioctl(root, RESIZE_FS, &blocks);
  }
  if (failed) job_fail("EXT4_IOC_RESIZE_FS", errno);
}

int grow_job(struct in *in) {
  char partition[64], whole[96], resolved[4096], disk[128];
  struct stat s;
  (void)in;
  if (!in_guest) job_fail("not a guest", EPERM);
  if (stat("/", &s)) job_fail("/", errno);
  snprintf(partition, sizeof partition, "/sys/dev/block/%u:%u", major(s.st_dev), minor(s.st_dev));
  snprintf(whole, sizeof whole, "%s/..", partition);
  if (number_in(partition, "partition") != 1 || !realpath(whole, resolved)) job_fail("root partition", ENOTSUP);
  if (snprintf(disk, sizeof disk, "/dev/%s", strrchr(resolved, '/') + 1) >= (int)sizeof disk) job_fail("root disk", ENAMETOOLONG);
  uint64_t start = number_in(partition, "start"), now = number_in(partition, "size"), all = number_in(resolved, "size");
  if (!start || all <= start) job_fail("root disk", EINVAL);
  uint64_t block, most = all - start;
  int root = open_root(now, &block);
  if (most > UINT32_MAX) most = UINT32_MAX; /* an MBR knows no more: 2 TiB */
  most -= most % MIB_SECTORS;
  if (most > now) grow_partition(disk, start, most);
  grow_file_system(root, (most > now ? most : now) * SECTOR / block);
  close(root);
  return 0;
}
