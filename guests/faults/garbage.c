/* Jumps into data: the bytes of a text are no instructions. */
#include "carrel.h"

static const char text[] = "\x06\x07 this is no code";

int main(void) {
  int (*volatile function)(void) = (int (*)(void))(uintptr_t)text;
  return function();
}
