/* The room makes the image end at 0x300 with every compiler. */
#include "carrel.h"

__attribute__((used, aligned(0x200))) static char room[0x100];

int main(void) {
  for (const char *next = "Greetings from 2 MiB below\n"; *next; next++) outb(PORT_BYTE, *next);
  *(volatile long *)0x400 = 42;
  return 42;
}
