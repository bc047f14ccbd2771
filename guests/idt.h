/*
 * For guests that want to survive their faults: an interrupt descriptor table of their own. Without one every
 * exception becomes a triple fault and ends the vCPU. Needs carrel.h and the port map "carrel"; 32 and 64 bits.
 *
 *     #include "carrel.h"
 *     #include "idt.h"
 *     int main(void) {
 *       idt_install();
 *       const struct fault *fault = survive();       // 0; and once more, if there is a fault from here on
 *       if (fault) return print_fault(fault), 1;
 *       *(volatile int *)0x400000 = 42;              // nothing is there: page fault
 *       return 42;
 *     }
 *
 * What happens at a fault, in this order:
 *   1. a handler that on_fault() has set may repair it, and says by its result whether the guest goes on;
 *   2. a point set by survive() is gone back to, as with setjmp and longjmp;
 *   3. the fault is printed and handed to the host, which ends the vCPU with it.
 *
 * How it works (Intel SDM volume 3A, chapter 6): the processor looks up the vector in the table, pushes SS, RSP,
 * RFLAGS, CS, RIP and for some vectors an error code, and goes on at the address that the table has. Thirty-two
 * small stubs push what is missing, all registers and CR2, and call a function in C with a pointer to that.
 */
#ifndef CARREL_IDT_H
#define CARREL_IDT_H

#include "carrel.h"

#if GUEST_BITS == 16
#error "real mode has no descriptors: its table is 256 far pointers at address 0"
#endif

/* What the stubs leave on the stack: the lowest address first. Registers may be changed, and take effect. */
struct fault {
  uintptr_t address; /* CR2: of a page fault, else of the last one */
#if GUEST_BITS == 64
  uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rdx, rcx, rbx, rax;
#else
  uint32_t rdi, rsi, rbp, unused, rbx, rdx, rcx, rax; /* EDI and so on, by pusha */
#endif
  uintptr_t vector, error, rip, cs, flags;
#if GUEST_BITS == 64
  uint64_t rsp, ss; /* 32 bits push them only when the privilege changes */
#endif
};

/* Repairs a fault, by f->rip += 2 for one, and returns 1 to go on there. 0: it cannot. */
typedef int (*fault_handler)(struct fault *f);

enum { FAULT_DIVIDE = 0, FAULT_BREAKPOINT = 3, FAULT_OPCODE = 6, FAULT_DOUBLE = 8, FAULT_PROTECTION = 13, FAULT_PAGE = 14 };

/* Volatile: no compiler sees who reads it, nor when. What a handler shares with the rest of a guest is so as well. */
static fault_handler volatile fault_handlers[32];

static inline void on_fault(int vector, fault_handler handler) { fault_handlers[vector] = handler; }

/* Registers that a C function leaves as they were, its stack, and where it returns to. */
static uintptr_t survive_at[8] __attribute__((used));
static struct fault survive_fault __attribute__((used));

/* Remembers this place. Returns 0 now; after a fault it returns again, with the fault. For one fault only. */
const struct fault *survive(void) __attribute__((returns_twice));

/* Thirty-two entries of 16 bytes each, which push what the processor has not. Those that have an error code: 8, 10 to 14, 17,
 * 21, 29, 30. */
#define FAULT_STUBS \
  ".align 16\n" \
  "fault_stubs:\n" \
  ".set fault_vector, 0\n" \
  ".rept 32\n" \
  "  .align 16\n" \
  "  .if (0x60227d00 >> fault_vector) & 1\n" \
  "  .else\n" \
  "  push $0\n" \
  "  .endif\n" \
  "  push $fault_vector\n" \
  "  jmp fault_common\n" \
  "  .set fault_vector, fault_vector + 1\n" \
  ".endr\n"

#if GUEST_BITS == 64
__asm__(".text\n"
        "survive:\n"
        "  pop %rdx\n" /* the return address: what is below it is ours no more when survive returns again */
        "  mov %rbx, survive_at+8\n"
        "  mov %rbp, survive_at+16\n"
        "  mov %r12, survive_at+24\n"
        "  mov %r13, survive_at+32\n"
        "  mov %r14, survive_at+40\n"
        "  mov %r15, survive_at+48\n"
        "  mov %rsp, survive_at+56\n"
        "  mov %rdx, survive_at\n"
        "  xor %eax, %eax\n"
        "  jmp *%rdx\n"
        "survive_again:\n"
        "  mov survive_at+8, %rbx\n"
        "  mov survive_at+16, %rbp\n"
        "  mov survive_at+24, %r12\n"
        "  mov survive_at+32, %r13\n"
        "  mov survive_at+40, %r14\n"
        "  mov survive_at+48, %r15\n"
        "  mov survive_at+56, %rsp\n"
        "  mov survive_at, %rdx\n"
        "  movq $0, survive_at\n"
        "  mov $survive_fault, %eax\n"
        "  jmp *%rdx\n"
        FAULT_STUBS
        "fault_common:\n"
        "  push %rax; push %rbx; push %rcx; push %rdx; push %rbp; push %rsi; push %rdi\n"
        "  push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15\n"
        "  mov %cr2, %rax\n"
        "  push %rax\n"
        "  mov %rsp, %rdi\n"
        "  mov %rsp, %rbp\n"
        "  and $-16, %rsp\n"
        "  call fault_entry\n" /* returns only if the guest goes on */
        "  mov %rbp, %rsp\n"
        "  add $8, %rsp\n"
        "  pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8\n"
        "  pop %rdi; pop %rsi; pop %rbp; pop %rdx; pop %rcx; pop %rbx; pop %rax\n"
        "  add $16, %rsp\n"
        "  iretq\n");
#else
__asm__(".text\n"
        "survive:\n"
        "  pop %edx\n"
        "  mov %ebx, survive_at+4\n"
        "  mov %ebp, survive_at+8\n"
        "  mov %esi, survive_at+12\n"
        "  mov %edi, survive_at+16\n"
        "  mov %esp, survive_at+20\n"
        "  mov %edx, survive_at\n"
        "  xor %eax, %eax\n"
        "  jmp *%edx\n"
        "survive_again:\n"
        "  mov survive_at+4, %ebx\n"
        "  mov survive_at+8, %ebp\n"
        "  mov survive_at+12, %esi\n"
        "  mov survive_at+16, %edi\n"
        "  mov survive_at+20, %esp\n"
        "  mov survive_at, %edx\n"
        "  movl $0, survive_at\n"
        "  mov $survive_fault, %eax\n"
        "  jmp *%edx\n"
        FAULT_STUBS
        "fault_common:\n"
        "  pusha\n"
        "  mov %cr2, %eax\n"
        "  push %eax\n"
        "  mov %esp, %eax\n"
        "  mov %esp, %ebp\n"
        "  and $-16, %esp\n"
        "  sub $12, %esp\n"
        "  push %eax\n"
        "  call fault_entry\n"
        "  mov %ebp, %esp\n"
        "  add $4, %esp\n"
        "  popa\n"
        "  add $8, %esp\n"
        "  pushl 8(%esp)\n" /* iret, but for CS, which is the same: some KVMs do not emulate iret in 32 bits */
        "  popf\n"
        "  ret $8\n");
#endif

extern char fault_stubs[];
void survive_again(void) __attribute__((noreturn));

/* Text. */

static void print_hex(uintptr_t value) {
  char text[2 + 2 * sizeof value + 1];
  char *next = text + sizeof text - 1;
  *next = '\0';
  do *--next = "0123456789abcdef"[value & 15];
  while (value >>= 4);
  *--next = 'x';
  *--next = '0';
  print(next);
}

static const char *fault_name(uintptr_t vector) {
  switch (vector) {
    case 0: return "#DE divide error";
    case 1: return "#DB debug";
    case 3: return "#BP breakpoint";
    case 4: return "#OF overflow";
    case 6: return "#UD invalid opcode";
    case 8: return "#DF double fault";
    case 10: return "#TS invalid task state segment";
    case 11: return "#NP segment not present";
    case 12: return "#SS stack fault";
    case 13: return "#GP general protection";
    case 14: return "#PF page fault";
    case 17: return "#AC alignment check";
    default: return "exception";
  }
}

/* "#PF page fault, vector 14, error code 0x2, RIP 0x35c, CR2 0x400000: write, not mapped" */
static void print_fault(const struct fault *f) {
  print(fault_name(f->vector));
  print(", vector ");
  print_hex(f->vector);
  print(", error code ");
  print_hex(f->error);
  print(", RIP ");
  print_hex(f->rip);
  print(", CR2 ");
  print_hex(f->address);
  if (f->vector == FAULT_PAGE) { /* its error code: SDM volume 3A, figure 4-12 */
    print(f->rip == f->address ? ": fetch" : f->error & 2 ? ": write" : ": read");
    print(f->error & 8 ? ", reserved bit set" : f->error & 1 ? ", not allowed" : ", not mapped");
  }
  print("\n");
}

/* Hands the fault to the host, which ends this vCPU with it. */
static inline void give_up(const struct fault *f) {
  uint64_t words[4] = {f->vector, f->error, f->rip, f->address};
  for (;;) CARREL_CALL(PORT_GIVE_UP, words, 0, 0);
}

/* Called by the stubs. */
__attribute__((used)) static void fault_entry(struct fault *f) {
  fault_handler handler = fault_handlers[f->vector & 31];
  if (handler && handler(f)) return;
  if (survive_at[0]) {
    survive_fault = *f;
    survive_again();
  }
  print_fault(f);
  give_up(f);
}

/* Tables. */

struct idt_pointer {
  uint16_t limit;
  uintptr_t base;
} __attribute__((packed));

#if GUEST_BITS == 64
struct idt_gate {
  uint16_t low, selector;
  uint8_t stack, type;
  uint16_t middle;
  uint32_t high, zero;
} __attribute__((packed));

/* Task state segment: here for one purpose only, a stack for double faults (they happen when the other is bad). */
static uint32_t idt_tss[26];
static char idt_double_stack[1024] __attribute__((aligned(16)));
#else
struct idt_gate {
  uint16_t low, selector;
  uint8_t zero, type;
  uint16_t high;
} __attribute__((packed));
#endif

static struct idt_gate idt_gates[32];

/* The descriptors that CS and SS are loaded from on the way back: the same flat segments that the guest began with. */
static uint64_t idt_gdt[5] = {0, GUEST_BITS == 64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff};

/* From now on exceptions come here. */
static inline void idt_install(void) {
  for (int vector = 0; vector < 32; vector++) {
    uintptr_t stub = (uintptr_t)fault_stubs + 16 * vector;
#if GUEST_BITS == 64
    idt_gates[vector] = (struct idt_gate){stub, 8, vector == FAULT_DOUBLE, 0x8e, stub >> 16, stub >> 32, 0};
#else
    idt_gates[vector] = (struct idt_gate){stub, 8, 0, 0x8e, stub >> 16};
#endif
  }
#if GUEST_BITS == 64
  uint64_t tss = (uintptr_t)idt_tss, top = (uintptr_t)idt_double_stack + sizeof idt_double_stack;
  idt_tss[9] = top; /* IST1, below 4 GiB */
  idt_gdt[3] = (sizeof idt_tss - 1) | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
  idt_gdt[4] = tss >> 32;
#endif
  struct idt_pointer gdt = {sizeof idt_gdt - 1, (uintptr_t)idt_gdt};
  struct idt_pointer idt = {sizeof idt_gates - 1, (uintptr_t)idt_gates};
  __asm__ volatile("lgdt %0\n\tlidt %1" : : "m"(gdt), "m"(idt) : "memory");
#if GUEST_BITS == 64
  __asm__ volatile("ltr %w0" : : "r"(3 << 3) : "memory");
#endif
}

#endif
