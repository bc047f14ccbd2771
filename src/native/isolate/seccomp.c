/*
 * System call filters: a table of what is refused, compiled into BPF. Everything else is allowed; namespaces,
 * ids and capabilities carry the weight, and the filter closes what they do not cover: keyrings, vsock, locks
 * and leases on files that sandboxes share, io_uring, foreign system call tables, and most of the kernel's
 * rarely used entries.
 */
#define _GNU_SOURCE
#include "isolate.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "the system call tables here are those of x86-64"
#endif
#ifndef F_OFD_SETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif
/* The first system call of Linux 6.5 and later: cachestat, then what nobody has looked at here. One of them tells what
 * others read of a shared file, another does what open_tree and mount_setattr do. Every C library has a way without. */
enum { SANDBOX = 1, MACHINE = 2, BOTH = 3, MAX_FILTER = 512, NOT_LOOKED_AT = 451, X32 = 0x40000000, VSOCK = 40 };

/* clang-format off */
static const struct { unsigned number; unsigned short error; unsigned char in; } refused[] = {
  { SYS_keyctl, ENOSYS, BOTH }, { SYS_add_key, ENOSYS, BOTH }, { SYS_request_key, ENOSYS, BOTH },
  { SYS_io_uring_setup, ENOSYS, BOTH }, { SYS_io_uring_enter, ENOSYS, BOTH }, { SYS_io_uring_register, ENOSYS, BOTH },
  { SYS_bpf, EPERM, BOTH }, { SYS_perf_event_open, EPERM, BOTH }, { SYS_userfaultfd, EPERM, BOTH },
  { SYS_kexec_load, EPERM, BOTH }, { SYS_kexec_file_load, EPERM, BOTH }, { SYS_init_module, EPERM, BOTH },
  { SYS_finit_module, EPERM, BOTH }, { SYS_delete_module, EPERM, BOTH }, { SYS_reboot, EPERM, BOTH },
  { SYS_swapon, EPERM, BOTH }, { SYS_swapoff, EPERM, BOTH }, { SYS_open_by_handle_at, EPERM, BOTH },
  { SYS_quotactl, EPERM, BOTH }, { SYS_quotactl_fd, EPERM, BOTH }, { SYS_syslog, EPERM, BOTH },
  { SYS_settimeofday, EPERM, BOTH }, { SYS_clock_settime, EPERM, BOTH }, { SYS_adjtimex, EPERM, BOTH },
  { SYS_clock_adjtime, EPERM, BOTH }, { SYS_acct, EPERM, BOTH }, { SYS_ioperm, EPERM, BOTH }, { SYS_iopl, EPERM, BOTH },
  { SYS_lookup_dcookie, EPERM, BOTH }, { SYS_nfsservctl, ENOSYS, BOTH }, { SYS_vhangup, EPERM, BOTH },
  { SYS_unshare, EPERM, SANDBOX }, { SYS_setns, EPERM, SANDBOX }, { SYS_mount, EPERM, SANDBOX },
  { SYS_umount2, EPERM, SANDBOX }, { SYS_pivot_root, EPERM, SANDBOX }, { SYS_chroot, EPERM, SANDBOX },
  { SYS_fsopen, EPERM, SANDBOX }, { SYS_fsconfig, EPERM, SANDBOX }, { SYS_fsmount, EPERM, SANDBOX },
  { SYS_fspick, EPERM, SANDBOX }, { SYS_move_mount, EPERM, SANDBOX }, { SYS_open_tree, EPERM, SANDBOX },
  { SYS_mount_setattr, EPERM, SANDBOX }, { SYS_name_to_handle_at, EPERM, SANDBOX },
  { SYS_clone3, ENOSYS, SANDBOX }, /* its flags lie in memory, where a filter cannot look */
  { SYS_flock, ENOLCK, SANDBOX }, { SYS_fanotify_init, EPERM, SANDBOX }, { SYS_inotify_add_watch, EPERM, SANDBOX },
  { SYS_mbind, EPERM, SANDBOX }, { SYS_migrate_pages, EPERM, SANDBOX },
  { SYS_move_pages, EPERM, SANDBOX }, { SYS_process_vm_readv, EPERM, SANDBOX }, { SYS_process_vm_writev, EPERM, SANDBOX },
  { SYS_pidfd_getfd, EPERM, SANDBOX }, { SYS_kcmp, EPERM, SANDBOX },
};
/* The same, in the 32-bit table of x86: a machine has it, for a course may well teach int 0x80. Without
 * socketcall (102), whose arguments lie in memory. */
static const struct { unsigned number; unsigned short error; } refused_32[] = {
  { 286, ENOSYS }, { 287, ENOSYS }, { 288, ENOSYS }, { 425, ENOSYS }, { 426, ENOSYS }, { 427, ENOSYS }, { 102, ENOSYS },
  { 357, EPERM }, { 336, EPERM }, { 374, EPERM }, { 283, EPERM }, { 128, EPERM }, { 350, EPERM }, { 129, EPERM },
  { 443, EPERM }, { 79, EPERM }, { 25, EPERM }, { 264, EPERM }, { 404, EPERM }, { 124, EPERM }, { 343, EPERM }, { 405, EPERM },
  { 51, EPERM }, { 253, EPERM }, { 169, ENOSYS }, { 111, EPERM },
  { 88, EPERM }, { 87, EPERM }, { 115, EPERM }, { 342, EPERM }, { 103, EPERM }, { 131, EPERM }, { 101, EPERM }, { 110, EPERM },
};
/* Locks and leases on an inode reach every sandbox that shares it; so do notifications. */
static const unsigned fcntl_refused[] = { F_GETLK, F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_SETLEASE, F_NOTIFY };
static const unsigned ioctl_refused[] = { 0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */ };
/* clang-format on */

struct filter { struct sock_filter code[MAX_FILTER]; unsigned short n; };

static void emit(struct filter *f, unsigned short code, unsigned k, unsigned char yes, unsigned char no) {
  if (f->n < MAX_FILTER) f->code[f->n++] = (struct sock_filter){ code, yes, no, k };
}
static void load(struct filter *f, size_t offset) { emit(f, BPF_LD | BPF_W | BPF_ABS, (unsigned)offset, 0, 0); }
static void load_number(struct filter *f) { load(f, offsetof(struct seccomp_data, nr)); }
static void load_argument(struct filter *f, size_t i) { load(f, offsetof(struct seccomp_data, args) + 8 * i); }
static void answer(struct filter *f, unsigned action) { emit(f, BPF_RET | BPF_K, action, 0, 0); }
static void refuse_if(struct filter *f, unsigned value, int error) {
  emit(f, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
  answer(f, SECCOMP_RET_ERRNO | (unsigned)error);
}
/* Looks at one argument of one system call; the low 32 bits, which is what the kernel uses of these. */
static void refuse_argument(struct filter *f, unsigned number, size_t argument, const unsigned *values, size_t n, int error) {
  emit(f, BPF_JMP | BPF_JEQ | BPF_K, number, 0, (unsigned char)(2 * n + 2));
  load_argument(f, argument);
  for (size_t i = 0; i < n; i++) refuse_if(f, values[i], error);
  load_number(f);
}
/* The same for bits. */
static void refuse_bits(struct filter *f, unsigned number, unsigned bits, int error) {
  emit(f, BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4);
  load_argument(f, 0);
  emit(f, BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
  answer(f, SECCOMP_RET_ERRNO | (unsigned)error);
  load_number(f);
}

static void machine_32(struct filter *f) {
  static const unsigned vsock[] = { VSOCK };
  load_number(f);
  for (size_t i = 0; i < sizeof refused_32 / sizeof *refused_32; i++) refuse_if(f, refused_32[i].number, refused_32[i].error);
  refuse_argument(f, 359, 0, vsock, 1, EAFNOSUPPORT);
  answer(f, SECCOMP_RET_ALLOW);
}

static void table_64(struct filter *f, int profile) {
  static const unsigned vsock[] = { VSOCK };
  load_number(f);
  emit(f, BPF_JMP | BPF_JGE | BPF_K, profile == SANDBOX ? NOT_LOOKED_AT : X32, 0, 1);
  answer(f, SECCOMP_RET_ERRNO | ENOSYS);
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    if (refused[i].in & profile) refuse_if(f, refused[i].number, refused[i].error);
  refuse_argument(f, SYS_socket, 0, vsock, 1, EAFNOSUPPORT);
  if (profile == SANDBOX) {
    refuse_argument(f, SYS_socketpair, 0, vsock, 1, EAFNOSUPPORT);
    refuse_argument(f, SYS_fcntl, 1, fcntl_refused, sizeof fcntl_refused / sizeof *fcntl_refused, ENOLCK);
    refuse_argument(f, SYS_ioctl, 1, ioctl_refused, 2, EPERM);
    refuse_bits(f, SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP, EPERM);
  }
  answer(f, SECCOMP_RET_ALLOW);
}

int seccomp_install(const char *name) {
  static struct filter f;
  int profile = !strcmp(name, "sandbox") ? SANDBOX : !strcmp(name, "machine") ? MACHINE : 0;
  if (!profile) { errno = EINVAL; return -1; }
  f.n = 0;
  load(&f, offsetof(struct seccomp_data, arch));
  if (profile == MACHINE) {
    struct filter *at = &f;
    emit(at, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_I386, 0, 0); /* the distance is filled in below */
    unsigned short jump = (unsigned short)(f.n - 1);
    machine_32(&f);
    f.code[jump].jf = (unsigned char)(f.n - jump - 1);
  }
  emit(&f, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
  answer(&f, SECCOMP_RET_KILL_PROCESS);
  table_64(&f, profile);
  if (f.n >= MAX_FILTER) { errno = E2BIG; return -1; }
  struct sock_fprog program = { f.n, f.code };
  return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
