#include "hypercalls.h"

int main(void) {
  for (int round = 0; round < 7; round++) print("x");
  uint32_t first = exits();
  uint32_t second = exits();
  return (int)(second << 8 | first);
}
