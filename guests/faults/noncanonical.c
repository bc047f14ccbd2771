/* Reads from an address of 64 bits of which the processor has only 48: bit 47 is not repeated above it. */
#include "carrel.h"

int main(void) { return *(volatile int *)(0x8000ull << 32); }
