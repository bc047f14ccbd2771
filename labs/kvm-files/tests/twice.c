#include "files.h"

static void print(const char *string, int length) {
  for (int at = 0; at < length; at++) __asm__ volatile("outb %0, $0xe9" : : "a"(string[at]));
}

static void print_answer(int answer) {
  if (answer == -114) print("-114\n", 5);
  else print(answer == 0 ? "0\n" : "something else\n", answer == 0 ? 2 : 15);
}

int main(void) {
  if (open("a.txt") != 0) return -1;
  print_answer(open("b.txt"));
  close();
  print_answer(open("b.txt"));
  close();
  return 0;
}
