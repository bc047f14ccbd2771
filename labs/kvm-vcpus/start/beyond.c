/* GAP 2: vCPU 0 prints "done" and returns 42. Every other one writes to the first address that it does not have. */
#include "carrel.h"

int main(void) {
  print("done\n");
  return 42;
}
