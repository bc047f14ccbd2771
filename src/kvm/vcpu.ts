/** One virtual processor: a descriptor for its registers, and the kvm_run that it shares with us. */
import { CarrelError } from '#base/errors.ts';
import { errnoName, syscallError, trySyscall, type SyscallArgument } from '#host/syscalls.ts';
import { GUESTDBG_ENABLE, GUESTDBG_SINGLESTEP, GUESTDBG_USE_HW_BP } from './abi/flags.ts';
import { ioctls, type IoctlName } from './abi/ioctls.ts';
import { kvmGuestDebug, kvmMsrEntry, kvmMsrs, kvmRegs, kvmVcpuEvents } from './abi/structs.ts';
import { type DebugRegister, debugControl } from './debug.ts';
import { readRegisters, type Registers, SpecialRegisters, writeRegisters } from './registers.ts';
import { RunPage } from './runpage.ts';

/** What another thread needs to run the same vCPU: descriptors belong to the process, not to a thread. */
export interface VcpuHandle {
  readonly fd: number;
  readonly run: SharedArrayBuffer;
}

/** An ioctl of KVM; throws with the name that the header gives it. */
export function kvmCall(fd: number, name: IoctlName, argument: SyscallArgument = 0): number {
  const result = trySyscall('ioctl', fd, ioctls[name], argument);
  if (result < 0) throw syscallError(`KVM_${name}`, result);
  return result;
}

/** An exception that KVM was delivering when the vCPU stopped. */
export interface PendingException {
  readonly vector: number;
  readonly errorCode: number | undefined;
}

export interface DebugOptions {
  readonly singleStep?: boolean;
  readonly breakpoints?: readonly DebugRegister[];
}

export class Vcpu {
  readonly handle: VcpuHandle;
  readonly page: RunPage;

  constructor(handle: VcpuHandle) {
    this.handle = handle;
    this.page = new RunPage(handle.run);
  }

  /**
   * Runs the guest until it needs us. 'exit': see `page.exitReason`. 'interrupted': a signal came, or
   * `immediateExit` was set. 'again': nothing happened (a processor that just was told to start).
   * Blocks the thread for as long as the guest runs.
   */
  run(): 'exit' | 'interrupted' | 'again' {
    const result = trySyscall('ioctl', this.handle.fd, ioctls.RUN);
    if (result >= 0) return 'exit';
    const errno = errnoName(result);
    if (errno === 'EINTR') return 'interrupted';
    if (errno === 'EAGAIN') return 'again';
    throw syscallError('KVM_RUN', result);
  }

  /**
   * Lets KVM finish the instruction of the last exit (an `in` whose value is now there) and stop before the next
   * one. Where a single step was asked for, that is an exit of its own (DEBUG); else KVM says 'interrupted'.
   */
  complete(): void {
    this.page.immediateExit = true;
    this.run();
    this.page.immediateExit = false;
  }

  registers(): Registers {
    const view = new DataView(new ArrayBuffer(kvmRegs.bytes));
    kvmCall(this.handle.fd, 'GET_REGS', view);
    return readRegisters(view);
  }

  setRegisters(registers: Registers): void {
    const view = new DataView(new ArrayBuffer(kvmRegs.bytes));
    writeRegisters(view, registers);
    kvmCall(this.handle.fd, 'SET_REGS', view);
  }

  special(): SpecialRegisters {
    const special = new SpecialRegisters();
    kvmCall(this.handle.fd, 'GET_SREGS', special.view);
    return special;
  }

  setSpecial(special: SpecialRegisters): void {
    kvmCall(this.handle.fd, 'SET_SREGS', special.view);
  }

  /**
   * What stops the guest besides exits: each instruction, the processor's own breakpoints (at most four), or both.
   * Nothing: it runs freely.
   */
  setDebug({ singleStep = false, breakpoints = [] }: DebugOptions): void {
    const view = new DataView(new ArrayBuffer(kvmGuestDebug.bytes));
    const { fields } = kvmGuestDebug;
    const register = (index: number): number => fields['arch.debugreg'] + index * 8;
    const control =
      (singleStep ? GUESTDBG_SINGLESTEP : 0) | (breakpoints.length > 0 ? GUESTDBG_USE_HW_BP : 0);
    view.setUint32(fields.control, control === 0 ? 0 : control | GUESTDBG_ENABLE, true);
    for (const [index, { address }] of breakpoints.entries())
      view.setBigUint64(register(index), address, true);
    view.setBigUint64(register(7), debugControl(breakpoints), true);
    kvmCall(this.handle.fd, 'SET_GUEST_DEBUG', view);
  }

  /** What CPUID says on this vCPU: a struct kvm_cpuid2 and its entries. Before its first instruction. */
  setCpuid(list: DataView): void {
    kvmCall(this.handle.fd, 'SET_CPUID2', list);
  }

  /** Model-specific registers by number; `internal` names the first that KVM does not take. */
  setMsrs(msrs: Readonly<Record<number, bigint>>): void {
    const list = Object.entries(msrs);
    const view = new DataView(new ArrayBuffer(kvmMsrs.bytes + list.length * kvmMsrEntry.bytes));
    view.setUint32(kvmMsrs.fields.nmsrs, list.length, true);
    for (const [at, [number, value]] of list.entries()) {
      const entry = kvmMsrs.bytes + at * kvmMsrEntry.bytes;
      view.setUint32(entry + kvmMsrEntry.fields.index, Number(number), true);
      view.setBigUint64(entry + kvmMsrEntry.fields.data, value, true);
    }
    const taken = kvmCall(this.handle.fd, 'SET_MSRS', view);
    const [refused] = list[taken] ?? [];
    if (refused !== undefined)
      throw new CarrelError('internal', `KVM does not take MSR 0x${Number(refused).toString(16)}`);
  }

  /** Delivers an exception without error code before the next instruction, as if the one before had raised it. */
  raise(vector: number): void {
    const view = new DataView(new ArrayBuffer(kvmVcpuEvents.bytes));
    kvmCall(this.handle.fd, 'GET_VCPU_EVENTS', view);
    const { fields } = kvmVcpuEvents;
    view.setUint8(fields['exception.injected'], 1);
    view.setUint8(fields['exception.nr'], vector);
    view.setUint8(fields['exception.has_error_code'], 0);
    kvmCall(this.handle.fd, 'SET_VCPU_EVENTS', view);
  }

  pendingException(): PendingException | undefined {
    const view = new DataView(new ArrayBuffer(kvmVcpuEvents.bytes));
    kvmCall(this.handle.fd, 'GET_VCPU_EVENTS', view);
    const { fields } = kvmVcpuEvents;
    const flag = (at: number): boolean => view.getUint8(at) !== 0;
    if (!flag(fields['exception.injected']) && !flag(fields['exception.pending'])) return undefined;
    return {
      vector: view.getUint8(fields['exception.nr']),
      errorCode: flag(fields['exception.has_error_code'])
        ? view.getUint32(fields['exception.error_code'], true)
        : undefined,
    };
  }
}
