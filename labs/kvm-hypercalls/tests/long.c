#include "hypercalls.h"

/* At address 0x8000: a pointer to it does not fit into 15 bits, the string not into 2047 bytes. */
static char text[3002] __attribute__((aligned(0x8000)));

int main(void) {
  for (int at = 0; at < 3000; at++) text[at] = (char)('0' + at % 10);
  text[3000] = '\n';
  print(text);
  return 0;
}
