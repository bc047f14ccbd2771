/* Where does a variable live? Prints the lower halves of the addresses. */
#include "carrel.h"

static int variable;

int main(void) {
  struct translation place;
  if (translate(&variable, &place) < 0) return 1;
  print("guest-virtual   ");
  print_number((uint32_t)(uintptr_t)&variable);
  print("guest-physical  ");
  print_number((uint32_t)place.guest_physical);
  print("host-virtual    ");
  print_number((uint32_t)place.host_virtual);
  print("host-physical   ");
  print_number((uint32_t)place.host_physical);
  return translate((void *)0x400000, &place); /* -14: there is nothing */
}
