/*
 * The baseline of bench/kvm.ts: a VMM in C that does the least that can be done.
 *
 *   kvm VCPUS EXITS GUEST     GUEST is machine code as hex, run in long mode in windows of 2 MiB
 *
 * RCX is EXITS and RDX 0xe9 at the start. Prints nanoseconds as JSON: from main to the last HLT, of the loops
 * (longest vCPU) and of the processor.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

enum { WINDOW = 2 << 20, MOST = 64 };

struct vcpu {
  int fd;
  struct kvm_run *run;
  uint64_t exits, sum, ns;
  pthread_t thread;
};

static uint64_t now(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static int check(int result, const char *what) {
  if (result >= 0) return result;
  perror(what);
  exit(1);
}

static void *loop(void *argument) {
  struct vcpu *vcpu = argument;
  uint64_t began = now(CLOCK_MONOTONIC);
  for (;;) {
    check(ioctl(vcpu->fd, KVM_RUN, 0), "KVM_RUN");
    vcpu->exits++;
    if (vcpu->run->exit_reason == KVM_EXIT_HLT) break;
    if (vcpu->run->exit_reason != KVM_EXIT_IO) exit(2);
    vcpu->sum += *((uint8_t *)vcpu->run + vcpu->run->io.data_offset) + vcpu->run->io.port;
  }
  vcpu->ns = now(CLOCK_MONOTONIC) - began;
  return NULL;
}

static void prepare(struct vcpu *vcpu, int vm, int index, char *window, uint64_t exits, size_t run_bytes) {
  uint64_t base = (uint64_t)index * WINDOW;
  vcpu->fd = check(ioctl(vm, KVM_CREATE_VCPU, index), "KVM_CREATE_VCPU");
  vcpu->run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
  *(uint64_t *)(window + 0x2000) = (base + 0x3000) | 7;
  *(uint64_t *)(window + 0x3000) = (base + 0x4000) | 7;
  *(uint64_t *)(window + 0x4000) = base | 0x87;
  struct kvm_sregs special;
  check(ioctl(vcpu->fd, KVM_GET_SREGS, &special), "KVM_GET_SREGS");
  struct kvm_segment flat = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
  special.cs = flat;
  flat.selector = 16, flat.type = 3, flat.l = 0, flat.db = 1;
  special.ds = special.es = special.fs = special.gs = special.ss = flat;
  special.cr3 = base + 0x2000, special.cr4 = 0x20, special.cr0 = 0x80050033, special.efer = 0x500;
  check(ioctl(vcpu->fd, KVM_SET_SREGS, &special), "KVM_SET_SREGS");
  struct kvm_regs registers = {.rcx = exits, .rdx = 0xe9, .rsp = WINDOW, .rflags = 2};
  check(ioctl(vcpu->fd, KVM_SET_REGS, &registers), "KVM_SET_REGS");
}

int main(int count, char **words) {
  if (count != 4) return 64;
  uint64_t began = now(CLOCK_MONOTONIC);
  int vcpus = atoi(words[1]);
  if (vcpus < 1 || vcpus > MOST) return 64;
  int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  int vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  check(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
  size_t bytes = (size_t)vcpus * WINDOW;
  char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  struct kvm_userspace_memory_region region = {.memory_size = bytes, .userspace_addr = (uintptr_t)memory};
  check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  int run_bytes = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
  static struct vcpu all[MOST];
  for (int index = 0; index < vcpus; index++) {
    char *window = memory + (size_t)index * WINDOW;
    for (size_t at = 0; words[3][2 * at]; at++) sscanf(words[3] + 2 * at, "%2hhx", window + at);
    prepare(&all[index], vm, index, window, strtoull(words[2], NULL, 0), run_bytes);
  }
  uint64_t longest = 0;
  for (int index = 0; index < vcpus; index++) pthread_create(&all[index].thread, NULL, loop, &all[index]);
  for (int index = 0; index < vcpus; index++) {
    pthread_join(all[index].thread, NULL);
    if (all[index].ns > longest) longest = all[index].ns;
  }
  printf("{\"totalNs\":%llu,\"loopNs\":%llu,\"cpuNs\":%llu,\"exits\":%llu}\n",
         (unsigned long long)(now(CLOCK_MONOTONIC) - began), (unsigned long long)longest,
         (unsigned long long)now(CLOCK_PROCESS_CPUTIME_ID), (unsigned long long)(all[0].exits * vcpus));
  return 0;
}
