/* Divides by zero, without a handler for it. */
#include "carrel.h"

int main(void) {
  volatile int one = 1, zero = 0;
  return one / zero;
}
