/** RAM in several pieces, each at its own address: below the hole for devices, and above it. */
import type { GuestMemory } from '#kvm/memory.ts';
import type { GuestRam } from './device.ts';

/** A stretch of RAM with its bytes. */
export interface RamPiece {
  /** Guest-physical address. */
  readonly at: number;
  readonly memory: GuestMemory;
}

export class RamPieces implements GuestRam {
  readonly pieces: readonly RamPiece[];
  readonly #starts: readonly { readonly at: bigint; readonly memory: GuestMemory }[];

  constructor(pieces: readonly RamPiece[]) {
    this.pieces = pieces;
    this.#starts = pieces.map(({ at, memory }) => ({ at: BigInt(at), memory }));
  }

  /** The bytes themselves; undefined unless all of them are RAM, in one piece. */
  slice(at: bigint, length: number): Uint8Array | undefined {
    for (const { at: first, memory } of this.#starts) {
      const bytes = memory.slice(at - first, length);
      if (bytes) return bytes;
    }
    return undefined;
  }
}
