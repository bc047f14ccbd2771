/**
 * LZ4 as the kernel packs itself with it: the "legacy" frame, which is a magic number and blocks of at most
 * 8 MiB unpacked, each behind its packed length (lz4_Frame_format.md, "Legacy frame").
 */
import { CarrelError } from '#base/errors.ts';

export const lz4LegacyMagic = 0x184c2102;
const blockLimit = 8 * 2 ** 20;

const damaged = (): CarrelError => new CarrelError('invalid_archive', 'LZ4 data is damaged');

/** Unpacks one block (lz4_Block_format.md) into `out` from `at` on; returns where it ends. */
export function unpackBlock(input: Uint8Array, out: Uint8Array, at: number): number {
  let from = 0;
  let to = at;
  const length = (first: number): number => {
    let total = first;
    if (first !== 15) return total;
    for (;;) {
      const next = input[from];
      if (next === undefined) throw damaged();
      from += 1;
      total += next;
      if (next !== 255) return total;
    }
  };
  while (from < input.length) {
    const token = input[from] ?? 0;
    from += 1;
    const literals = length(token >> 4);
    if (from + literals > input.length || to + literals > out.length) throw damaged();
    out.set(input.subarray(from, from + literals), to);
    from += literals;
    to += literals;
    // The last sequence has no match.
    if (from === input.length) break;
    const distance = (input[from] ?? 0) | ((input[from + 1] ?? 0) << 8);
    from += 2;
    const match = length(token & 15) + 4;
    if (from > input.length || distance === 0 || distance > to - at || to + match > out.length)
      throw damaged();
    if (distance >= match) out.copyWithin(to, to - distance, to - distance + match);
    // Overlapping: the copy reads what it has just written.
    else for (let index = 0; index < match; index += 1) out[to + index] = out[to + index - distance] ?? 0;
    to += match;
  }
  return to;
}

/** All of a legacy frame; `limit` is the most it may unpack to. */
export function unpackLz4Legacy(input: Uint8Array, { limit }: { limit: number }): Buffer {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  if (input.length < 4 || view.getUint32(0, true) !== lz4LegacyMagic) throw damaged();
  const blocks: Buffer[] = [];
  let total = 0;
  const scratch = Buffer.alloc(blockLimit);
  for (let at = 4; at + 4 <= input.length;) {
    const packed = view.getUint32(at, true);
    at += 4;
    if (packed === 0 || at + packed > input.length) throw damaged();
    const length = unpackBlock(input.subarray(at, at + packed), scratch, 0);
    at += packed;
    total += length;
    if (total > limit) throw new CarrelError('too_large', `LZ4 data unpacks to more than ${limit} bytes`);
    blocks.push(Buffer.from(scratch.subarray(0, length)));
  }
  return Buffer.concat(blocks);
}
