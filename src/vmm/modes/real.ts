/** Real mode, as the 8086 had it: what every processor wakes up in. Addresses are segment * 16 + offset. */
import type { Mode } from './mode.ts';

export const real: Mode = {
  name: 'real',
  title: 'real mode',
  bits: 16,
  tableBytes: 0,
  // the first push wraps around to the end of the first 64 KiB
  stack: 0,
  setUp(special) {
    // a processor wakes up 16 bytes below 4 GiB; we want it at 0
    special.setSegment('cs', { ...special.segment('cs'), selector: 0, base: 0n });
  },
};
