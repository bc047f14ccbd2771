# Real mode: an answer in memory and in AX. One exit.
        .code16
        .globl  _start
_start:
        mov     $42, %ax
        mov     %ax, 0x400
        hlt
