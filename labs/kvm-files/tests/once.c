#include "files.h"

int main(void) {
  int answer = open("c.txt");
  if (answer != 0) return answer;
  int written = write("test\n", 5);
  close();
  return written;
}
