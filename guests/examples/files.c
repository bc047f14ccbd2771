/* Exercise c: a file of the share. The second run finds what the first has written. */
#include "carrel.h"

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
