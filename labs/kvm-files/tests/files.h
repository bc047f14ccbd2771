/* What files.c has to offer. Answers below zero are the numbers of errno.h, negated. */
#ifndef FILES_H
#define FILES_H

#include <stdint.h>

/* One file of the share at a time. open makes it if it is not there, reads from its beginning, writes at its end. */
int open(const char *path); /* 0 */
int read(void *buffer, int length);
int write(const void *buffer, int length);
int close(void);

/* Several files, by number. Flags and whence are those of Linux. */
enum { O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0100, O_TRUNC = 01000, O_APPEND = 02000 };
enum { SEEK_SET = 0, SEEK_CUR = 1, SEEK_END = 2 };

int file_open(const char *path, int flags);
int file_read(int file, void *buffer, int length);
int file_write(int file, const void *buffer, int length);
int file_seek(int file, int offset, int whence);
int file_close(int file);

#endif
