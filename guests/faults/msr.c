/* Reads a model-specific register that no processor has. */
#include "carrel.h"

int main(void) {
  uint32_t low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0x12345));
  return low;
}
