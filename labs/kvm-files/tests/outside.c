#include "files.h"

int main(void) { return open("../../../../etc/hostname"); }
