#include "carrel.h"

int main(void) {
  uint64_t cr3;
  __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
  if (cr3 >= 0x200000) *(volatile int *)0x200000 = 1;
  print("done\n");
  return 42;
}
