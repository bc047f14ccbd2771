/** What a hypercall is: a name, a prototype as the guest's header has it, and what the host does. */
import type { End } from '../end.ts';
import type { Guest } from '../guest.ts';

export interface Hypercall {
  readonly name: string;
  /** As a C prototype. */
  readonly prototype: string;
  readonly doc: string;
  /**
   * Arguments are words of 64 bits, however they came. The answer is what the guest receives, negative for an
   * errno; an End instead ends this vCPU.
   */
  run(guest: Guest, words: readonly bigint[]): number | End;
}

/** A word as a C `int`. A missing one is 0. */
export function int(word: bigint | undefined): number {
  return Number(BigInt.asIntN(32, word ?? 0n));
}
