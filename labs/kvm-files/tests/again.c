#include "files.h"

static void print(const char *string, int length) {
  for (int at = 0; at < length; at++) __asm__ volatile("outb %0, $0xe9" : : "a"(string[at]));
}

static char buffer[64];

/* The number of lines that are there is the number of runs before. */
int main(void) {
  char line[] = "a line of run 0\n";
  if (open("c.txt") != 0) return -1;
  int length = read(buffer, sizeof buffer);
  for (int at = 0; at < length; at++) line[14] += buffer[at] == '\n';
  if (write(line, 16) != 16) return -2;
  close();
  print(buffer, length);
  return length;
}
