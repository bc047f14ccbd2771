/**
 * A guest one instruction at a time.
 *
 * KVM leaves the guest after each instruction (exit DEBUG). Two kinds need care: a port instruction leaves with
 * exit IO instead, and is not over before its answer was delivered; and an emulating KVM steps over hlt without a
 * word, so that hlt is run without stepping.
 */
import { exitReasons } from '#kvm/abi/exits.ts';
import type { RunPage } from '#kvm/runpage.ts';
import { type RegisterName, registerNames, type Registers } from '#kvm/registers.ts';
import type { Vcpu } from '#kvm/vcpu.ts';
import { AddressSpace } from './addresses.ts';
import { disassemble } from './fault/disassemble.ts';
import { fetchBytes } from './fault/scene.ts';
import type { Layout } from './layout.ts';
import type { Mode } from './modes/mode.ts';

export interface Step {
  readonly rip: bigint;
  readonly bytes: string;
  readonly text: string;
  /** Registers that are other than before, RIP left out. */
  readonly changed: Readonly<Partial<Record<RegisterName, bigint>>>;
}

const HLT = 0xf4;

interface Instant {
  readonly registers: Registers;
  readonly bytes: Uint8Array;
}

export class Stepper {
  readonly #vcpu: Vcpu;
  readonly #mode: Mode;
  readonly #layout: Layout;
  readonly #limit: number;
  readonly #steps: Step[] = [];
  #before: Instant;

  constructor(vcpu: Vcpu, { mode, layout, limit }: { mode: Mode; layout: Layout; limit: number }) {
    this.#vcpu = vcpu;
    this.#mode = mode;
    this.#layout = layout;
    this.#limit = limit;
    this.#before = this.#look();
    this.#arm();
  }

  get steps(): readonly Step[] {
    return this.#steps;
  }

  #look(): Instant {
    const registers = this.#vcpu.registers();
    const special = this.#vcpu.special();
    const space = new AddressSpace(this.#layout, special);
    return { registers, bytes: fetchBytes(space, special.segment('cs').base + registers.rip) };
  }

  #arm(): void {
    this.#vcpu.setSingleStep(this.#before.bytes[0] !== HLT);
  }

  /** After an exit was served: the instruction it belongs to is over. False when there were enough of them. */
  after(page: RunPage): boolean {
    const wasPort = page.exitReason === exitReasons.IO.number;
    if (wasPort) this.#vcpu.complete();
    this.record();
    this.#arm();
    return this.#steps.length < this.#limit;
  }

  /** The vCPU runs freely from now on. */
  disarm(): void {
    this.#vcpu.setSingleStep(false);
  }

  /** Writes down the instruction that was executed since the last look. */
  record(): void {
    const { registers, bytes } = this.#before;
    const now = this.#look();
    const { text, length } = disassemble(bytes, this.#mode.bits, registers.rip);
    const changed = registerNames.filter((name) => name !== 'rip' && now.registers[name] !== registers[name]);
    this.#steps.push({
      rip: registers.rip,
      bytes: Buffer.from(bytes.subarray(0, length)).toString('hex'),
      text,
      changed: Object.fromEntries(changed.map((name) => [name, now.registers[name]])),
    });
    this.#before = now;
  }
}
