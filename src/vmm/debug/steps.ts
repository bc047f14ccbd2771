/**
 * A guest one instruction at a time: to write each down, or to notice breakpoints that the processor cannot.
 *
 * KVM leaves the guest after each instruction (exit DEBUG). Two kinds need care: an instruction that reaches for a
 * device leaves with exit IO or MMIO instead, and is not over before its answer was delivered; and an emulating KVM
 * steps over hlt without a word, so that hlt is run without stepping.
 */
import { exitReasons } from '#kvm/abi/exits.ts';
import type { RunPage } from '#kvm/runpage.ts';
import { type RegisterName, registerNames } from '#kvm/registers.ts';
import type { Vcpu } from '#kvm/vcpu.ts';
import type { End } from '../end.ts';
import { disassemble, memoryOperands } from '../fault/disassemble.ts';
import type { Layout } from '../layout.ts';
import type { Mode } from '../modes/mode.ts';
import type { Breakpoint, Hit } from './breakpoint.ts';
import type { Control } from './control.ts';
import { type Instant, isHalt, look, peek } from './look.ts';

export interface Step {
  readonly rip: bigint;
  readonly bytes: string;
  readonly text: string;
  /** Registers that are other than before, RIP left out. */
  readonly changed: Readonly<Partial<Record<RegisterName, bigint>>>;
}

export interface StepperOptions {
  readonly mode: Mode;
  readonly layout: Layout;
  /** So many steps, each written down; without it as many as it takes, and none is kept. */
  readonly limit?: number | undefined;
  readonly breakpoints?: readonly Breakpoint[];
}

export class Stepper implements Control {
  readonly #vcpu: Vcpu;
  readonly #mode: Mode;
  readonly #layout: Layout;
  readonly #limit: number | undefined;
  readonly #breakpoints: readonly Breakpoint[];
  readonly #steps: Step[] = [];
  /** What watched memory holds, by breakpoint. */
  readonly #held = new Map<Breakpoint, string>();
  #before: Instant;

  constructor(vcpu: Vcpu, { mode, layout, limit, breakpoints = [] }: StepperOptions) {
    this.#vcpu = vcpu;
    this.#mode = mode;
    this.#layout = layout;
    this.#limit = limit;
    this.#breakpoints = breakpoints;
    this.#before = look(vcpu, layout);
    for (const breakpoint of breakpoints) this.#held.set(breakpoint, this.#peek(breakpoint, this.#before));
    this.#arm();
  }

  get steps(): readonly Step[] | undefined {
    return this.#limit === undefined ? undefined : this.#steps;
  }

  #peek({ address, bytes }: Breakpoint, { space }: Instant): string {
    return peek(space, address, bytes);
  }

  #arm(): void {
    this.#vcpu.setDebug({ singleStep: !isHalt(this.#before) });
  }

  after(page: RunPage): End | undefined {
    if (page.exitReason !== exitReasons.DEBUG.number) this.#vcpu.complete();
    const before = this.#before;
    const now = look(this.#vcpu, this.#layout);
    this.#record(before, now);
    const hits = this.#breakpoints.flatMap((breakpoint) => this.#hit(breakpoint, before, now) ?? []);
    this.#before = now;
    this.#arm();
    if (hits.length > 0) return { kind: 'breakpoint', hits };
    return this.#limit !== undefined && this.#steps.length >= this.#limit
      ? { kind: 'steps done', count: this.#steps.length }
      : undefined;
  }

  halted(): void {
    this.#record(this.#before, look(this.#vcpu, this.#layout));
  }

  release(): void {
    this.#vcpu.setDebug({});
  }

  /** Writes down the instruction that was executed between two looks. */
  #record({ registers, bytes }: Instant, now: Instant): void {
    if (this.#limit === undefined) return;
    const { text, length } = disassemble(bytes, this.#mode.bits, registers.rip);
    const changed = registerNames.filter((name) => name !== 'rip' && now.registers[name] !== registers[name]);
    this.#steps.push({
      rip: registers.rip,
      bytes: Buffer.from(bytes.subarray(0, length)).toString('hex'),
      text,
      changed: Object.fromEntries(changed.map((name) => [name, now.registers[name]])),
    });
  }

  #hit(breakpoint: Breakpoint, before: Instant, now: Instant): Hit | undefined {
    const hit = { breakpoint, method: 'single step', rip: now.registers.rip } as const;
    if (breakpoint.kind === 'execute') return now.rip === breakpoint.address ? hit : undefined;
    const was = this.#held.get(breakpoint) ?? '';
    const is = this.#peek(breakpoint, now);
    this.#held.set(breakpoint, is);
    // a hypercall's answer may change memory as well, which no operand tells
    const isHit = was !== is || this.#touches(breakpoint, before);
    return isHit ? { ...hit, by: before.registers.rip, was, is } : undefined;
  }

  /** Whether the instruction names the watched bytes. */
  #touches({ kind, address, bytes }: Breakpoint, { registers, special, bytes: code }: Instant): boolean {
    return memoryOperands(code, this.#mode.bits, registers).some((operand) => {
      const from = special.segment(operand.segment).base + operand.offset;
      const overlaps = from < address + BigInt(bytes) && address < from + BigInt(operand.bytes);
      return overlaps && (kind === 'access' || operand.isWrite);
    });
  }
}
