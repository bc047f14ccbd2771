#include "hypercalls.h"

#include "ports.h"

/* A call with an answer: the arguments of a C function, and EAX. */
static inline int call(uint16_t port, const volatile void *first, uint64_t second) {
  int answer;
  __asm__ volatile("inl %1, %0" : "=a"(answer) : "Nd"(port), "D"(first), "S"(second) : "memory");
  return answer;
}

void print(const char *string) {
  for (; *string; string++) __asm__ volatile("outb %0, %1" : : "a"(*string), "Nd"((uint16_t)PORT_BYTE));
}

uint32_t exits(void) { return (uint32_t)call(PORT_EXITS, 0, 0); }

int exits_by_type(char *buffer, int size) { return call(PORT_EXITS_BY_TYPE, buffer, (uint64_t)size); }

int translate(const volatile void *address, struct translation *result) {
  return call(PORT_TRANSLATE, address, (uint64_t)result);
}

void to_text(uint32_t number, char *text) {
  char digits[10];
  int count = 0;
  do digits[count++] = (char)('0' + number % 10);
  while ((number /= 10) != 0);
  while (count > 0) *text++ = digits[--count];
  *text = '\0';
}
