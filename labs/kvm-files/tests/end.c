#include "files.h"

static char buffer[64] = "not nothing";

int main(void) {
  int answer = open("c.txt");
  if (answer != 0) return answer;
  int length = read(buffer, sizeof buffer);
  close();
  return buffer[0] == 'n' ? length : -1;
}
