/*
 * For guests with a disk (`carrel vmm run GUEST --disk IMAGE`): a driver for virtio-blk over MMIO, as small as it can
 * be. One request at a time, and the guest looks at the used ring until it is done: there are no interrupts here.
 *
 *     #include "carrel.h"
 *     #include "virtio.h"
 *     int main(void) {
 *       static char sector[512];
 *       if (disk_open() < 0) return 1;
 *       disk_read(0, sector, 1);
 *       ...
 *     }
 *
 * Sections are those of "Virtual I/O Device (VIRTIO) Version 1.2". 32 bits without paging, or 64 bits.
 */
#ifndef CARREL_VIRTIO_H
#define CARREL_VIRTIO_H

#include "carrel.h"

#if GUEST_BITS == 16
#error "real mode does not reach the registers of the disk"
#endif

/* Where the registers are, guest-physical (src/vmm/disk.ts). */
#ifndef DISK_ADDRESS
#define DISK_ADDRESS 0xd0000000u
#endif

/* Registers (4.2.2): offsets in bytes. */
enum {
  VIRTIO_MAGIC = 0x000,
  VIRTIO_VERSION = 0x004,
  VIRTIO_DEVICE_ID = 0x008,
  VIRTIO_DRIVER_FEATURES = 0x020,
  VIRTIO_DRIVER_FEATURES_SEL = 0x024,
  VIRTIO_DEVICE_FEATURES = 0x010,
  VIRTIO_DEVICE_FEATURES_SEL = 0x014,
  VIRTIO_QUEUE_SEL = 0x030,
  VIRTIO_QUEUE_NUM_MAX = 0x034,
  VIRTIO_QUEUE_NUM = 0x038,
  VIRTIO_QUEUE_READY = 0x044,
  VIRTIO_QUEUE_NOTIFY = 0x050,
  VIRTIO_STATUS = 0x070,
  VIRTIO_QUEUE_DESC = 0x080,   /* and its high half 4 bytes on, as of the next two */
  VIRTIO_QUEUE_DRIVER = 0x090,
  VIRTIO_QUEUE_DEVICE = 0x0a0,
  VIRTIO_CONFIG = 0x100,
};

/* Device status (2.1). */
enum { VIRTIO_ACKNOWLEDGE = 1, VIRTIO_DRIVER = 2, VIRTIO_DRIVER_OK = 4, VIRTIO_FEATURES_OK = 8, VIRTIO_NEEDS_RESET = 64 };

/* Requests of a block device (5.2.6). */
enum { DISK_IN = 0, DISK_OUT = 1, DISK_FLUSH = 4 };
#define DISK_FEATURE_FLUSH (1u << 9)

/* A split virtqueue (2.7): three parts, each aligned as it has to be. */
enum { VIRTQ_SIZE = 8, VIRTQ_NEXT = 1, VIRTQ_WRITE = 2 };

struct virtq_desc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags, next;
};

static struct virtq_desc virtq_desc[VIRTQ_SIZE] __attribute__((aligned(16)));
static struct {
  uint16_t flags, idx, ring[VIRTQ_SIZE], used_event;
} virtq_avail __attribute__((aligned(2)));
static struct {
  uint16_t flags;
  volatile uint16_t idx;
  struct {
    uint32_t id, len;
  } ring[VIRTQ_SIZE];
  uint16_t avail_event;
} virtq_used __attribute__((aligned(4)));

static uintptr_t disk_base;

static inline uint32_t disk_register(uint32_t offset) { return *(volatile uint32_t *)(disk_base + offset); }
static inline void disk_set(uint32_t offset, uint32_t value) { *(volatile uint32_t *)(disk_base + offset) = value; }

/* A linear address for the registers. In long mode there is none yet: PD[1], 0x200000 and on, becomes it. */
static uintptr_t disk_map(void) {
#if GUEST_BITS == 64
  uint64_t cr3;
  __asm__("mov %%cr3, %0" : "=r"(cr3));
  uint64_t *pml4 = (uint64_t *)cr3, *pdpt = (uint64_t *)(pml4[0] & ~0xfffull), *pd = (uint64_t *)(pdpt[0] & ~0xfffull);
  pd[1] = DISK_ADDRESS | 0x93; /* present, writable, not cached, 2 MiB */
  __asm__ volatile("mov %0, %%cr3" : : "r"(cr3) : "memory");
  return 0x200000;
#else
  return DISK_ADDRESS;
#endif
}

/* Makes the disk ready (3.1.1, 4.2.3.2). -1: there is none, or it does not want to. */
static int disk_open(void) {
  disk_base = disk_map();
  if (disk_register(VIRTIO_MAGIC) != 0x74726976 || disk_register(VIRTIO_VERSION) != 2) return -1;
  if (disk_register(VIRTIO_DEVICE_ID) != 2) return -1;
  disk_set(VIRTIO_STATUS, 0);
  disk_set(VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE);
  disk_set(VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
  disk_set(VIRTIO_DEVICE_FEATURES_SEL, 0);
  disk_set(VIRTIO_DRIVER_FEATURES_SEL, 0);
  disk_set(VIRTIO_DRIVER_FEATURES, disk_register(VIRTIO_DEVICE_FEATURES) & DISK_FEATURE_FLUSH);
  disk_set(VIRTIO_DRIVER_FEATURES_SEL, 1);
  disk_set(VIRTIO_DRIVER_FEATURES, 1); /* VIRTIO_F_VERSION_1 is bit 32 */
  disk_set(VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
  if ((disk_register(VIRTIO_STATUS) & VIRTIO_FEATURES_OK) == 0) return -1;
  virtq_avail.idx = virtq_used.idx = 0; /* both sides count from here on */
  disk_set(VIRTIO_QUEUE_SEL, 0);
  if (disk_register(VIRTIO_QUEUE_NUM_MAX) < VIRTQ_SIZE) return -1;
  disk_set(VIRTIO_QUEUE_NUM, VIRTQ_SIZE);
  disk_set(VIRTIO_QUEUE_DESC, (uint32_t)(uintptr_t)virtq_desc);
  disk_set(VIRTIO_QUEUE_DRIVER, (uint32_t)(uintptr_t)&virtq_avail);
  disk_set(VIRTIO_QUEUE_DEVICE, (uint32_t)(uintptr_t)&virtq_used);
  disk_set(VIRTIO_QUEUE_DESC + 4, 0);
  disk_set(VIRTIO_QUEUE_DRIVER + 4, 0);
  disk_set(VIRTIO_QUEUE_DEVICE + 4, 0);
  disk_set(VIRTIO_QUEUE_READY, 1);
  disk_set(VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
  return 0;
}

/* Sectors of 512 bytes. Of the two halves of `capacity` (5.2.4) only the low one: a disk of up to 2 TiB. */
static inline uint32_t disk_sectors(void) { return disk_register(VIRTIO_CONFIG); }

/*
 * One request: a header, data if there is any, a byte for the outcome (5.2.6). The outcome: 0 done, 1 error,
 * 2 unknown; -1 if the device needs a reset and will never answer.
 */
static int disk_request(uint32_t type, uint64_t sector, void *data, uint32_t bytes) {
  static struct {
    uint32_t type, reserved;
    uint64_t sector;
  } header;
  static volatile uint8_t outcome;
  header.type = type;
  header.sector = sector;
  outcome = 0xff;
  uint16_t last = bytes == 0 ? 1 : 2, data_flags = type == DISK_IN ? VIRTQ_WRITE : 0;
  virtq_desc[0] = (struct virtq_desc){(uintptr_t)&header, sizeof header, VIRTQ_NEXT, 1};
  if (bytes > 0) virtq_desc[1] = (struct virtq_desc){(uintptr_t)data, bytes, data_flags | VIRTQ_NEXT, 2};
  virtq_desc[last] = (struct virtq_desc){(uintptr_t)&outcome, 1, VIRTQ_WRITE, 0};

  uint16_t done = virtq_used.idx;
  virtq_avail.ring[virtq_avail.idx % VIRTQ_SIZE] = 0; /* the chain begins at descriptor 0 */
  __asm__ volatile("" : : : "memory");                /* first the ring, then its index: x86 keeps the order */
  virtq_avail.idx++;
  disk_set(VIRTIO_QUEUE_NOTIFY, 0);
  while (virtq_used.idx == done)
    if ((disk_register(VIRTIO_STATUS) & VIRTIO_NEEDS_RESET) != 0) return -1;
  __asm__ volatile("" : : : "memory");
  return outcome;
}

static inline int disk_read(uint64_t sector, void *data, uint32_t sectors) {
  return disk_request(DISK_IN, sector, data, sectors * 512);
}

static inline int disk_write(uint64_t sector, const void *data, uint32_t sectors) {
  return disk_request(DISK_OUT, sector, (void *)(uintptr_t)data, sectors * 512);
}

/* What was written is on the disk when this returns. */
static inline int disk_flush(void) { return disk_request(DISK_FLUSH, 0, 0, 0); }

#endif
