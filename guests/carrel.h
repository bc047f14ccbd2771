/*
 * For guests: ports, and the hypercalls that the host offers behind them. Works in all four modes.
 *
 *     #include "carrel.h"
 *     int main(void) {
 *       print("Hello, world!\n");
 *       return 42;
 *     }
 *
 * What main returns is in RAX when the guest halts. Answers below zero are errors, the numbers of errno.h negated:
 * -2 no such file, -9 bad file, -14 bad address, -22 bad argument, -114 already open, -122 over the quota.
 */
#ifndef CARREL_H
#define CARREL_H

#include <stdint.h>

#include "ports.h"

/* Ports: one byte, or 32 bits. */

static inline void outb(uint16_t port, uint8_t value) {
  __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

static inline void outl(uint16_t port, uint32_t value) {
  __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint32_t inl(uint16_t port) {
  uint32_t value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

/* A hypercall with a result: `in` with the arguments of a C function. The port must be a constant below 256. */
#define CARREL_CALL(port, first, second, third)                                                         \
  ({                                                                                                    \
    int carrel_result;                                                                                  \
    __asm__ volatile("inl %1, %0"                                                                       \
                     : "=a"(carrel_result)                                                              \
                     : "N"(port), "D"(first), "S"(second), "d"(third)                                   \
                     : "memory");                                                                       \
    carrel_result;                                                                                      \
  })

/* Output. */

static inline void print(const char *string) { outl(PORT_PRINT, (uint32_t)(uintptr_t)string); }

static inline void print_number(uint32_t number) { outl(PORT_NUMBER, number); }

/* Exits so far, this one included. */
static inline uint32_t exits(void) { return inl(PORT_EXITS); }

/* "IO in: N\nIO out: M\n" */
static inline int exits_by_type(char *buffer, int size) {
  return CARREL_CALL(PORT_EXITS_BY_TYPE, buffer, size, 0);
}

/* Where a byte of ours lies: guest-physical, host-virtual, host-physical (0 if the host does not tell). */
struct translation {
  uint64_t guest_physical, host_virtual, host_physical;
};

static inline int translate(const volatile void *address, struct translation *result) {
  return CARREL_CALL(PORT_TRANSLATE, address, result, 0);
}

/* One file of the share at a time, as in the assignment. open makes it if it is not there. */

static inline int open(const char *path) { return CARREL_CALL(PORT_OPEN, path, 0, 0); }
static inline int read(void *buffer, int length) { return CARREL_CALL(PORT_READ, buffer, length, 0); }
static inline int write(const void *buffer, int length) { return CARREL_CALL(PORT_WRITE, buffer, length, 0); }
static inline int close(void) { return CARREL_CALL(PORT_CLOSE, 0, 0, 0); }

/* Several files, by number. Flags and whence are those of Linux. */

enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0100, O_TRUNC = 01000, O_APPEND = 02000 };
enum { SEEK_SET = 0, SEEK_CUR = 1, SEEK_END = 2 };

static inline int file_open(const char *path, int flags) { return CARREL_CALL(PORT_FILE_OPEN, path, flags, 0); }
static inline int file_read(int file, void *buffer, int length) {
  return CARREL_CALL(PORT_FILE_READ, file, buffer, length);
}
static inline int file_write(int file, const void *buffer, int length) {
  return CARREL_CALL(PORT_FILE_WRITE, file, buffer, length);
}
static inline int file_seek(int file, int offset, int whence) {
  return CARREL_CALL(PORT_FILE_SEEK, file, offset, whence);
}
static inline int file_close(int file) { return CARREL_CALL(PORT_FILE_CLOSE, file, 0, 0); }

#endif
