/*
 * The smallest first program: says a line, and resets the machine. It keeps a number in r12 before its first system
 * call, so that whoever sees its registers knows that its instructions ran.
 */
#define SYS_write 1
#define SYS_reboot 169
#define RB_MAGIC1 0xfee1dead
#define RB_MAGIC2 0x28121969
#define RB_AUTOBOOT 0x01234567

.section .note.GNU-stack, "", @progbits
.text
.globl _start
_start:
        mov     $42, %eax
        imul    $10, %rax, %r12
        mov     $SYS_write, %eax
        mov     $1, %edi
        lea     text(%rip), %rsi
        mov     $(text_end - text), %edx
        syscall
        mov     $SYS_reboot, %eax
        mov     $RB_MAGIC1, %edi
        mov     $RB_MAGIC2, %esi
        mov     $RB_AUTOBOOT, %edx
        syscall
        hlt
text:
        .ascii "Hello, world, from the first program!\n"
text_end:
