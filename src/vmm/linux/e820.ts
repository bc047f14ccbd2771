/** The memory map that a kernel is handed: what of the guest-physical addresses is RAM, and what of it is taken. */
import { place } from './layout.ts';
import type { Stretch } from './ram.ts';

export const e820Type = { ram: 1, reserved: 2 } as const;

export interface E820Entry extends Stretch {
  readonly type: (typeof e820Type)[keyof typeof e820Type];
}

/** Lowest address first; the first MiB is cut as in a PC. Addresses that are not named are nobody's. */
export function e820(stretches: readonly Stretch[]): E820Entry[] {
  const MiB = place.high;
  const low: readonly E820Entry[] = [
    { at: 0, length: place.conventionalEnd, type: e820Type.ram },
    { at: place.conventionalEnd, length: 0xa_0000 - place.conventionalEnd, type: e820Type.reserved },
    { at: place.mpTable, length: MiB - place.mpTable, type: e820Type.reserved },
  ];
  const rest = stretches
    .map(({ at, length }) => {
      const from = Math.max(at, MiB);
      return { at: from, length: at + length - from, type: e820Type.ram };
    })
    .filter(({ length }) => length > 0);
  return [...low, ...rest];
}
