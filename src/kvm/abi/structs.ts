/**
 * The structures of KVM on x86-64: their sizes and the offsets of the fields used here, under the names that the
 * headers give them. Source: include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h in the Linux source;
 * abi.test.ts asks the C compiler about every number.
 */

/** struct kvm_run: what a vCPU and its VMM share. Its size is the host's own: KVM_GET_VCPU_MMAP_SIZE. */
export const kvmRun = {
  immediate_exit: 1,
  exit_reason: 8,
  'hw.hardware_exit_reason': 32,
  'fail_entry.hardware_entry_failure_reason': 32,
  'io.direction': 32,
  'io.size': 33,
  'io.port': 34,
  'io.count': 36,
  'io.data_offset': 40,
  'mmio.phys_addr': 32,
  'mmio.data': 40,
  'mmio.len': 48,
  'mmio.is_write': 52,
  'debug.arch.pc': 40,
  'debug.arch.dr6': 48,
  'hypercall.nr': 32,
  'hypercall.args': 40,
  'hypercall.ret': 88,
  'internal.suberror': 32,
  'emulation_failure.insn_size': 48,
  'emulation_failure.insn_bytes': 49,
  kvm_valid_regs: 288,
  's.regs.regs': 304,
} as const;

/** struct kvm_userspace_memory_region */
export const kvmMemoryRegion = {
  bytes: 32,
  fields: { slot: 0, flags: 4, guest_phys_addr: 8, memory_size: 16, userspace_addr: 24 },
} as const;

/** struct kvm_enable_cap */
export const kvmEnableCap = { bytes: 104, fields: { cap: 0, flags: 4, args: 8 } } as const;

/** struct kvm_regs: eighteen words; registers.ts has their order. */
export const kvmRegs = { bytes: 144, fields: { rax: 0, rsp: 48, r15: 120, rip: 128, rflags: 136 } } as const;

/** struct kvm_segment */
export const kvmSegment = {
  bytes: 24,
  fields: {
    base: 0,
    limit: 8,
    selector: 12,
    type: 14,
    present: 15,
    dpl: 16,
    db: 17,
    s: 18,
    l: 19,
    g: 20,
    unusable: 22,
  },
} as const;

/** struct kvm_sregs: the registers that only the supervisor changes. */
export const kvmSregs = {
  bytes: 312,
  fields: {
    cs: 0,
    ds: 24,
    es: 48,
    fs: 72,
    gs: 96,
    ss: 120,
    tr: 144,
    ldt: 168,
    'gdt.base': 192,
    'gdt.limit': 200,
    'idt.base': 208,
    'idt.limit': 216,
    cr0: 224,
    cr2: 232,
    cr3: 240,
    cr4: 248,
    efer: 264,
  },
} as const;

/** struct kvm_vcpu_events: exceptions that are on their way. */
export const kvmVcpuEvents = {
  bytes: 64,
  fields: {
    'exception.injected': 0,
    'exception.nr': 1,
    'exception.has_error_code': 2,
    'exception.pending': 3,
    'exception.error_code': 4,
  },
} as const;

/** struct kvm_guest_debug */
export const kvmGuestDebug = { bytes: 72, fields: { control: 0, 'arch.debugreg': 8 } } as const;

/** struct kvm_dirty_log: a slot, and the address of a bitmap with a bit for each of its pages. */
export const kvmDirtyLog = { bytes: 16, fields: { slot: 0, dirty_bitmap: 8 } } as const;

/** struct kvm_cpuid2 is a header of `bytes`, followed by `nent` of struct kvm_cpuid_entry2. */
export const kvmCpuid2 = { bytes: 8, fields: { nent: 0 } } as const;

/** struct kvm_cpuid_entry2 */
export const kvmCpuidEntry = {
  bytes: 40,
  fields: { function: 0, index: 4, flags: 8, eax: 12, ebx: 16, ecx: 20, edx: 24 },
} as const;

/** struct kvm_irq_level */
export const kvmIrqLevel = { bytes: 8, fields: { irq: 0, level: 4 } } as const;

/** struct kvm_irqfd */
export const kvmIrqfd = { bytes: 32, fields: { fd: 0, gsi: 4, flags: 8, resamplefd: 12 } } as const;

/** struct kvm_ioeventfd */
export const kvmIoeventfd = {
  bytes: 64,
  fields: { datamatch: 0, addr: 8, len: 16, fd: 20, flags: 24 },
} as const;

/** struct kvm_pit_config */
export const kvmPitConfig = { bytes: 64, fields: { flags: 0 } } as const;

/** struct kvm_msrs is a header of `bytes`, followed by `nmsrs` of struct kvm_msr_entry. */
export const kvmMsrs = { bytes: 8, fields: { nmsrs: 0 } } as const;

/** struct kvm_msr_entry */
export const kvmMsrEntry = { bytes: 16, fields: { index: 0, data: 8 } } as const;
