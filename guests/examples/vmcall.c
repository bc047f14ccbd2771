/* Two ways to ask: by port, which leaves KVM for its monitor, and by vmcall, which KVM answers itself. */
#include "carrel.h"
#include "vmcall.h"

int main(void) {
  uint32_t before = exits();
  long sum = 0;
  for (int round = 0; round < 10; round++) sum = vmcall(VMCALL_ADD, 40, 2, 0, 0);
  uint32_t between = exits();
  for (int round = 0; round < 10; round++) exits();
  uint32_t after = exits();

  if (sum == 42)
    print("40 + 2 is 42\n");
  else if (sum == -1000)
    print("this kernel has no such call\n");
  print("exits for ten vmcalls, besides the one that asks: ");
  print_number(between - before - 1);
  print("exits for ten ports, besides the one that asks: ");
  print_number(after - between - 1);
  vmcall(VMCALL_PRINT, (long)"hello from the guest", 0, 0, 0);
  return sum;
}
