/* Writes behind the end of its memory: the other half belongs to the next vCPU. */
#include "carrel.h"

int main(void) {
  print("about to leave\n");
  *(volatile int *)0x200000 = 1;
  return 0;
}
