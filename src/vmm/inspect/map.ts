/** The memory of a machine as it is now: what lies where, for the guest and for the host. */
import { AddressSpace } from '../addresses.ts';
import { windowBytes } from '../layout.ts';
import type { Machine, MachineVcpu } from '../machine.ts';
import { findTables, type PagingTable } from '../paging/tables.ts';

export interface Region {
  readonly kind: 'code' | 'table' | 'stack' | 'empty';
  readonly what: string;
  /** Guest-physical; `to` is the first address behind it. */
  readonly from: number;
  readonly to: number;
}

export interface VcpuMap {
  readonly vcpu: number;
  /** First guest-physical address of its window, and where the host has that. */
  readonly base: number;
  readonly bytes: number;
  readonly hostVirtual: bigint;
  /** Its kvm_run: the other memory that it shares with the host. */
  readonly run: { readonly bytes: number; readonly hostVirtual: bigint };
  /** Lowest first, without gaps. */
  readonly regions: readonly Region[];
  readonly tables: readonly PagingTable[];
}

function tableRegion({ table, at, bytes, entries }: PagingTable): Region {
  const from = Number(at);
  const count = entries.length === 1 ? '1 entry' : `${entries.length} entries`;
  return { kind: 'table', what: `${table}, ${count}`, from, to: from + bytes };
}

/** Names what lies between the known regions; the last stretch is the stack's. */
function fill(known: readonly Region[], base: number, stack: number): Region[] {
  const regions: Region[] = [];
  let at = base;
  for (const region of known.toSorted((a, b) => a.from - b.from)) {
    if (region.from > at) regions.push({ kind: 'empty', what: 'empty', from: at, to: region.from });
    regions.push(region);
    at = Math.max(at, region.to);
  }
  const end = base + windowBytes;
  // real mode has its stack at the end of the first 64 KiB
  const top = base + (stack === 0 ? 0x1_0000 : stack);
  const grows = `empty; the stack grows down from 0x${(top - base).toString(16)}`;
  if (top > at) regions.push({ kind: 'stack', what: grows, from: at, to: top });
  if (end > top) regions.push({ kind: 'empty', what: 'empty', from: Math.max(at, top), to: end });
  return regions;
}

/** Of the stretch below the top of a stack, so much at most is taken for the stack. */
const stackBytes = 0x1_0000;

/** Whether an address in a region is the stack's: near its top. What lies below is memory like any other. */
export const isOnStack = ({ kind, from, to }: Region, at: number): boolean =>
  kind === 'stack' && to - at <= Math.min(stackBytes, (to - from) / 2);

/** Looks at one vCPU, which must not be running. */
export function mapOf(machine: Machine, { vcpu, layout }: MachineVcpu, index: number): VcpuMap {
  const space = new AddressSpace(layout, vcpu.special());
  const tables = findTables(space.readEntry, space.paging);
  const isInside = ({ at, bytes }: PagingTable): boolean =>
    at >= BigInt(layout.base) && at + BigInt(bytes) <= BigInt(layout.base + windowBytes);
  const code = machine.image.parts.map(({ at, length }): Region => ({
    kind: 'code',
    what: `code and data, ${length} bytes`,
    from: layout.base + at,
    to: layout.base + at + length,
  }));
  return {
    vcpu: index,
    base: layout.base,
    bytes: windowBytes,
    hostVirtual: machine.memory.hostAddress + BigInt(layout.base),
    run: { bytes: machine.runBytes, hostVirtual: vcpu.page.address },
    regions: fill(
      [...code.filter(({ from, to }) => to > from), ...tables.filter(isInside).map(tableRegion)],
      layout.base,
      machine.mode.stack,
    ),
    tables,
  };
}
