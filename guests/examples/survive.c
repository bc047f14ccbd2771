/* Faults that a guest survives: one by going back, one by a repair, one not at all. */
#include "carrel.h"
#include "idt.h"

/* div %ecx is two bytes long: as if it had not been there. */
static int skip_division(struct fault *f) {
  f->rip += 2;
  f->rax = 7;
  return 1;
}

int main(void) {
  idt_install();

  const struct fault *fault = survive(); /* returns twice: this time 0 */
  if (fault) {
    print("survived: ");
    print_fault(fault);
  } else {
    __asm__ volatile("ud2"); /* no instruction */
    print("never printed\n");
  }

  on_fault(FAULT_DIVIDE, skip_division);
  uint32_t quotient = 42, rest = 0;
  __asm__ volatile("div %%ecx" : "+a"(quotient), "+d"(rest) : "c"(0));
  print("42 / 0 is ");
  print_number(quotient);

  print("and now without a way back\n");
  __asm__ volatile("ud2");
  return 1;
}
