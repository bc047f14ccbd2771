/* The first instruction of a guest in C. Weak: a guest may bring its own _start. */
        .weak   _start
        .weak   main
        .section .start, "ax"
#if GUEST_BITS == 16
        .code16gcc
#endif
_start:
        call    main            /* what it returns stays in RAX */
1:      hlt
        jmp     1b

        .section .note.GNU-stack, "", @progbits
