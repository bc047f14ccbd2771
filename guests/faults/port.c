/* Talks to a port that nobody listens to. */
#include "carrel.h"

int main(void) {
  outb(0x77, 1);
  return 0;
}
