/** Questions about exits. The exit that asks is counted. */
import { constants } from 'node:os';
import { BadAddress } from '../addresses.ts';
import { addressSpaceOf } from '../guest.ts';
import { type Hypercall, int, pointer } from './hypercall.ts';

const { EFAULT, EINVAL } = constants.errno;

export const exits: Hypercall = {
  name: 'exits',
  prototype: 'uint32_t exits(void)',
  doc: 'how many exits this vCPU has had, this one included',
  run: ({ counters }) => counters.total,
};

export const exitsByType: Hypercall = {
  name: 'exits_by_type',
  prototype: 'int exits_by_type(char *buffer, int size)',
  doc: 'writes how many exits were in and how many out, as text with a NUL; its length',
  run: (guest, [at, size]) => {
    const { ins, outs } = guest.counters;
    const text = Buffer.from(`IO in: ${ins}\nIO out: ${outs}\n\0`);
    // maps of the course hand over no size
    if (size !== undefined && int(size) < text.length) return -EINVAL;
    return addressSpaceOf(guest).write(pointer(at), text) instanceof BadAddress ? -EFAULT : text.length - 1;
  },
};
