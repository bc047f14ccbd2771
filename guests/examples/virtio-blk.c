/*
 * A disk: prints what sector 0 has to say, copies the first half of the disk over the second, sector by sector, and
 * returns how many sectors it has copied.
 */
#include "carrel.h"
#include "virtio.h"

static char sector[512 + 1]; /* and the end of a string */

int main(void) {
  if (disk_open() < 0) {
    print("there is no disk\n");
    return -1;
  }
  uint32_t half = disk_sectors() / 2;
  if (disk_read(0, sector, 1) != 0) return -1;
  print(sector);
  for (uint32_t each = 0; each < half; each++) {
    if (disk_read(each, sector, 1) != 0) return -1;
    if (disk_write(half + each, sector, 1) != 0) return -1;
  }
  if (disk_flush() != 0) return -1;
  return (int)half;
}
