#include "carrel.h"

void to_text(uint32_t number, char *text) { text[0] = (char)number; }
