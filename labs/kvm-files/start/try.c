/* A guest to try your functions with: carrel vmm run try.c --share DIRECTORY; and once more. */
#include "files.c"

static void print(const char *string) {
  for (; *string; string++) __asm__ volatile("outb %0, %1" : : "a"(*string), "Nd"((uint16_t)PORT_BYTE));
}

int main(void) {
  char buffer[33];
  if (open("c.txt") != 0) {
    print("cannot open c.txt\n");
    return 1;
  }
  int length = read(buffer, sizeof buffer - 1);
  buffer[length > 0 ? length : 0] = '\0'; /* read does not do that */
  print(length == 0 ? "nothing to read\n" : buffer);
  int written = write("test\n", 5);
  close();
  return written;
}
