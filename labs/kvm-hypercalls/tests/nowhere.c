#include "hypercalls.h"

static struct translation place;

int main(void) { return translate((void *)0x400000, &place); }
