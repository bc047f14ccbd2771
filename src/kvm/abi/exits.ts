/** Why KVM_RUN came back. Numbers: KVM_EXIT_* in include/uapi/linux/kvm.h; meanings: api.rst, section 5. */

interface ExitReason {
  readonly number: number;
  /** What happened in the guest, in a few words. */
  readonly doc: string;
}

export const exitReasons = {
  UNKNOWN: { number: 0, doc: 'the hardware left the guest for a reason that KVM does not know' },
  EXCEPTION: { number: 1, doc: 'an exception that KVM hands on' },
  IO: { number: 2, doc: 'an in or out instruction' },
  HYPERCALL: { number: 3, doc: 'a vmcall or vmmcall that KVM hands on' },
  DEBUG: { number: 4, doc: 'a single step or a breakpoint' },
  HLT: { number: 5, doc: 'the hlt instruction' },
  MMIO: { number: 6, doc: 'an access to guest-physical memory that no slot backs' },
  IRQ_WINDOW_OPEN: { number: 7, doc: 'the guest takes interrupts now' },
  SHUTDOWN: { number: 8, doc: 'a triple fault: an exception, and no handler that could be entered' },
  FAIL_ENTRY: { number: 9, doc: 'the processor refused to enter the guest in this state' },
  INTR: { number: 10, doc: 'a signal for the thread of the vCPU' },
  SET_TPR: { number: 11, doc: 'the guest changed its task priority' },
  TPR_ACCESS: { number: 12, doc: 'the guest touched its task priority' },
  NMI: { number: 16, doc: 'a non-maskable interrupt of the host' },
  INTERNAL_ERROR: { number: 17, doc: 'KVM cannot go on, often because it cannot emulate an instruction' },
  WATCHDOG: { number: 21, doc: 'a watchdog of the guest' },
  SYSTEM_EVENT: { number: 24, doc: 'the guest asks for a reset or a power-off' },
  IOAPIC_EOI: { number: 26, doc: 'an interrupt was acknowledged' },
  HYPERV: { number: 27, doc: 'a Hyper-V call' },
  X86_RDMSR: { number: 29, doc: 'a read of a model-specific register that KVM hands on' },
  X86_WRMSR: { number: 30, doc: 'a write to a model-specific register that KVM hands on' },
  DIRTY_RING_FULL: { number: 31, doc: 'the ring of dirty pages is full' },
  X86_BUS_LOCK: { number: 33, doc: 'a locked access across a cache line' },
  XEN: { number: 34, doc: 'a Xen call' },
  NOTIFY: { number: 37, doc: 'the guest let no interrupt through for too long' },
} as const satisfies Readonly<Record<string, ExitReason>>;

const byNumber: ReadonlyMap<number, { readonly name: string; readonly doc: string }> = new Map(
  Object.entries(exitReasons).map(([name, { number, doc }]) => [number, { name, doc }]),
);

/** The reason with this number; one that is not in the table keeps its digits. */
export function exitReason(number: number): { readonly name: string; readonly doc: string } {
  return (
    byNumber.get(number) ?? { name: `reason ${number}`, doc: 'not in the table of src/kvm/abi/exits.ts' }
  );
}

/** KVM_EXIT_IO_IN is 0. */
export const EXIT_IO_OUT = 1;

/** KVM_INTERNAL_ERROR_*: why KVM could not go on. */
export const internalErrors = {
  EMULATION: { number: 1, doc: 'it cannot emulate the instruction' },
  SIMUL_EX: { number: 2, doc: 'one exception came while another was being delivered' },
  DELIVERY_EV: {
    number: 3,
    doc: 'an exception or interrupt could not be delivered: its table or stack is bad',
  },
  UNEXPECTED_EXIT_REASON: {
    number: 4,
    doc: 'the hardware left the guest for a reason that it does not expect',
  },
} as const;

/** What a suberror means; one that is not in the table keeps its digits. */
export function internalError(suberror: number): string {
  const known = Object.values(internalErrors).find(({ number }) => number === suberror);
  return known?.doc ?? `suberror ${suberror}`;
}
