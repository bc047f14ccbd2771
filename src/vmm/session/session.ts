/**
 * A machine that is stopped, looked at, changed and continued: what a debugger, a page in the browser or a test
 * holds in its hand.
 *
 * @example
 * await using session = openSession({ mode: 'long', image }, { onEvent: console.log });
 * session.addBreakpoint(parseBreakpoint('main', 'execute', image.symbols));
 * await session.resume(0);
 * session.vcpu(0).registers().rip;
 * await session.step(0, 3);
 */
import { CarrelError } from '#base/errors.ts';
import type { Breakpoint } from '../debug/breakpoint.ts';
import { createMachine, type GuestOptions, type Machine, type MachineOptions } from '../machine.ts';
import type { Ended } from '../vcpu-worker.ts';
import type { NumberedBreakpoint, SessionListener } from './events.ts';
import { SessionVcpu } from './vcpu.ts';

/** More are a mistake: each makes single steps slower. */
const mostBreakpoints = 64;

export interface SessionOptions extends GuestOptions {
  /** For each stretch of each vCPU; then it is paused. */
  readonly limitMs?: number;
  readonly onEvent?: SessionListener;
}

export class Session {
  readonly #what: MachineOptions;
  readonly #options: SessionOptions;
  readonly #breakpoints: NumberedBreakpoint[] = [];
  #nextNumber = 1;
  #machine: Machine;
  #vcpus: readonly SessionVcpu[];
  /** Closed, or between two machines: nothing can be asked of it. */
  #closed = false;
  /** There will be no other machine. */
  #over = false;
  #resetting: Promise<void> | undefined;

  /** Made by `openSession`. */
  constructor(what: MachineOptions, options: SessionOptions) {
    this.#what = { watchDirty: 'as this host can', ...what };
    this.#options = options;
    this.#machine = createMachine(this.#what);
    this.#vcpus = this.#open();
  }

  #open(): SessionVcpu[] {
    const { onEvent: tell = () => undefined, trace = true, ...guest } = this.#options;
    const machine = this.#machine;
    const opened: SessionVcpu[] = [];
    try {
      for (const index of machine.vcpus.keys())
        opened.push(new SessionVcpu(machine, index, { guest: { ...guest, trace }, tell }));
      return opened;
    } catch (error) {
      // an unknown port map, a disk that is none: what was made for it goes
      void Promise.all(opened.map((vcpu) => vcpu.close())).then(() => machine.close());
      throw error;
    }
  }

  #tell(...event: Parameters<SessionListener>): void {
    this.#options.onEvent?.(...event);
  }

  get machine(): Machine {
    this.#needOpen();
    return this.#machine;
  }

  get vcpus(): readonly SessionVcpu[] {
    return this.#vcpus;
  }

  #needOpen(): void {
    if (this.#closed) throw new CarrelError('wrong_state', 'the session is closed, or just begins anew');
  }

  vcpu(index: number): SessionVcpu {
    this.#needOpen();
    const vcpu = this.#vcpus[index];
    if (!vcpu)
      throw new CarrelError('not_found', `there is no vCPU ${index}`, {
        hint: `there are ${this.#vcpus.length}, the first is 0`,
      });
    return vcpu;
  }

  get #limits(): { readonly limitMs: number } {
    return { limitMs: this.#options.limitMs ?? 5000 };
  }

  /** So many instructions. */
  async step(index: number, count = 1): Promise<Ended> {
    return await this.vcpu(index).go({ steps: count }, this.#limits);
  }

  /** To the next breakpoint, or to its end. */
  async resume(index: number): Promise<Ended> {
    return await this.vcpu(index).go({ breakpoints: this.#breakpoints }, this.#limits);
  }

  async pause(index: number): Promise<void> {
    await this.vcpu(index).pause();
  }

  /** Lowest number first. */
  get breakpoints(): readonly NumberedBreakpoint[] {
    return this.#breakpoints;
  }

  /** For all vCPUs, from the next time that each of them goes on. */
  addBreakpoint(breakpoint: Breakpoint): NumberedBreakpoint {
    if (this.#breakpoints.length >= mostBreakpoints)
      throw new CarrelError('quota_exceeded', `there are ${mostBreakpoints} breakpoints already`);
    const numbered = { ...breakpoint, number: this.#nextNumber };
    this.#nextNumber += 1;
    this.#breakpoints.push(numbered);
    this.#tell({ kind: 'breakpoints', breakpoints: [...this.#breakpoints] });
    return numbered;
  }

  removeBreakpoint(number: number): void {
    const at = this.#breakpoints.findIndex((each) => each.number === number);
    if (at < 0) throw new CarrelError('not_found', `there is no breakpoint ${number}`);
    this.#breakpoints.splice(at, 1);
    this.#tell({ kind: 'breakpoints', breakpoints: [...this.#breakpoints] });
  }

  /** The same guest in a new machine; breakpoints stay. Running vCPUs are stopped. */
  async reset(): Promise<void> {
    this.#needOpen();
    this.#resetting = this.#beginAnew();
    await this.#resetting;
  }

  async #beginAnew(): Promise<void> {
    await this.#end();
    // somebody closed it meanwhile
    if (this.#over) this.#needOpen();
    this.#machine = createMachine(this.#what);
    this.#vcpus = this.#open();
    this.#closed = false;
    this.#tell({ kind: 'reset' });
  }

  async #end(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.all(this.#vcpus.map((vcpu) => vcpu.close()));
    this.#machine.close();
  }

  /** Stops what runs; nothing is left. */
  async close(): Promise<void> {
    this.#over = true;
    await this.#resetting?.catch(() => undefined); // whoever asked for it hears of it
    await this.#end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** A machine about to execute its first instruction. */
export function openSession(what: MachineOptions, options: SessionOptions = {}): Session {
  return new Session(what, options);
}
