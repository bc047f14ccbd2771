#include "carrel.h"

/* The tables of vCPU N lie in its own memory, N times 2 MiB from the beginning. */
static int vcpu_number(void) {
  uint64_t cr3;
  __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
  return cr3 != 0x2000;
}

int main(void) {
  int number = vcpu_number();
  char text[] = "I am vCPU 0\n";
  text[10] = (char)('0' + number);
  print(text);
  *(volatile long *)0x800 = 100 + number;
  return number;
}
