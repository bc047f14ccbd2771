/** All there is to see of a vCPU that stands still, and of its memory: what drawings, JSON and the web are made of. */
import { AddressSpace } from '../addresses.ts';
import type { Machine } from '../machine.ts';
import { formatOf } from '../paging/formats.ts';
import { mappedRanges, type MappedRanges } from '../paging/ranges.ts';
import { type CodeLine, codeAt } from './code.ts';
import { mapOf, type VcpuMap } from './map.ts';
import { allRegisters } from './registers.ts';

export interface VcpuView extends VcpuMap {
  readonly registers: ReturnType<typeof allRegisters>;
  readonly paging: MappedRanges & {
    readonly format: string;
    /** From CR3 down, those that a translation may go through. */
    readonly levels: readonly string[];
    /** Pages that all tables together occupy. */
    readonly tablePages: number;
  };
  /** The instructions to come. */
  readonly code: readonly CodeLine[];
}

const shownInstructions = 8;

/** The vCPU must not be running. Throws nothing: tables may say anything. */
export function viewOf(machine: Machine, index: number): VcpuView | undefined {
  const at = machine.vcpus[index];
  if (!at) return undefined;
  const map = mapOf(machine, at, index);
  const space = new AddressSpace(at.layout, at.vcpu.special());
  const { name, levels } = formatOf(space.paging);
  const tableBytes = map.tables.reduce((sum, { bytes }) => sum + Math.max(bytes, 4096), 0);
  return {
    ...map,
    registers: allRegisters(at.vcpu),
    paging: {
      format: name,
      levels: levels.map(({ table }) => table),
      tablePages: tableBytes / 4096,
      ...mappedRanges(space.readEntry, space.paging, { memoryBytes: machine.memory.length }),
    },
    code: codeAt(at, { mode: machine.mode, symbols: machine.image.symbols, count: shownInstructions }),
  };
}
