/** One virtual machine: memory slots and processors. */
import { CarrelError } from '#base/errors.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { addressOf, errnoName, syscallError, trySyscall } from '#host/syscalls.ts';
import { capabilities, type CapabilityName } from './abi/capabilities.ts';
import { MEM_LOG_DIRTY_PAGES } from './abi/flags.ts';
import { ioctls } from './abi/ioctls.ts';
import { kvmCpuid2, kvmCpuidEntry, kvmDirtyLog, kvmEnableCap, kvmMemoryRegion } from './abi/structs.ts';
import { type GuestMemory, pageBytes } from './memory.ts';
import { RunPage } from './runpage.ts';
import { kvmCall, Vcpu } from './vcpu.ts';

/** Three pages that VMX keeps for real mode: just below 4 GiB, away from all guest memory (api.rst, 4.36). */
const tssAddress = 0xfffb_d000;

export class Vm {
  readonly #fd: Fd;
  readonly #runBytes: number;
  readonly #cpuid: DataView;
  readonly #vcpus: { readonly fd: Fd; readonly page: RunPage }[] = [];
  /** Slots in use; holding the memory here keeps V8 from giving its address away. */
  readonly #slots: GuestMemory[] = [];

  /** Made by `Kvm.createVm`. */
  constructor(fd: Fd, { runBytes, cpuid }: { runBytes: number; cpuid: DataView }) {
    this.#fd = fd;
    this.#runBytes = runBytes;
    this.#cpuid = cpuid;
    kvmCall(fd.fd, 'SET_TSS_ADDR', tssAddress);
  }

  /** Size of each vCPU's kvm_run. */
  get runBytes(): number {
    return this.#runBytes;
  }

  /** What the processor calls itself: `GenuineIntel`, `AuthenticAMD`. CPUID leaf 0 (SDM volume 2A, CPUID). */
  get vendor(): string {
    const { ebx, edx, ecx } = kvmCpuidEntry.fields;
    const count = this.#cpuid.getUint32(kvmCpuid2.fields.nent, true);
    for (let index = 0; index < count; index += 1) {
      const at = kvmCpuid2.bytes + index * kvmCpuidEntry.bytes;
      if (this.#cpuid.getUint32(at + kvmCpuidEntry.fields.function, true) !== 0) continue;
      const words = [ebx, edx, ecx].map((register) => this.#cpuid.getUint32(at + register, true));
      return Buffer.from(Uint32Array.from(words).buffer).toString('latin1');
    }
    return '';
  }

  /** Switches a capability on, before there are vCPUs. False where the host does not have it (KVM_ENABLE_CAP). */
  enable(name: CapabilityName, argument: number): boolean {
    const request = new DataView(new ArrayBuffer(kvmEnableCap.bytes));
    request.setUint32(kvmEnableCap.fields.cap, capabilities[name].number, true);
    request.setBigUint64(kvmEnableCap.fields.args, BigInt(argument), true);
    const result = trySyscall('ioctl', this.#fd.fd, ioctls.ENABLE_CAP, request);
    if (result >= 0) return true;
    if (errnoName(result) === 'EINVAL') return false;
    throw syscallError(`KVM_ENABLE_CAP ${name}`, result);
  }

  /** For ioctls on the machine from other threads: interrupts.ts. Closed with the machine. */
  get fd(): number {
    return this.#fd.fd;
  }

  /** What CPUID says on every vCPU unless `Vcpu.setCpuid` says otherwise: a copy of the host's list. */
  get cpuid(): DataView {
    return new DataView(this.#cpuid.buffer.slice(0));
  }

  /** Gives the guest memory at a physical address. With `logDirty`, `takeDirtyPages` tells what the guest writes. */
  addMemory(memory: GuestMemory, guestAddress = 0n, { logDirty = false } = {}): void {
    const region = new DataView(new ArrayBuffer(kvmMemoryRegion.bytes));
    const { fields } = kvmMemoryRegion;
    region.setUint32(fields.slot, this.#slots.length, true);
    region.setUint32(fields.flags, logDirty ? MEM_LOG_DIRTY_PAGES : 0, true);
    region.setBigUint64(fields.guest_phys_addr, guestAddress, true);
    region.setBigUint64(fields.memory_size, BigInt(memory.length), true);
    region.setBigUint64(fields.userspace_addr, memory.hostAddress, true);
    kvmCall(this.#fd.fd, 'SET_USER_MEMORY_REGION', region);
    this.#slots.push(memory);
  }

  /**
   * Pages of this memory that the guest wrote since the last call, lowest first, counted from the memory's begin;
   * what the host writes is not among them. The processor's own writes are: the accessed bits of page tables.
   */
  takeDirtyPages(memory: GuestMemory): number[] {
    const pages = memory.length / pageBytes;
    // the kernel counts in words of 64 bits
    const bitmap = new Uint8Array(Math.ceil(pages / 64) * 8);
    const log = new DataView(new ArrayBuffer(kvmDirtyLog.bytes));
    log.setUint32(kvmDirtyLog.fields.slot, this.#slots.indexOf(memory), true);
    log.setBigUint64(kvmDirtyLog.fields.dirty_bitmap, addressOf(bitmap), true);
    kvmCall(this.#fd.fd, 'GET_DIRTY_LOG', log);
    const isSet = (page: number): boolean => ((bitmap[page >> 3] ?? 0) & (1 << (page & 7))) !== 0;
    return Array.from({ length: pages }, (_, page) => page).filter(isSet);
  }

  /**
   * The next vCPU, with the CPUID of the host: without one a guest may not even switch to long mode (its write to
   * EFER.LME faults, as on a processor that has none).
   */
  createVcpu(): Vcpu {
    if (!this.#fd.open) throw new CarrelError('wrong_state', 'the virtual machine is closed');
    const fd = ownFd(kvmCall(this.#fd.fd, 'CREATE_VCPU', this.#vcpus.length));
    let page: RunPage;
    try {
      page = RunPage.map(fd.fd, this.#runBytes);
    } catch (error) {
      fd.close();
      throw error;
    }
    this.#vcpus.push({ fd, page });
    kvmCall(fd.fd, 'SET_CPUID2', this.#cpuid);
    return new Vcpu({ fd: fd.fd, run: page.buffer });
  }

  /** Ends the machine. Nobody may be inside KVM_RUN any more: kick, and wait for the threads first. */
  close(): void {
    // a mapped kvm_run holds the vCPU, and a vCPU holds the machine
    for (const { fd, page } of this.#vcpus.splice(0)) {
      page.unmap();
      fd.close();
    }
    this.#fd.close();
    this.#slots.length = 0;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
