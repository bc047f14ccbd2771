/** Words of memory that a run changed, told apart from what the processor and the stack do all the time. */
import type { Machine } from '../machine.ts';
import { nameOf } from '../image/symbols.ts';
import { isOnStack, type VcpuMap } from './map.ts';
import { wordIn } from './word.ts';

export interface WrittenWord {
  /** In the window of its vCPU: the linear address that the guest used, as the modes set it up. */
  readonly linear: bigint;
  readonly physical: bigint;
  readonly hostVirtual: bigint;
  readonly was: bigint;
  readonly is: bigint;
  readonly where: 'code and data' | 'stack' | 'memory';
  /** `counter`; undefined without a symbol there. */
  readonly name: string | undefined;
}

/** Words that differ from a copy taken before, as wide as the mode's registers; page tables are left out. */
export function writtenWords(
  machine: Machine,
  before: Uint8Array,
  { base, bytes, regions }: VcpuMap,
): {
  readonly words: readonly WrittenWord[];
  /** There are more. */
  readonly isPart: boolean;
} {
  const most = 64;
  const { bits } = machine.mode;
  const size = bits / 8;
  const { view, hostAddress } = machine.memory;
  const copy = new DataView(before.buffer, before.byteOffset, before.byteLength);
  const words: WrittenWord[] = [];
  for (let at = base; at < base + bytes; at += size) {
    const [was, is] = [wordIn(copy, at, bits), wordIn(view, at, bits)];
    if (was === is) continue;
    const region = regions.find(({ from, to }) => at >= from && at < to);
    if (region?.kind === 'table') continue;
    if (words.length === most) return { words, isPart: true };
    const linear = BigInt(at - base);
    const isStack = region !== undefined && isOnStack(region, at);
    words.push({
      linear,
      physical: BigInt(at),
      hostVirtual: hostAddress + BigInt(at),
      was,
      is,
      where: region?.kind === 'code' ? 'code and data' : isStack ? 'stack' : 'memory',
      // a label without a size goes on for ever: behind the image nothing bears its name
      name: linear < BigInt(machine.image.end) ? nameOf(machine.image.symbols, linear) : undefined,
    });
  }
  return { words, isPart: false };
}
