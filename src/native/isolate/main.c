/* The command line: a program to isolate, or one of the services. */
#define _GNU_SOURCE
#include "isolate.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Holds the namespaces it was started in: until the end of its standard input if that is a pipe or a
 * socket, else until it is killed. */
static int hold(void) {
  struct stat s;
  bool lifeline = !fstat(0, &s) && (S_ISFIFO(s.st_mode) || S_ISSOCK(s.st_mode));
  char drop[64];
  if (chdir("/")) return 1;
  printf("holding\n");
  fflush(stdout);
  if (!lifeline)
    for (;;) pause();
  while (read(0, drop, sizeof drop) > 0) { }
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 0 && !strcmp(argv[0], "carrel-init")) return machine_init();
  bool serving = argc == 3 && !strcmp(argv[1], "--serve");
  if (serving) close_range(3, ~0U, 0); /* what leaks in from whoever began us would live on in every keeper */
  self_fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (serving) return serve(argv[2]);
  if (argc == 2 && !strcmp(argv[1], "--hold")) return hold();
  return shell(argc, argv);
}
