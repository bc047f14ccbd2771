/**
 * Breakpoints in the processor's debug registers. The guest runs at full speed until one is met.
 *
 * A guest that stands before a breakpoint would meet it again at once: its first instruction is a single step, with
 * only the watchpoints on data in place.
 */
import { exitReasons } from '#kvm/abi/exits.ts';
import { triggered } from '#kvm/debug.ts';
import type { RunPage } from '#kvm/runpage.ts';
import type { Vcpu } from '#kvm/vcpu.ts';
import type { End } from '../end.ts';
import type { Layout } from '../layout.ts';
import type { Breakpoint, Hit } from './breakpoint.ts';
import type { Control } from './control.ts';
import { isHalt, look, peek } from './look.ts';

export class HardwareBreakpoints implements Control {
  readonly #vcpu: Vcpu;
  readonly #layout: Layout;
  readonly #breakpoints: readonly Breakpoint[];
  readonly #held = new Map<Breakpoint, string>();
  readonly steps = undefined;
  /** In the order of DR0 to DR3. */
  #armed: readonly Breakpoint[] = [];
  #steppingOff = false;

  constructor(vcpu: Vcpu, { layout, breakpoints }: { layout: Layout; breakpoints: readonly Breakpoint[] }) {
    this.#vcpu = vcpu;
    this.#layout = layout;
    this.#breakpoints = breakpoints;
    const now = look(vcpu, layout);
    for (const each of breakpoints) this.#held.set(each, peek(now.space, each.address, each.bytes));
    const standsOnOne = breakpoints.some(({ kind, address }) => kind === 'execute' && address === now.rip);
    if (standsOnOne && !isHalt(now)) {
      this.#steppingOff = true;
      this.#arm(breakpoints.filter(({ kind }) => kind !== 'execute'));
    } else this.#arm(standsOnOne ? [] : breakpoints);
  }

  #arm(breakpoints: readonly Breakpoint[]): void {
    this.#armed = breakpoints;
    this.#vcpu.setDebug({ singleStep: this.#steppingOff, breakpoints });
  }

  after(page: RunPage): End | undefined {
    const wasDebug = page.exitReason === exitReasons.DEBUG.number;
    const status = wasDebug ? page.debugStatus : 0n;
    const met = triggered(status).flatMap((index) => this.#armed[index] ?? []);
    if (this.#steppingOff) {
      // a port instruction ends with the exit that was served just now
      if (!wasDebug) this.#vcpu.complete();
      this.#steppingOff = false;
      this.#arm(this.#breakpoints);
    }
    return met.length === 0 ? undefined : { kind: 'breakpoint', hits: met.map((each) => this.#hit(each)) };
  }

  #hit(breakpoint: Breakpoint): Hit {
    const { registers, space } = look(this.#vcpu, this.#layout);
    const hit = { breakpoint, method: 'debug registers', rip: registers.rip } as const;
    if (breakpoint.kind === 'execute') return hit;
    const was = this.#held.get(breakpoint) ?? '';
    const is = peek(space, breakpoint.address, breakpoint.bytes);
    this.#held.set(breakpoint, is);
    return { ...hit, was, is };
  }

  halted(): void {
    // nothing is written down
  }

  release(): void {
    this.#vcpu.setDebug({});
  }
}
