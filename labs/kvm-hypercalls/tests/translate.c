#include "hypercalls.h"

static struct translation place = {1, 1, 1};

/* The tables map every address to itself; where the host has it, only the host can say. */
int main(void) {
  int answer = translate((void *)0x1234, &place);
  if (answer != 0) return answer;
  return place.host_virtual > 1 ? (int)place.guest_physical : -1;
}
