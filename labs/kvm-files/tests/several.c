#include "files.h"

static void print(const char *string, int length) {
  for (int at = 0; at < length; at++) __asm__ volatile("outb %0, $0xe9" : : "a"(string[at]));
}

static char text[8];

int main(void) {
  int numbers = file_open("numbers.txt", O_RDWR | O_CREAT | O_TRUNC);
  int copy = file_open("copy.txt", O_WRONLY | O_CREAT | O_TRUNC);
  if (numbers < 0 || copy < 0 || numbers == copy) return -1;
  file_write(numbers, "12345", 5);
  if (file_seek(numbers, 2, SEEK_SET) != 2) return -2;
  int length = file_read(numbers, text, 5);
  file_write(copy, text, length);
  print(text, length);
  file_close(numbers);
  return file_close(copy);
}
