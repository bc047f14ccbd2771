#include "carrel.h"

static struct translation place;

/* The host says where a variable of ours really is. */
static int vcpu_number(void) {
  if (translate(&place, &place) != 0) return -1;
  return (int)(place.guest_physical / 0x200000);
}

int main(void) {
  int number = vcpu_number();
  char text[] = "I am vCPU 0\n";
  text[10] = (char)('0' + number);
  print(text);
  *(volatile long *)0x800 = 100 + number;
  return number;
}
