/* Takes away its own page: PD[0] is gone, and with it the next instruction. */
#include "carrel.h"

int main(void) {
  *(volatile uint64_t *)0x4000 = 0;
  uint64_t root;
  __asm__ volatile("mov %%cr3, %0\n\tmov %0, %%cr3" : "=r"(root) : : "memory"); /* forget translations */
  return 0;
}
