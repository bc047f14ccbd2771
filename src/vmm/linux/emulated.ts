/**
 * Linux on a KVM that emulates (kvm-pvm: the kernel side of a guest is interpreted, the user side runs on the
 * processor). A kernel boots there with these parameters, up to its first system call.
 *
 * CPUID on such a host is the host's, whatever KVM_SET_CPUID2 says, and kernels patch themselves to use what it
 * names; so what the interpreter does not know has to be switched off by the kernel itself.
 */

/** X86_FEATURE_* of arch/x86/include/asm/cpufeatures.h, word * 32 + bit: what the interpreter does not know. */
const unknownFeatures: Readonly<Record<string, number>> = {
  cx16: 141,
  pcid: 145,
  sse4_1: 147,
  sse4_2: 148,
  movbe: 150,
  popcnt: 151,
  aes: 153,
  xsave: 154,
  avx: 156,
  rdrand: 158,
  ssse3: 137,
  pclmulqdq: 129,
  fsgsbase: 288,
  bmi1: 291,
  avx2: 293,
  smep: 295,
  bmi2: 296,
  erms: 297,
  invpcid: 298,
  rdseed: 306,
  adx: 307,
  smap: 308,
  clflushopt: 311,
  clwb: 312,
  umip: 514,
  rdpid: 534,
  fsrm: 580,
};

/** For the end of the command line. */
export const emulationParameters = `noxsave nofsgsbase no_timer_check tsc=reliable clearcpuid=${Object.values(unknownFeatures).join(',')}`;

/** For people: what to expect. */
export const emulationLimit =
  'Linux boots here to the first system call of its first program and no further: at user privilege the instruction ' +
  'syscall jumps to the kernel’s entry point (LSTAR) without leaving user privilege, so that the processor refuses the ' +
  'first instruction there (a page fault with RIP in the kernel and CS of the user), and int 0x80 is an invalid opcode. ' +
  'Virtual machines of the cloud use QEMU’s emulation instead';
