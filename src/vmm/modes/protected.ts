/** Protected mode without paging: 32-bit code, and an address is a place in physical memory. */
import { windowBytes } from '../layout.ts';
import { CR0 } from './bits.ts';
import type { Mode } from './mode.ts';
import { setFlatSegments } from './segments.ts';

export const protectedMode: Mode = {
  name: 'protected',
  title: 'protected mode',
  bits: 32,
  tableBytes: 0,
  stack: windowBytes,
  setUp(special) {
    special.set('cr0', special.get('cr0') | CR0.PE);
    setFlatSegments(special, 32);
  },
};
