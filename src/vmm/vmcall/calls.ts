/**
 * The calls that a KVM of the course answers in the kernel: those of Linux (Documentation/virt/kvm/x86/hypercalls.rst,
 * ____kvm_emulate_hypercall in arch/x86/kvm/x86.c) as far as a guest without paravirtual features gets them, and
 * those of the exercise, from 100 on, which a student would add there.
 */
import { hypercallErrors, hypercalls } from '#kvm/abi/hypercalls.ts';
import { pageBytes } from '#kvm/memory.ts';
import { BadAddress } from '../addresses.ts';
import { addressSpaceOf, type Guest } from '../guest.ts';

export interface KernelCall {
  readonly nr: number;
  readonly name: string;
  /** As a C prototype. */
  readonly prototype: string;
  readonly doc: string;
  /** It cannot be answered in the kernel: KVM hands it to the monitor, and that is an exit. */
  readonly leaves?: true;
  /** What the guest gets in RAX. The words are those of RBX, RCX, RDX, RSI. */
  run(guest: Guest, words: readonly bigint[]): bigint;
}

/** A failure, as the guest sees it. */
export const failed = (name: keyof typeof hypercallErrors): bigint => -BigInt(hypercallErrors[name]);

const pollIrq: KernelCall = {
  nr: hypercalls.VAPIC_POLL_IRQ,
  name: 'vapic_poll_irq',
  prototype: 'long vapic_poll_irq(void)',
  doc: 'does nothing but enter the kernel, which looks for interrupts on the way',
  run: () => 0n,
};

/** What the kernel checks before it hands the call on. */
export function mapGpaRange([address = 0n, pages = 0n]: readonly bigint[]): bigint {
  const isAligned = address % BigInt(pageBytes) === 0n;
  const end = BigInt.asUintN(64, address / BigInt(pageBytes) + pages);
  return isAligned && pages > 0n && end > address / BigInt(pageBytes) ? 0n : failed('EINVAL');
}

const mapRange: KernelCall = {
  nr: hypercalls.MAP_GPA_RANGE,
  name: 'map_gpa_range',
  prototype: 'long map_gpa_range(uint64_t address, uint64_t pages, uint64_t attributes)',
  doc: 'says that pages are private or shared: KVM hands it on (KVM_CAP_EXIT_HYPERCALL)',
  leaves: true,
  run: (_, words) => mapGpaRange(words),
};

const exits: KernelCall = {
  nr: 100,
  name: 'exits',
  prototype: 'long exits(void)',
  doc: 'exits to the monitor so far: this call is none',
  run: ({ counters }) => BigInt(counters.total),
};

const add: KernelCall = {
  nr: 101,
  name: 'add',
  prototype: 'long add(long first, long second)',
  doc: 'their sum',
  run: (_, [first = 0n, second = 0n]) => BigInt.asIntN(64, first + second),
};

const print: KernelCall = {
  nr: 102,
  name: 'print',
  prototype: 'long print(const char *string)',
  doc: 'a line in the log of the kernel; its length',
  run: (guest, [at = 0n]) => {
    const text = addressSpaceOf(guest).readString(at);
    if (text instanceof BadAddress) return failed('EFAULT');
    // a log has lines, and shows what is no text as what it is
    const line = Buffer.from(text)
      .toString('latin1')
      .replaceAll(/[^\x20-\x7e]/g, (character) => (character === '\n' ? ' ' : '?'))
      .trimEnd();
    guest.output.write(Buffer.from(`kernel log (simulated): ${line}\n`));
    return BigInt(text.length);
  },
};

export const kernelCalls: readonly KernelCall[] = [pollIrq, mapRange, exits, add, print];
