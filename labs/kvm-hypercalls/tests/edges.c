#include "hypercalls.h"

static volatile uint32_t numbers[] = {0, 4294967295u};

int main(void) {
  char text[16];
  for (int at = 0; at < 2; at++) {
    to_text(numbers[at], text);
    print(text);
    print("\n");
  }
  return 0;
}
