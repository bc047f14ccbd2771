/* Two files at once, and back to the beginning. */
#include "carrel.h"

int main(void) {
  char text[6] = {0};
  int numbers = file_open("numbers.txt", O_RDWR | O_CREAT | O_TRUNC);
  int copy = file_open("copy.txt", O_WRONLY | O_CREAT | O_TRUNC);
  file_write(numbers, "12345", 5);
  file_seek(numbers, 2, SEEK_SET);
  int length = file_read(numbers, text, 5);
  file_write(copy, text, length);
  print(text);
  print("\n");
  file_close(numbers);
  return file_close(copy);
}
