/** What a hypercall is: a name, a prototype as the guest's header has it, and what the host does. */
import type { End } from '../end.ts';
import type { Guest } from '../guest.ts';

/** An argument: what an `out` sends is a number, a register of 64 bits needs a bigint. */
export type Word = number | bigint;

export interface Hypercall {
  readonly name: string;
  /** As a C prototype. */
  readonly prototype: string;
  readonly doc: string;
  /**
   * The answer is what the guest receives, negative for an
   * errno; an End instead ends this vCPU.
   */
  run(guest: Guest, words: readonly Word[]): number | End;
}

/** A word as a C `int`. A missing one is 0. */
export function int(word: Word | undefined): number {
  return typeof word === 'bigint' ? Number(BigInt.asIntN(32, word)) : (word ?? 0) | 0;
}

/** A word as an address. A missing one is 0. */
export function pointer(word: Word | undefined): bigint {
  return BigInt(word ?? 0);
}
