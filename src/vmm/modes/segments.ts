/** Flat segments: base 0, limit 4 GiB, so that an offset is the address. Intel SDM volume 3A, 3.2.1 and 3.4.5. */
import { segmentNames, type SpecialRegisters } from '#kvm/registers.ts';

const flat = { base: 0n, limit: 0xffff_ffff, dpl: 0, g: true } as const;
const code = { selector: 1 << 3, type: 11 } as const; // execute, read, accessed
const data = { selector: 2 << 3, type: 3 } as const; // read, write, accessed

/**
 * Code and data segments as a descriptor table would give them. There is no table: the hidden parts of the
 * registers are set directly, and stay until the guest loads a segment register. There is no interrupt table either:
 * with the limits that a processor wakes up with, both would lie over the guest's code, and an exception go on at an
 * address made of instructions.
 */
export function setFlatSegments(special: SpecialRegisters, bits: 32 | 64): void {
  const wide = bits === 64;
  special.setGdt(0n, 0);
  special.setIdt(0n, 0);
  for (const name of segmentNames)
    special.setSegment(
      name,
      name === 'cs' ? { ...flat, ...code, db: !wide, l: wide } : { ...flat, ...data, db: true, l: false },
    );
}
