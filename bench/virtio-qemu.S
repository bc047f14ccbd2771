/*
 * The way into and out of the guest under QEMU: an ELF note with the 32-bit entry (PVH: xen/include/public/elfnote.h,
 * XEN_ELFNOTE_PHYS32_ENTRY), a stack, and the port of the device isa-debug-exit.
 */
        .code32
        .section .note.pvh, "a", @note
        .long   4, 4, 18
        .asciz  "Xen"
        .long   _start

        .section .start, "ax"
        .globl  _start
_start:
        mov     $stack, %esp
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
