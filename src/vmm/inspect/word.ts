/** A word of guest memory, as wide as a register of the mode. */
import type { Mode } from '../modes/mode.ts';

/** At an offset that must lie within the view, the lowest byte first. */
export function wordIn(memory: DataView, at: number, bits: Mode['bits']): bigint {
  if (bits === 64) return memory.getBigUint64(at, true);
  return BigInt(bits === 32 ? memory.getUint32(at, true) : memory.getUint16(at, true));
}
