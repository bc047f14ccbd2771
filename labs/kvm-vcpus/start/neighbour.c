/*
 * GAP 3: vCPU 1 writes 4711 into the memory of vCPU 0, at that one's address 0x1800, and returns what it then reads
 * there. vCPU 0 does nothing at all: whoever rewrites his page tables needs nobody's help. The memory of vCPU 1 at
 * 0x1800 stays as it is.
 */
#include "carrel.h"

int main(void) { return 0; }
