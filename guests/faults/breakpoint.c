/* int3 wants a handler, and there is no interrupt table. */
int main(void) {
  __asm__ volatile("int3");
  return 0;
}
