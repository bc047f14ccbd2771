#include "carrel.h"

/* Present, writable, user, a page of 2 MiB: what the entry before it has as well. */
enum { PAGE = 0x87 };

int main(void) {
  uint64_t cr3;
  __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
  if (cr3 >= 0x200000) return 0;
  volatile uint64_t *directory = (volatile uint64_t *)0x4000;
  directory[1] = 0 | PAGE; /* 0x200000 to 0x3fffff is now guest-physical 0 to 0x1fffff */
  __asm__ volatile("mov %0, %%cr3" : : "r"(cr3) : "memory");
  volatile long *word = (volatile long *)(0x200000 + 0x1800);
  *word = 4711;
  return (int)*word;
}
