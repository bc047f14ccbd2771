/*
 * The way into and out of the guests of the virtio benchmarks: an ELF note with the 32-bit entry for QEMU (PVH:
 * xen/include/public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY), a stack, and the port that ends the machine (QEMU's device
 * isa-debug-exit; a Linux machine of ours has it too).
 */
#ifdef __x86_64__
#define STACK_POINTER %rsp
        .code64
#else
#define STACK_POINTER %esp
        .code32
#endif
        .section .note.pvh, "a", @note
        .long   4, 4, 18
        .asciz  "Xen"
        .long   _start

        .section .start, "ax"
        .globl  _start
_start:
        mov     $stack, STACK_POINTER
        call    main
        mov     $0xf4, %dx
        out     %al, %dx
1:      hlt
        jmp     1b

        .bss
        .align  16
        .skip   16384
stack:
        .section .note.GNU-stack, "", @progbits
