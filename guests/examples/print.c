/* Exercise b: a string is one exit, however long. */
#include "carrel.h"

int main(void) {
  uint32_t before = exits();
  print("a string of forty characters, just about\n");
  uint32_t after = exits();
  print("exits for it, besides the one that asks: ");
  print_number(after - before - 1);
  char counts[64];
  if (exits_by_type(counts, sizeof counts) > 0) print(counts);
  return 0;
}
