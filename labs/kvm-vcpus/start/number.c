/*
 * Runs on several vCPUs at once. All of them begin at address 0 with the same registers, and see 2 MiB from address 0
 * on: but not the same 2 MiB.
 */
#include "carrel.h"

/* GAP 1: which vCPU is this? Something is different on each of them, and a guest in kernel mode may look at it. */
static int vcpu_number(void) { return 0; }

/* Prints "I am vCPU N", leaves 100 + N at 0x800 and N in RAX. */
int main(void) {
  int number = vcpu_number();
  char text[] = "I am vCPU 0\n";
  text[10] = (char)('0' + number);
  print(text);
  *(volatile long *)0x800 = 100 + number;
  return number;
}
