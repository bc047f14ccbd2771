#include "carrel.h"

int main(void) {
  uint64_t cr3;
  __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
  if (cr3 < 0x200000) return 0;
  volatile long *word = (volatile long *)(cr3 + 0x1800);
  *word = 4711;
  return (int)*word;
}
