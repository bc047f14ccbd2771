/* A guest: it has no library and no operating system, only memory, registers and ports. */
#include "carrel.h"

int main(void) {
  /* Say something of your own: a line of 8 to 80 characters. */
  for (const char *next = "Hello, world!\n"; *next; next++) outb(PORT_BYTE, *next);
  *(volatile long *)0x400 = 42;
  return 42;
}
