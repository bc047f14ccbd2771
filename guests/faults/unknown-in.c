/* Asks a port that nobody answers on. */
#include "carrel.h"

int main(void) { return inl(0x78); }
