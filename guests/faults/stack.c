/* Recursion without an end: the stack grows down from 0x200000 until it is over the page tables. */
#include "carrel.h"

static int __attribute__((noinline)) deeper(int depth) {
  volatile long zeros[2] = {0, 0}; /* sooner or later one of them takes the place of PD[0] */
  return deeper(depth + 1) + zeros[depth & 1];
}

int main(void) { return deeper(0); }
