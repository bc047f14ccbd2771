/** A guest's program as it lies in memory before the first instruction. */
import type { GuestSymbol } from './symbols.ts';

export interface ImagePart {
  /** Offset in the window. */
  readonly at: number;
  readonly bytes: Uint8Array;
  /** At least as many as there are bytes; the rest is zero. */
  readonly length: number;
}

export interface GuestImage {
  readonly parts: readonly ImagePart[];
  readonly entry: number;
  /** The first offset behind all parts. */
  readonly end: number;
  /** Names of addresses, lowest first; none for plain machine code. */
  readonly symbols: readonly GuestSymbol[];
}

/** Machine code without a header: at 0, as it is. */
export function flatImage(bytes: Uint8Array): GuestImage {
  return { parts: [{ at: 0, bytes, length: bytes.length }], entry: 0, end: bytes.length, symbols: [] };
}
