/* Calls through a pointer to a function that nobody has set to one. */
#include "carrel.h"

int main(void) {
  int (*volatile function)(void) = (int (*)(void))0x12345678;
  return function();
}
