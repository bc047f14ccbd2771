/*
 * The guest of bench/virtio-net.ts: sends FRAMES frames of FRAME_BYTES, eight with each notification. 's' and 'e' on the
 * serial port are the start and the end of it, '!' is an error. Our Linux machine enters it in 64 bits, QEMU in 32.
 */
#include "carrel.h"
#include "virtio.h"

enum { SERIAL = 0x3f8, NETWORK_CARD = 1, TRANSMIT = 1, HEADER = 12 };

static uint8_t frame[HEADER + FRAME_BYTES] __attribute__((aligned(64)));

static int open_card(void) {
  disk_base = DISK_ADDRESS;
  if (disk_register(VIRTIO_MAGIC) != 0x74726976 || disk_register(VIRTIO_VERSION) != 2) return -1;
  if (disk_register(VIRTIO_DEVICE_ID) != NETWORK_CARD) return -1;
  disk_set(VIRTIO_STATUS, 0);
  disk_set(VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
  disk_set(VIRTIO_DRIVER_FEATURES_SEL, 0);
  disk_set(VIRTIO_DRIVER_FEATURES, 0);
  disk_set(VIRTIO_DRIVER_FEATURES_SEL, 1);
  disk_set(VIRTIO_DRIVER_FEATURES, 1); /* VIRTIO_F_VERSION_1 is bit 32 */
  disk_set(VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
  if ((disk_register(VIRTIO_STATUS) & VIRTIO_FEATURES_OK) == 0) return -1;
  disk_set(VIRTIO_QUEUE_SEL, TRANSMIT);
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

int main(void) {
  if (open_card() < 0) {
    outb(SERIAL, '!');
    return 1;
  }
  for (int at = 0; at < 12; at++) frame[HEADER + at] = at < 6 ? 0xff : 0x02; /* to everybody, from a local address */
  frame[HEADER + 12] = 0x88; /* IEEE 802.1: for experiments */
  frame[HEADER + 13] = 0xb5;
  for (int index = 0; index < VIRTQ_SIZE; index++) {
    virtq_desc[index] = (struct virtq_desc){(uintptr_t)frame, sizeof frame, 0, 0};
    virtq_avail.ring[index] = index;
  }
  outb(SERIAL, 's');
  for (int sent = 0; sent < FRAMES; sent += VIRTQ_SIZE) {
    __asm__ volatile("" : : : "memory");
    virtq_avail.idx += VIRTQ_SIZE;
    disk_set(VIRTIO_QUEUE_NOTIFY, TRANSMIT);
    while (virtq_used.idx != virtq_avail.idx) __asm__ volatile("pause" : : : "memory");
  }
  outb(SERIAL, 'e');
  return 0;
}
