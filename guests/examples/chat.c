/* Says five words and ends: each is one exit, and a machine that shares its core by exits gives it away there. */
#include "carrel.h"

int main(void) {
  static const char *const words[] = {"one\n", "two\n", "three\n", "four\n", "five\n"};
  for (int word = 0; word < 5; word++) print(words[word]);
  return 42;
}
