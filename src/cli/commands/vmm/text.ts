/** How the vmm commands write numbers, for people and in JSON. */

export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

/** Anything as JSON can hold it: a bigint (an address, a register) becomes its hexadecimal text. */
export function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return hex(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}

/** `00000400  2a 00 00 00 ...  *...`: sixteen bytes in a line. */
export function hexDump(bytes: Uint8Array, from: number): string {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const numbers = row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const letters = row
      .map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.'))
      .join('');
    lines.push(`${(from + at).toString(16).padStart(8, '0')}  ${numbers.padEnd(47)}  ${letters}`);
  }
  return lines.join('\n');
}
