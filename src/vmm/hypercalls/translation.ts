/** From a guest's virtual address to everything behind it. */
import { closeSync, openSync, readSync } from 'node:fs';
import { constants } from 'node:os';
import { pageBytes } from '#kvm/memory.ts';
import { BadAddress } from '../addresses.ts';
import { addressSpaceOf, type Guest } from '../guest.ts';
import { type Hypercall, pointer } from './hypercall.ts';

const { EFAULT } = constants.errno;

/** A page that is there, and the mask of its frame number: Documentation/admin-guide/mm/pagemap.rst. */
const present = 1n << 63n;
const frameMask = (1n << 55n) - 1n;

/** Where a byte of ours lies in the host's memory; 0n where the kernel does not tell (no CAP_SYS_ADMIN). */
export function hostPhysical(hostVirtual: bigint): bigint {
  const entry = Buffer.alloc(8);
  const file = openSync('/proc/self/pagemap', 'r');
  try {
    readSync(file, entry, 0, 8, Number(hostVirtual / BigInt(pageBytes)) * 8);
  } finally {
    closeSync(file);
  }
  const word = entry.readBigUInt64LE();
  const frame = word & frameMask;
  if ((word & present) === 0n || frame === 0n) return 0n;
  return frame * BigInt(pageBytes) + (hostVirtual % BigInt(pageBytes));
}

/** Guest-physical and host-virtual address of a byte of this vCPU's window; a BadAddress if it is none. */
function locate(guest: Guest, linear: bigint): { physical: bigint; hostVirtual: bigint } | BadAddress {
  const space = addressSpaceOf(guest);
  const byte = space.pieces(linear, 1);
  if (byte instanceof BadAddress) return byte;
  const { result } = space.walk(linear);
  if (!result.mapped) return new BadAddress(linear, result.why);
  return {
    physical: result.physical,
    hostVirtual: guest.layout.memory.hostAddress + result.physical,
  };
}

export const translate: Hypercall = {
  name: 'translate',
  prototype: 'int translate(const void *address, struct translation *result)',
  doc: 'writes the guest-physical, host-virtual and host-physical address (0 where the host does not tell)',
  run: (guest, [linear, result]) => {
    const place = locate(guest, pointer(linear));
    if (place instanceof BadAddress) return -EFAULT;
    const words = BigUint64Array.of(place.physical, place.hostVirtual, hostPhysical(place.hostVirtual));
    const failed = addressSpaceOf(guest).write(pointer(result), new Uint8Array(words.buffer));
    return failed ? -EFAULT : 0;
  },
};

export const translateShort: Hypercall = {
  name: 'gva_to_hva',
  prototype: 'uint32_t gva_to_hva(uint32_t address)',
  doc: 'the low 32 bits of the host-virtual address, 0 if there is none',
  run: (guest, [linear]) => {
    const place = locate(guest, pointer(linear));
    return place instanceof BadAddress ? 0 : Number(BigInt.asUintN(32, place.hostVirtual));
  },
};
