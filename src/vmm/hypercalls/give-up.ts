/** A fault that the guest has caught itself and cannot repair: its last words. */
import { constants } from 'node:os';
import { BadAddress } from '../addresses.ts';
import { addressSpaceOf } from '../guest.ts';
import { type Hypercall, pointer } from './hypercall.ts';

const { EFAULT } = constants.errno;

/** Four words of eight bytes, whatever the width of the guest. */
const wordsBytes = 32;

export const giveUp: Hypercall = {
  name: 'give_up',
  prototype: 'int give_up(const uint64_t words[4])',
  doc: 'ends this vCPU with an exception: vector, error code, RIP, CR2',
  run: (guest, [at]) => {
    const bytes = addressSpaceOf(guest).read(pointer(at), wordsBytes);
    if (bytes instanceof BadAddress) return -EFAULT;
    const [vector = 0n, errorCode = 0n, rip = 0n, address = 0n] = [0, 8, 16, 24].map((offset) =>
      new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(offset, true),
    );
    return { kind: 'gave up', vector: Number(BigInt.asUintN(8, vector)), errorCode, rip, address };
  },
};
