/** 32-bit paging: one page directory, and in it one page of 4 MiB (page size extensions). */
import { windowBytes } from '../layout.ts';
import { CR4, entryBit, openEntry, pagedCr0 } from './bits.ts';
import type { Mode } from './mode.ts';
import { setFlatSegments } from './segments.ts';

export const paged: Mode = {
  name: 'paged',
  title: '32-bit paging',
  bits: 32,
  tableBytes: 0x1000,
  stack: windowBytes,
  setUp(special, { memory, base, tables }) {
    const directory = base + tables;
    memory.view.setUint32(directory, base | Number(openEntry | entryBit.large), true);
    special.set('cr3', BigInt(directory));
    special.set('cr4', CR4.PSE);
    special.set('cr0', pagedCr0);
    special.set('efer', 0n);
    setFlatSegments(special, 32);
  },
};
