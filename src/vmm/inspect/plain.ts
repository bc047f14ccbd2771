/** Numbers of 64 bits in JSON. */
import { hex } from '#base/units.ts';

/**
 * Anything as JSON can hold it: a bigint (an address, a register) becomes its hexadecimal text, a negative one (an
 * answer that is an error) a number.
 */
export function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return value < 0n ? Number(value) : hex(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}
