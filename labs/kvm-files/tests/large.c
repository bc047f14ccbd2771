#include "files.h"

static char text[5000];

int main(void) {
  for (int at = 0; at < 5000; at++) text[at] = (char)('0' + at % 10);
  if (open("large.txt") != 0) return -1;
  int written = write(text, 5000);
  close();
  return written;
}
