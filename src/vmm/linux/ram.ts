/** RAM of a Linux machine: one piece below the hole, a second one above it when there is more. */
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { GuestMemory, pageBytes } from '#kvm/memory.ts';
import { RamPieces } from '../devices/pieces.ts';
import { hole } from './layout.ts';

const MiB = 2 ** 20;
/** A kernel, its initramfs, and something to work with. */
export const leastRam = 16 * MiB;
/** V8 holds no larger buffer than this; the host has its say long before. */
export const mostRam = 64 * 2 ** 30;

/** A stretch of RAM: guest-physical address, and bytes. */
export interface Stretch {
  readonly at: number;
  readonly length: number;
}

/** Where so much RAM lies. `invalid_request` for a size that no machine has. */
export function layOutRam(bytes: number): readonly Stretch[] {
  if (!Number.isSafeInteger(bytes) || bytes % pageBytes !== 0 || bytes < leastRam || bytes > mostRam)
    throw new CarrelError(
      'invalid_request',
      `a machine has ${formatSize(leastRam)} to ${formatSize(mostRam)} of memory, in whole pages; not ${bytes} bytes`,
    );
  if (bytes <= hole.from) return [{ at: 0, length: bytes }];
  return [
    { at: 0, length: hole.from },
    { at: hole.to, length: bytes - hole.from },
  ];
}

/** All RAM of a machine, as devices and loaders see it. */
export class LinuxRam extends RamPieces {
  /** Zeros, which cost nothing until they are touched. */
  static allocate(bytes: number): LinuxRam {
    return new LinuxRam(
      layOutRam(bytes).map(({ at, length }) => ({ at, memory: GuestMemory.allocate(length) })),
    );
  }

  get stretches(): readonly Stretch[] {
    return this.pieces.map(({ at, memory }) => ({ at, length: memory.length }));
  }

  /** Puts bytes at an address; `internal` where there is no RAM, for our own layout decides about the address. */
  put(at: number, bytes: Uint8Array): void {
    const there = this.slice(BigInt(at), bytes.length);
    if (!there)
      throw new CarrelError('internal', `${bytes.length} bytes at 0x${at.toString(16)} lie outside of RAM`);
    there.set(bytes);
  }
}
