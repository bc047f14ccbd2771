/**
 * How arguments travel. An `out` hands over 32 bits, which is enough for a number or a pointer into 2 MiB; for
 * more, every course found its own way.
 */
import { BadAddress } from '../addresses.ts';
import { addressSpaceOf, type Guest, registersOf } from '../guest.ts';
import { modes } from '../modes/table.ts';
import type { Word } from './hypercall.ts';

/** From what the guest sent (0 for `in`) to the words of the call. */
export type Passing = (guest: Guest, sent: number) => readonly Word[];

export const nothing: Passing = () => [];

/** The value itself. */
export const value: Passing = (_, sent) => [sent];

/** Always these: for a port whose answer is fixed. */
export const fixed =
  (word: Word): Passing =>
  () => [word];

/**
 * As a C function gets them: RDI, RSI, RDX (System V ABI for x86-64, 3.2.3). Registers come with every exit, so
 * one exit is the whole call: an `in`, which also brings the result. The upper halves count in 64-bit mode only.
 */
export const registers: Passing = (guest) => {
  const { rdi, rsi, rdx } = registersOf(guest);
  const width = modes[guest.mode].bits === 64 ? 64 : 32;
  return [rdi, rsi, rdx].map((word) => BigInt.asUintN(width, word));
};

/** Pointer in the upper 21 bits, length in the lower 11: at most 2047 bytes, as academy-dt has it. */
export const packed: Passing = (_, sent) => [sent >>> 11, sent & 0x7ff];

/** A pointer to a byte with the length, the data following it: as bergeramit has it. */
export const counted: Passing = (guest, sent) => {
  const length = addressSpaceOf(guest).read(BigInt(sent), 1);
  // a bad pointer stays one: the call itself finds out
  return [sent + 1, length instanceof BadAddress ? 0 : (length[0] ?? 0)];
};
