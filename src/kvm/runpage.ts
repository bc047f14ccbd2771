/**
 * struct kvm_run: how a vCPU and its VMM talk. KVM maps it from the vCPU's descriptor (api.rst, section 5).
 *
 * It is mapped with MAP_FIXED over a SharedArrayBuffer, so that it is ordinary shared memory to JavaScript: every
 * thread may look at it, and nothing can outlive it. The buffer is growable because V8 gives such a buffer a
 * mapping of its own, in whole pages; a small ordinary one may lie in the heap of malloc.
 */
import { addressOf, syscall } from '#host/syscalls.ts';
import { EXIT_IO_OUT } from './abi/exits.ts';
import { kvmRun } from './abi/structs.ts';
import { readRegisters, type Registers } from './registers.ts';

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;

const word = {
  exitReason: kvmRun.exit_reason / 4,
  ioCount: kvmRun['io.count'] / 4,
  ioData: kvmRun['io.data_offset'] / 4,
} as const;
const ioPort16 = kvmRun['io.port'] / 2;

export class RunPage {
  readonly buffer: SharedArrayBuffer;
  readonly view: DataView;
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;

  /** On a buffer over which kvm_run is mapped already, by this thread or another. */
  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    // with its length a view is as fast as any; without, it follows the buffer's, and asks for that at every access
    const { byteLength } = buffer;
    this.view = new DataView(buffer, 0, byteLength);
    this.#u8 = new Uint8Array(buffer, 0, byteLength);
    this.#u16 = new Uint16Array(buffer, 0, byteLength / 2);
    this.#u32 = new Uint32Array(buffer, 0, byteLength / 4);
  }

  /** Maps the kvm_run of a vCPU. */
  static map(vcpu: number, bytes: number): RunPage {
    const page = new RunPage(new SharedArrayBuffer(bytes, { maxByteLength: bytes }));
    syscall('mmap', page.address, bytes, PROT_READ_WRITE, MAP_SHARED | MAP_FIXED, vcpu, 0);
    return page;
  }

  /** Puts empty memory in its place, which lets go of the vCPU; views that are left read zeros. */
  unmap(): void {
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    syscall('mmap', this.address, this.buffer.byteLength, PROT_READ_WRITE, flags, -1, 0);
  }

  get address(): bigint {
    return addressOf(this.view);
  }

  /** KVM_RUN returns EINTR at once while this is set, whatever else there is. */
  set immediateExit(on: boolean) {
    Atomics.store(this.#u8, kvmRun.immediate_exit, Number(on));
  }

  /** From the next exit on, the general registers lie in kvm_run: no call is needed to read them. */
  set syncedRegisters(bits: number) {
    this.view.setBigUint64(kvmRun.kvm_valid_regs, BigInt(bits), true);
  }

  /** The registers as of the last exit; needs `syncedRegisters`. */
  registers(): Registers {
    return readRegisters(this.view, kvmRun['s.regs.regs']);
  }

  get exitReason(): number {
    return this.#u32[word.exitReason] ?? 0;
  }

  // KVM_EXIT_IO

  get isOut(): boolean {
    return this.#u8[kvmRun['io.direction']] === EXIT_IO_OUT;
  }

  get port(): number {
    return this.#u16[ioPort16] ?? 0;
  }

  /** Bytes of one transfer: 1, 2 or 4. */
  get ioSize(): number {
    return this.#u8[kvmRun['io.size']] ?? 0;
  }

  /** Transfers in this exit: more than one for `rep outs` and `rep ins`. */
  get ioCount(): number {
    return this.#u32[word.ioCount] ?? 0;
  }

  /** Where in kvm_run the bytes of the transfers begin. */
  get ioData(): number {
    return this.#u32[word.ioData] ?? 0;
  }

  #ioAt(index: number): number {
    return this.ioData + index * this.ioSize;
  }

  /** What the guest sends. */
  ioValue(index: number): number {
    const at = this.#ioAt(index);
    const size = this.ioSize;
    if (size === 1) return this.view.getUint8(at);
    return size === 2 ? this.view.getUint16(at, true) : this.view.getUint32(at, true);
  }

  /** What the guest receives: as many low bytes as it asked for. */
  setIoValue(index: number, value: number): void {
    const at = this.#ioAt(index);
    const size = this.ioSize;
    if (size === 1) this.view.setUint8(at, value);
    else if (size === 2) this.view.setUint16(at, value, true);
    else this.view.setUint32(at, value, true);
  }

  // KVM_EXIT_MMIO

  get mmio(): { readonly address: bigint; readonly length: number; readonly isWrite: boolean } {
    return {
      address: this.view.getBigUint64(kvmRun['mmio.phys_addr'], true),
      length: this.view.getUint32(kvmRun['mmio.len'], true),
      isWrite: this.view.getUint8(kvmRun['mmio.is_write']) !== 0,
    };
  }

  /** The bytes of the access: what the guest writes; for a read, what it will receive. Low byte first. */
  get mmioData(): bigint {
    return this.view.getBigUint64(kvmRun['mmio.data'], true);
  }

  /** What a read of the guest receives. */
  set mmioData(value: bigint) {
    this.view.setBigUint64(kvmRun['mmio.data'], BigInt.asUintN(64, value), true);
  }

  // KVM_EXIT_DEBUG

  /** Which debug registers stopped the guest, as DR6 has it: bit n is DRn. */
  get debugStatus(): bigint {
    return this.view.getBigUint64(kvmRun['debug.arch.dr6'], true);
  }

  // KVM_EXIT_HYPERCALL

  /** The call's number, and what the guest had in RBX, RCX, RDX, RSI. */
  get hypercall(): { readonly nr: bigint; readonly words: readonly bigint[] } {
    const word = (index: number): bigint =>
      this.view.getBigUint64(kvmRun['hypercall.args'] + index * 8, true);
    return { nr: this.view.getBigUint64(kvmRun['hypercall.nr'], true), words: [0, 1, 2, 3].map(word) };
  }

  /** What the guest gets in RAX. */
  set hypercallResult(value: bigint) {
    this.view.setBigInt64(kvmRun['hypercall.ret'], value, true);
  }

  // KVM_EXIT_INTERNAL_ERROR and KVM_EXIT_FAIL_ENTRY

  /** The instruction that KVM could not emulate; undefined where it does not hand it on. */
  get failedInstruction(): Uint8Array | undefined {
    const length = this.view.getUint8(kvmRun['emulation_failure.insn_size']);
    if (length === 0 || length > 15) return undefined;
    const at = kvmRun['emulation_failure.insn_bytes'];
    return this.#u8.slice(at, at + length);
  }

  get suberror(): number {
    return this.view.getUint32(kvmRun['internal.suberror'], true);
  }

  get entryFailure(): bigint {
    return this.view.getBigUint64(kvmRun['fail_entry.hardware_entry_failure_reason'], true);
  }
}
