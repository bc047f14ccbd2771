/*
 * The other hypercall: an instruction that KVM answers itself, in the kernel, without asking the monitor. What there
 * is to call is the host's affair (hypercalls.rst in the Linux source); `--vmcall model` simulates a kernel that has
 * the calls from 100 on as well (src/vmm/vmcall/calls.ts). A call that nobody knows answers -1000.
 *
 * The number is in RAX, the arguments are in RBX, RCX, RDX and RSI, the answer is in RAX. In assembly, label the
 * instruction vmcall_NAME: the label is how the model finds it.
 */
#ifndef CARREL_VMCALL_H
#define CARREL_VMCALL_H

enum {
  VMCALL_POLL_IRQ = 1,       /* does nothing */
  VMCALL_MAP_GPA_RANGE = 12, /* address, pages, attributes: the one that KVM hands to the monitor */
  VMCALL_EXITS = 100,        /* exits so far, this being none */
  VMCALL_ADD = 101,          /* first, second */
  VMCALL_PRINT = 102,        /* string: into the kernel's log */
};

static inline long vmcall(long number, long first, long second, long third, long fourth) {
  long result;
  __asm__ volatile("vmcall_%=: vmcall"
                   : "=a"(result)
                   : "a"(number), "b"(first), "c"(second), "d"(third), "S"(fourth)
                   : "memory");
  return result;
}

#endif
