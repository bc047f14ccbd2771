/* Hands the host a pointer to nowhere. */
#include "carrel.h"

int main(void) {
  print((char *)0x80000000);
  return 0;
}
