#include "hypercalls.h"

static volatile uint32_t numbers[] = {7, 10, 65536, 1000000007};

int main(void) {
  char text[16];
  for (int at = 0; at < 4; at++) {
    to_text(numbers[at], text);
    print(text);
    print("\n");
  }
  return 0;
}
