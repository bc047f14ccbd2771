/**
 * Long mode: 64-bit code behind four-level paging, of which three levels are used. One table each, one entry in
 * each, and the last one maps a page of 2 MiB: the whole window. Linear addresses begin at 0 in every window, so
 * the same guest runs in all of them.
 */
import { windowBytes } from '../layout.ts';
import { CR4, EFER, entryBit, openEntry, pagedCr0 } from './bits.ts';
import type { Mode } from './mode.ts';
import { setFlatSegments } from './segments.ts';

export const long: Mode = {
  name: 'long',
  title: '64-bit mode',
  bits: 64,
  tableBytes: 0x3000,
  stack: windowBytes,
  setUp(special, { memory, base, tables }) {
    const pml4 = base + tables;
    const pdpt = pml4 + 0x1000;
    const pd = pdpt + 0x1000;
    memory.view.setBigUint64(pml4, BigInt(pdpt) | openEntry, true);
    memory.view.setBigUint64(pdpt, BigInt(pd) | openEntry, true);
    memory.view.setBigUint64(pd, BigInt(base) | openEntry | entryBit.large, true);
    special.set('cr3', BigInt(pml4));
    special.set('cr4', CR4.PAE);
    special.set('cr0', pagedCr0);
    special.set('efer', EFER.LME | EFER.LMA);
    setFlatSegments(special, 64);
  },
};
