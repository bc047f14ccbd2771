/**
 * A vCPU under inspection: paused, running, or over. Whoever looks at it or changes it does so while it stands
 * still; running it is a promise of where it stopped.
 *
 *   paused --step, resume--> running --goal met, pause, limit--> paused
 *                                    --halted, fault, ...------> over
 */
import { CarrelError } from '#base/errors.ts';
import { type RegisterName, registerNames } from '#kvm/registers.ts';
import { AddressSpace, BadAddress } from '../addresses.ts';
import type { ExitCounts } from '../counters.ts';
import type { Goal } from '../debug/choose.ts';
import { describeEnd, type End } from '../end.ts';
import { type CodeLine, codeAt } from '../inspect/code.ts';
import { mapOf, type VcpuMap } from '../inspect/map.ts';
import { allRegisters } from '../inspect/registers.ts';
import type { GuestOptions, Machine, MachineVcpu } from '../machine.ts';
import type { Walk } from '../paging/walk.ts';
import type { Ended, VcpuThread } from '../vcpu-worker.ts';
import { isPause, type SessionListener } from './events.ts';

export type SessionState = 'paused' | 'running' | 'over';

/** More single steps at once are a run. */
export const mostSteps = 10_000;
/** What is read of memory at once. */
export const mostRead = 0x20_0000;

const noExits: ExitCounts = { total: 0, byReason: {}, ports: [] };

export class SessionVcpu {
  readonly index: number;
  readonly #machine: Machine;
  readonly #at: MachineVcpu;
  readonly #thread: VcpuThread;
  readonly #tell: SessionListener;
  #running: { readonly abort: AbortController; readonly done: Promise<Ended> } | undefined;
  #end: End | undefined;
  #exits = noExits;
  #closed = false;

  constructor(
    machine: Machine,
    index: number,
    { guest, tell }: { guest: GuestOptions; tell: SessionListener },
  ) {
    const at = machine.vcpus[index];
    if (!at) throw new CarrelError('not_found', `there is no vCPU ${index}`);
    this.index = index;
    this.#machine = machine;
    this.#at = at;
    this.#tell = tell;
    this.#thread = machine.open(index, guest, {
      onLine: (text) => tell({ kind: 'output', vcpu: index, text }),
      onExits: (batch) => tell({ kind: 'exits', vcpu: index, ...batch }),
    });
  }

  get state(): SessionState {
    if (this.#running) return 'running';
    return this.#end && !isPause(this.#end) ? 'over' : 'paused';
  }

  /** Why it stands still; undefined before the first instruction. */
  get end(): End | undefined {
    return this.#end;
  }

  get exits(): ExitCounts {
    return this.#exits;
  }

  #still(): MachineVcpu {
    // its descriptor may be another file's by now
    if (this.#closed)
      throw new CarrelError(
        'wrong_state',
        `this vCPU ${this.index} is gone: its machine was closed or reset`,
      );
    if (this.#running)
      throw new CarrelError('wrong_state', `vCPU ${this.index} is running`, { hint: 'pause it first' });
    return this.#at;
  }

  /** Runs it to the goal. Its files, counters and trace go on where they were. */
  async go(goal: Goal, { limitMs }: { readonly limitMs: number }): Promise<Ended> {
    this.#still();
    if (this.state === 'over' && this.#end)
      throw new CarrelError('wrong_state', `vCPU ${this.index} has ended: ${describeEnd(this.#end)}`, {
        hint: 'reset the machine to begin anew',
      });
    const { steps } = goal;
    if (steps !== undefined && (!Number.isInteger(steps) || steps < 1 || steps > mostSteps))
      throw new CarrelError('invalid_request', `1 to ${mostSteps} steps at once, not ${steps}`);
    const abort = new AbortController();
    this.#tell({ kind: 'running', vcpu: this.index });
    const done = this.#thread.go({ goal, limitMs, signal: abort.signal });
    this.#running = { abort, done };
    try {
      return this.#stopped(await done);
    } finally {
      this.#running = undefined;
    }
  }

  #stopped(ended: Ended): Ended {
    const { end, exits, trace, steps, registers } = ended;
    const vcpu = this.index;
    this.#running = undefined;
    this.#end = end;
    this.#exits = exits;
    if (trace && (trace.exits.length > 0 || trace.dropped > 0)) this.#tell({ kind: 'exits', vcpu, ...trace });
    if (steps && steps.length > 0) this.#tell({ kind: 'steps', vcpu, steps });
    this.#tell({
      kind: 'stopped',
      vcpu,
      end,
      sentence: describeEnd(end),
      isOver: !isPause(end),
      exits: exits.total,
      registers,
    });
    return ended;
  }

  /** Stops it where it is, if it runs; resolves when it stands still. */
  async pause(): Promise<void> {
    const running = this.#running;
    running?.abort.abort();
    await running?.done.catch(() => undefined); // whoever started it hears of the failure
  }

  registers(): ReturnType<typeof allRegisters> {
    return allRegisters(this.#still().vcpu);
  }

  setRegister(name: string, value: bigint): void {
    const { vcpu } = this.#still();
    const known = registerNames.find((each): each is RegisterName => each === name);
    if (!known)
      throw new CarrelError('invalid_request', `there is no register ${name} that can be set`, {
        hint: registerNames.join(', '),
      });
    vcpu.setRegisters({ ...vcpu.registers(), [known]: BigInt.asUintN(64, value) });
    this.#tell({ kind: 'changed', vcpu: this.index, what: known });
  }

  #space(): AddressSpace {
    const { vcpu, layout } = this.#still();
    return new AddressSpace(layout, vcpu.special());
  }

  walk(linear: bigint): { readonly walk: Walk; readonly cr3: bigint } {
    const space = this.#space();
    return { walk: space.walk(linear), cr3: space.paging.cr3 };
  }

  /** A copy of memory by linear address, or by guest-physical one. */
  read(address: bigint, length: number, { physical = false } = {}): Uint8Array {
    this.#still();
    if (length < 1 || length > mostRead)
      throw new CarrelError('invalid_request', `1 to ${mostRead} bytes at once, not ${length}`);
    if (!physical) return good(this.#space().read(address, length));
    const bytes = this.#machine.memory.slice(address, length);
    if (!bytes)
      throw new CarrelError(
        'invalid_request',
        `guest-physical 0x${address.toString(16)} and ${length} bytes are more than there is`,
        { hint: `memory ends at 0x${this.#machine.memory.length.toString(16)}` },
      );
    return Uint8Array.from(bytes);
  }

  /** Writes memory by linear address: all of it, or nothing. */
  write(address: bigint, bytes: Uint8Array): void {
    const failed = this.#space().write(address, bytes);
    if (failed) good(failed);
    const what = `${bytes.length} ${bytes.length === 1 ? 'byte' : 'bytes'} at 0x${address.toString(16)}`;
    this.#tell({ kind: 'changed', vcpu: this.index, what });
  }

  map(): VcpuMap {
    return mapOf(this.#machine, this.#still(), this.index);
  }

  /** Instructions at RIP, or from an address on. */
  code(count: number, from?: bigint): CodeLine[] {
    const { mode, image } = this.#machine;
    return codeAt(this.#still(), {
      mode,
      symbols: image.symbols,
      count,
      ...(from !== undefined && { from }),
    });
  }

  /** Stops it, and gives its thread back. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.pause();
    await this.#thread.close();
  }
}

function good(bytes: Uint8Array | BadAddress): Uint8Array {
  if (bytes instanceof BadAddress)
    throw new CarrelError('invalid_request', `0x${bytes.address.toString(16)}: ${bytes.why}`);
  return bytes;
}
