/** Memory as `hexdump -C` writes it (hexdump(1)): address, sixteen bytes, the same as text, `*` for lines like the last. */

const rowBytes = 16;

function row(bytes: Uint8Array): string {
  const cells = Array.from({ length: rowBytes }, (_, index) => {
    const byte = bytes[index];
    return byte === undefined ? '  ' : byte.toString(16).padStart(2, '0');
  });
  const letters = [...bytes]
    .map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.'))
    .join('');
  return `${cells.slice(0, 8).join(' ')}  ${cells.slice(8).join(' ')}  |${letters}|`;
}

/** The last line is the address behind the last byte. */
export function hexDump(bytes: Uint8Array, from: number): string {
  const address = (at: number): string => (from + at).toString(16).padStart(8, '0');
  const lines: string[] = [];
  let before = '';
  for (let at = 0; at < bytes.length; at += rowBytes) {
    const text = row(bytes.subarray(at, at + rowBytes));
    if (text !== before) lines.push(`${address(at)}  ${text}`);
    else if (lines.at(-1) !== '*') lines.push('*');
    before = text;
  }
  return [...lines, address(bytes.length)].join('\n');
}
