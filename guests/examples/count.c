/* Counts for ever, at 0x400: how far it gets is how long it had the processor. */
int main(void) {
  for (;;) ++*(volatile int *)0x400;
}
