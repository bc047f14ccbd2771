/**
 * Memory as a drawing: high addresses at the top, guest-physical on the left, host-virtual on the right. A register
 * that points at a border stands beside it.
 */
import { hex } from '#base/units.ts';
import type { Region, VcpuMap } from '#vmm/inspect/map.ts';
import type { PagingTable } from '#vmm/paging/tables.ts';

const width = 44;

const left = (address: number): string => hex(address).padStart(10);

/** `0x3007`, of a table with one entry; how many of one with more. */
function note({ kind, from }: Region, tables: readonly PagingTable[]): string {
  const entries = kind === 'table' ? tables.find(({ at }) => at === BigInt(from))?.entries : undefined;
  const [only] = entries ?? [];
  return only && entries?.length === 1 ? `[${only.index}] ${hex(only.entry)}` : '';
}

/** `marks`: guest-physical addresses by the name of what points there. */
export function drawMap(
  { base, bytes, hostVirtual, regions, tables }: VcpuMap,
  marks: Readonly<Record<string, bigint>> = {},
): string {
  const markAt = (address: number): string => {
    const names = Object.entries(marks).filter(([, at]) => at === BigInt(address));
    return names.length === 0 ? '' : `  <- ${names.map(([name]) => name).join(', ')}`;
  };
  const right = (address: number): string => hex(hostVirtual + BigInt(address - base));
  const rule = (address: number, [open, close]: readonly [string, string]): string =>
    `${left(address)} ${open}${'─'.repeat(width)}${close} ${right(address)}${markAt(address)}`;
  const box = (region: Region): string => {
    const beside = note(region, tables);
    return `${' '.repeat(10)} │ ${region.what.padEnd(width - 2 - beside.length)}${beside} │`;
  };
  const lines = [`guest-physical${' '.repeat(width)}host-virtual`, rule(base + bytes, ['┌', '┐'])];
  for (const region of regions.toReversed()) {
    lines.push(box(region));
    lines.push(rule(region.from, region.from === base ? ['└', '┘'] : ['├', '┤']));
  }
  return lines.join('\n');
}

/** RIP, RSP and CR3 as marks, where the window begins at `base` and linear addresses at 0. */
export function marksOf(
  registers: Readonly<Record<'rip' | 'rsp' | 'cr3', bigint>>,
  { base, tables }: VcpuMap,
): Record<string, bigint> {
  return {
    RIP: BigInt(base) + registers.rip,
    RSP: BigInt(base) + registers.rsp,
    ...(tables.length > 0 && { CR3: registers.cr3 }),
  };
}
