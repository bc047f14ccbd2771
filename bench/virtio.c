/*
 * The guest of bench/virtio.ts: reads from its disk, one request at a time. The first sector says how: sectors in a
 * request, requests. 's' and 'e' on port 0xE9 are the start and the end of it, '!' is an error. 32 bits, without
 * paging: our own machine and QEMU (with bench/virtio-entry.S) run the same code.
 */
#include "carrel.h"
#include "virtio.h"

static uint32_t plan[128];
static char buffer[128 * 1024] __attribute__((aligned(4096)));

int main(void) {
  if (disk_open() < 0 || disk_read(0, plan, 1) != 0) {
    outb(PORT_BYTE, '!');
    return 1;
  }
  uint32_t each = plan[0], count = plan[1], sectors = disk_sectors();
  outb(PORT_BYTE, 's');
  outb(PORT_BYTE, '\n');
  for (uint32_t request = 0, sector = 0; request < count; request++) {
    if (disk_read(sector, buffer, each) != 0) {
      outb(PORT_BYTE, '!');
      return 1;
    }
    sector += each;
    if (sector + each > sectors) sector = 0;
  }
  outb(PORT_BYTE, 'e');
  outb(PORT_BYTE, '\n');
  return 0;
}
