#include "hypercalls.h"

int main(void) {
  print("a string of forty characters, just about\n");
  return 0;
}
