/* A guest to try your functions with: carrel vmm run try.c --trace */
#include "hypercalls.c"

int main(void) {
  char text[64];
  for (int round = 0; round < 7; round++) print("x");
  to_text(exits(), text); /* how many should it be? */
  print("\n");
  print(text);
  print("\n");
  if (exits_by_type(text, sizeof text) > 0) print(text);
  struct translation place;
  if (translate(text, &place) == 0) print("text is somewhere\n");
  return 42;
}
