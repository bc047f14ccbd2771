/* What hypercalls.c has to offer. Answers below zero are the numbers of errno.h, negated. */
#ifndef HYPERCALLS_H
#define HYPERCALLS_H

#include <stdint.h>

/* Prints a string of any length, with exactly one exit. */
void print(const char *string);

/* Exits so far, the one that asks included. */
uint32_t exits(void);

/* Writes "IO in: N\nIO out: M\n" and a NUL byte into the buffer. */
int exits_by_type(char *buffer, int size);

struct translation {
  uint64_t guest_physical, host_virtual, host_physical;
};

/* 0, or -14 if the address leads nowhere. */
int translate(const volatile void *address, struct translation *result);

/* The number in decimal, and a NUL byte: at most 11 bytes. The host shall not help. */
void to_text(uint32_t number, char *text);

#endif
