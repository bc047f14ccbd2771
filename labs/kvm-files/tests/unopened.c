#include "files.h"

static char buffer[64];

int main(void) { return read(buffer, sizeof buffer); }
