/* Shared by the two halves of early: up to the root (early.c), and on it (machine.c). */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

enum { PATH_BYTES = 4096 };

/* Says why on the console and switches the machine off. */
_Noreturn void give_up(const char *what);
/* At most size-1 bytes of a file and a NUL; -1 if there is none. */
ssize_t slurp(const char *path, char *text, size_t size);
bool write_all(int fd, const char *data, size_t size);
/* A file with this content: the old one or the new one, also after a power cut. false: the old one, errno says why. */
bool replaced(const char *path, const char *data, size_t size, mode_t mode, uid_t uid, gid_t gid);

/*
 * On the machine's own root: file systems, host name, agent, network and ssh, in the order in which somebody waits for
 * them. Gives the program that goes on: the system's init, or /sbin/carrel-init where a shell must do the rest.
 * `new_id`: of a machine whose seed has just been applied, to be written down when it is on the disk; may be empty.
 * `online`: it is still being made (src/images/disk/online.ts).
 */
const char *prepare_machine(const char *new_id, bool online);
