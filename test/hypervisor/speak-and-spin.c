/* Says that it runs, and runs for ever. */
#include "carrel.h"

int main(void) {
  print("here\n");
  for (;;)
    ;
}
