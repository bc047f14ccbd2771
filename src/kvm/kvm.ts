/**
 * /dev/kvm: what this host's KVM can do, and new virtual machines.
 *
 * @example
 * using kvm = openKvm();
 * using vm = kvm.createVm();
 * const memory = GuestMemory.allocate(4096);
 * memory.bytes[0xff0] = 0xf4; // hlt, where a processor begins: 16 bytes below 4 GiB
 * vm.addMemory(memory, 0xffff_f000n);
 * const vcpu = vm.createVcpu();
 * vcpu.run(); // 'exit', and vcpu.page.exitReason is that of HLT
 */
import { openSync } from 'node:fs';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { capabilities, type Capability } from './abi/capabilities.ts';
import { API_VERSION } from './abi/flags.ts';
import { kvmCpuid2, kvmCpuidEntry } from './abi/structs.ts';
import { kvmCall } from './vcpu.ts';
import { Vm } from './vm.ts';

/** KVM_MAX_CPUID_ENTRIES in arch/x86/include/asm/kvm_host.h. */
const maxCpuidEntries = 256;

let cpuid: DataView | undefined;

/**
 * What CPUID can say in guests here: a struct kvm_cpuid2 as KVM_SET_CPUID2 takes it. Asked once: the answer is the
 * host's, and finding it takes the kernel longer than making a machine.
 */
function supportedCpuid(kvm: number): DataView {
  if (cpuid) return cpuid;
  const list = new DataView(new ArrayBuffer(kvmCpuid2.bytes + maxCpuidEntries * kvmCpuidEntry.bytes));
  list.setUint32(kvmCpuid2.fields.nent, maxCpuidEntries, true);
  kvmCall(kvm, 'GET_SUPPORTED_CPUID', list);
  cpuid = list;
  return list;
}

export interface HostCapability extends Capability {
  readonly name: string;
  readonly value: number;
}

export class Kvm {
  readonly #fd: Fd;

  /** Made by `openKvm`. */
  constructor(fd: Fd) {
    this.#fd = fd;
    const version = this.version;
    if (version !== API_VERSION)
      throw new CarrelError('host_unsupported', `KVM has API version ${version}, not ${API_VERSION}`);
  }

  get version(): number {
    return kvmCall(this.#fd.fd, 'GET_API_VERSION');
  }

  /** What this KVM can do. Value 0: not there; 1: there; more: what the table of capabilities says. */
  capabilities(): HostCapability[] {
    const ask = (number: number): number => kvmCall(this.#fd.fd, 'CHECK_EXTENSION', number);
    return Object.entries<Capability>(capabilities).map(([name, { number, doc, unit }]) => ({
      name,
      number,
      doc,
      unit,
      value: ask(number),
    }));
  }

  /** Bytes of a vCPU's kvm_run: struct kvm_run, a page for port data, and the rings. */
  get runBytes(): number {
    return kvmCall(this.#fd.fd, 'GET_VCPU_MMAP_SIZE');
  }

  createVm(): Vm {
    const fd = ownFd(kvmCall(this.#fd.fd, 'CREATE_VM'));
    try {
      return new Vm(fd, { runBytes: this.runBytes, cpuid: supportedCpuid(this.#fd.fd) });
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** Machines that were made go on. */
  close(): void {
    this.#fd.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

const refusals: Readonly<Record<string, readonly [message: string, hint: string]>> = {
  ENOENT: [
    'there is no /dev/kvm on this host',
    'switch virtualization on in the firmware, or nested virtualization in the host above',
  ],
  EACCES: ['/dev/kvm may not be opened by this account', 'as root: usermod --append --groups kvm USER'],
};

/** A descriptor of /dev/kvm; `host_unsupported` with the reason where there is none for us. */
export function openKvmDevice(path = '/dev/kvm'): Fd {
  try {
    return ownFd(openSync(path, 'r+'));
  } catch (cause) {
    const [message, hint] = refusals[errnoOf(cause) ?? ''] ?? [
      '/dev/kvm cannot be opened',
      'see: carrel doctor',
    ];
    throw new CarrelError('host_unsupported', message, { hint, cause });
  }
}

/** Opens /dev/kvm, or says why it cannot be used. */
export const openKvm = (path?: string): Kvm => kvmFrom(openKvmDevice(path));

/** KVM by a descriptor of /dev/kvm that somebody else opened, for a process that may not: it now belongs to the Kvm. */
export function kvmFrom(fd: Fd): Kvm {
  try {
    return new Kvm(fd);
  } catch (error) {
    fd.close();
    throw error;
  }
}
