#include "hypercalls.h"

#include "ports.h"

static inline void outl(uint16_t port, uint32_t value) {
  __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

/* A call with an answer: the arguments of a C function, and EAX. */
static inline int call(uint16_t port, const volatile void *first, uint64_t second) {
  int answer;
  __asm__ volatile("inl %1, %0" : "=a"(answer) : "Nd"(port), "D"(first), "S"(second) : "memory");
  return answer;
}

void print(const char *string) { outl(PORT_PRINT, (uint32_t)(uintptr_t)string); }

uint32_t exits(void) { return (uint32_t)call(PORT_EXITS, 0, 0); }

int exits_by_type(char *buffer, int size) {
  (void)size;
  return call(PORT_EXITS_BY_TYPE, buffer, 0);
}

int translate(const volatile void *address, struct translation *result) {
  (void)result;
  return call(PORT_TRANSLATE, address, 0);
}

void to_text(uint32_t number, char *text) {
  char digits[10];
  int count = 0;
  do digits[count++] = (char)('0' + number % 10);
  while ((number /= 10) != 0);
  while (count > 0) *text++ = digits[--count];
  *text = '\0';
}
