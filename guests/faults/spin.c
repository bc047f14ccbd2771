/* Never ends, and never leaves for the host. */
int main(void) {
  for (;;)
    ;
}
