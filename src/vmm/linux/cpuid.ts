/**
 * CPUID as each vCPU of a Linux machine sees it: the host's, with this vCPU's own number, the number of its
 * neighbours, and the bit that says "virtual". Sources: Intel SDM volume 2A (CPUID), AMD APM volume 3, appendix E.
 */
import { kvmCpuid2, kvmCpuidEntry } from '#kvm/abi/structs.ts';

const { fields: at } = kvmCpuidEntry;

const leaf = {
  features: 1,
  cache: 4,
  topology: 0xb,
  topology2: 0x1f,
  amdCores: 0x8000_0008,
  amdTopology: 0x8000_001e,
  kvmFeatures: 0x4000_0001,
} as const;

/** Leaf 1, ECX. */
const HYPERVISOR = 2 ** 31;
const TSC_DEADLINE = 2 ** 24;
/** Leaf 1, EDX: EBX names the processors of this package. */
const HTT = 2 ** 28;
/**
 * Leaf 0x40000001, EAX: what a kernel asks KVM for by a hypercall: MMU_OP, PV_UNHALT, PV_SEND_IPI, PV_SCHED_YIELD
 * (Documentation/virt/kvm/x86/cpuid.rst).
 */
const HYPERCALL_FEATURES = (1 << 2) | (1 << 7) | (1 << 11) | (1 << 13);
/** Leaf 0xb, ECX bits 8 to 15: what a level is. */
const level = { thread: 1, core: 2 } as const;

/** Bits that hold the numbers 0 to count - 1. */
const bitsFor = (count: number): number => Math.ceil(Math.log2(count));

export interface CpuidOptions {
  readonly index: number;
  readonly vcpus: number;
  /** The kernel's local APIC has a deadline timer (KVM_CAP_TSC_DEADLINE_TIMER). */
  readonly deadlineTimer: boolean;
  /** Where KVM emulates, a hypercall does not come back: nothing is to be asked for by one. */
  readonly hypercalls: boolean;
}

/** Changes `list` (a struct kvm_cpuid2 with entries), and returns it. */
export function setCpuid(
  list: DataView,
  { index, vcpus, deadlineTimer, hypercalls }: CpuidOptions,
): DataView {
  const count = list.getUint32(kvmCpuid2.fields.nent, true);
  for (let number = 0; number < count; number += 1) {
    const entry = kvmCpuid2.bytes + number * kvmCpuidEntry.bytes;
    const get = (field: number): number => list.getUint32(entry + field, true);
    const set = (field: number, value: number): void => list.setUint32(entry + field, value >>> 0, true);
    const sub = get(at.index);
    switch (get(at.function)) {
      case leaf.features:
        // APIC id, processors of the package; brand and cache line stay
        set(at.ebx, (get(at.ebx) & 0xffff) | (vcpus << 16) | (index << 24));
        set(at.ecx, get(at.ecx) | HYPERVISOR | (deadlineTimer ? TSC_DEADLINE : 0));
        set(at.edx, vcpus > 1 ? get(at.edx) | HTT : get(at.edx) & ~HTT);
        break;
      case leaf.cache:
        // cores of the package; no cache is shared
        set(at.eax, (get(at.eax) & 0x3fff) | ((vcpus - 1) << 26));
        break;
      case leaf.topology:
      case leaf.topology2:
        set(at.edx, index);
        set(at.eax, sub === 1 ? bitsFor(vcpus) : 0);
        set(at.ebx, sub === 0 ? 1 : sub === 1 ? vcpus : 0);
        set(at.ecx, sub | (sub === 0 ? level.thread << 8 : sub === 1 ? level.core << 8 : 0));
        break;
      case leaf.kvmFeatures:
        if (!hypercalls) set(at.eax, get(at.eax) & ~HYPERCALL_FEATURES);
        break;
      case leaf.amdCores:
        set(at.ecx, (get(at.ecx) & ~0xf0ff) | (vcpus - 1) | (bitsFor(vcpus) << 12));
        break;
      case leaf.amdTopology:
        set(at.eax, index);
        set(at.ebx, index); // one thread for each core
        set(at.ecx, 0); // one node
        break;
    }
  }
  return list;
}
