/** What KVM_CHECK_EXTENSION is asked for. Numbers: KVM_CAP_* in include/uapi/linux/kvm.h; meanings: api.rst. */

export interface Capability {
  readonly number: number;
  readonly doc: string;
  /** What the answer is, where it is more than yes or no. */
  readonly unit?: string | undefined;
}

export const capabilities = {
  USER_MEMORY: { number: 3, doc: 'guest memory from user space' },
  SET_TSS_ADDR: { number: 4, doc: 'place for the three pages that VMX needs' },
  EXT_CPUID: { number: 7, doc: 'CPUID as the guest shall see it' },
  NR_VCPUS: { number: 9, doc: 'vCPUs recommended for one VM', unit: 'vCPUs' },
  NR_MEMSLOTS: { number: 10, doc: 'memory slots of one VM', unit: 'slots' },
  COALESCED_MMIO: { number: 15, doc: 'writes to devices collected in a ring', unit: '(its page in kvm_run)' },
  SET_GUEST_DEBUG: { number: 23, doc: 'single steps and breakpoints' },
  IRQFD: { number: 32, doc: 'interrupts by eventfd' },
  IOEVENTFD: { number: 36, doc: 'device doorbells by eventfd' },
  VCPU_EVENTS: { number: 41, doc: 'pending exceptions can be read' },
  MAX_VCPUS: { number: 66, doc: 'vCPUs possible in one VM', unit: 'vCPUs' },
  TSC_DEADLINE_TIMER: { number: 72, doc: 'the deadline timer of the local APIC' },
  SYNC_REGS: { number: 74, doc: 'registers in kvm_run at every exit', unit: 'sets, as bits' },
  READONLY_MEM: { number: 81, doc: 'read-only memory slots' },
  X86_SMM: { number: 117, doc: 'system management mode' },
  SPLIT_IRQCHIP: { number: 121, doc: 'local APIC in the kernel, the rest outside' },
  IMMEDIATE_EXIT: { number: 136, doc: 'leave KVM_RUN without a race' },
  NESTED_STATE: { number: 157, doc: 'guests of guests' },
  COALESCED_PIO: { number: 162, doc: 'port writes collected in a ring' },
  X86_USER_SPACE_MSR: { number: 188, doc: 'model-specific registers handled outside' },
  DIRTY_LOG_RING: { number: 192, doc: 'dirty pages in a ring', unit: 'bytes' },
  EXIT_HYPERCALL: { number: 201, doc: 'vmcall handed to user space', unit: 'calls, as bits' },
  DISABLE_QUIRKS2: { number: 213, doc: 'oddities of KVM can be switched off', unit: 'oddities, as bits' },
  EXIT_ON_EMULATION_FAILURE: { number: 204, doc: 'instructions that KVM cannot emulate are handed on' },
} as const satisfies Readonly<Record<string, Capability>>;

export type CapabilityName = keyof typeof capabilities;
