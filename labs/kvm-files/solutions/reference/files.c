#include "files.h"

#include "ports.h"

/* The third argument is in RDX: so the port cannot be there, and must be a constant. */
#define CALL(port, first, second, third)                                                                      \
  ({                                                                                                          \
    int answer;                                                                                               \
    __asm__ volatile("inl %1, %0" : "=a"(answer) : "N"(port), "D"(first), "S"(second), "d"(third) : "memory"); \
    answer;                                                                                                   \
  })

int open(const char *path) { return CALL(PORT_OPEN, path, 0, 0); }
int read(void *buffer, int length) { return CALL(PORT_READ, buffer, length, 0); }
int write(const void *buffer, int length) { return CALL(PORT_WRITE, buffer, length, 0); }
int close(void) { return CALL(PORT_CLOSE, 0, 0, 0); }

int file_open(const char *path, int flags) { return CALL(PORT_FILE_OPEN, path, flags, 0); }
int file_read(int file, void *buffer, int length) { return CALL(PORT_FILE_READ, file, buffer, length); }
int file_write(int file, const void *buffer, int length) { return CALL(PORT_FILE_WRITE, file, buffer, length); }
int file_seek(int file, int offset, int whence) { return CALL(PORT_FILE_SEEK, file, offset, whence); }
int file_close(int file) { return CALL(PORT_FILE_CLOSE, file, 0, 0); }
