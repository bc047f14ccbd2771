/**
 * Descriptor chains (2.7.5): from the head that the driver put into the available ring to the pieces of guest RAM
 * that it means. All of the chain is checked before any of it is used.
 */
import type { GuestRam } from '../devices/device.ts';
import { DriverFault } from './fault.ts';

/** struct virtq_desc: le64 addr, le32 len, le16 flags, le16 next. */
const descriptorBytes = 16;
const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

/** A chain may not have more bytes (2.7.5.2). */
const mostBytes = 2 ** 32;

export interface Chain {
  /** Its name in the used ring. */
  readonly head: number;
  /** Pieces for the device to read, in order, then those for it to write: views of guest RAM, none empty. */
  readonly readable: readonly Uint8Array[];
  readonly writable: readonly Uint8Array[];
}

export interface ChainOptions {
  readonly head: number;
  /** The queue's size. */
  readonly size: number;
  /** VIRTIO_F_INDIRECT_DESC was negotiated. */
  readonly indirect: boolean;
  /** For messages. */
  readonly queue: number;
}

/** Follows a chain through the descriptor table, and into an indirect one. Throws DriverFault. */
export function readChain(ram: GuestRam, ring: Uint8Array, options: ChainOptions): Chain {
  const { head, size, queue } = options;
  const readable: Uint8Array[] = [];
  const writable: Uint8Array[] = [];
  let table = new DataView(ring.buffer, ring.byteOffset, ring.byteLength);
  let entries = size;
  let index = head;
  let bytes = 0;
  let inIndirect = false;
  const fault = (name: DriverFault['fault'], found: string): DriverFault =>
    new DriverFault(name, `queue ${queue}, chain ${head}: ${found}`);

  for (let followed = 0; ;) {
    if (index >= entries) throw fault('descriptor index', `descriptor ${index} of ${entries}`);
    const at = index * descriptorBytes;
    const address = table.getBigUint64(at, true);
    const length = table.getUint32(at + 8, true);
    const flags = table.getUint16(at + 12, true);
    const next = table.getUint16(at + 14, true);
    if ((flags & INDIRECT) !== 0) {
      table = indirectTable(ram, { address, length, flags, inIndirect, allowed: options.indirect }, fault);
      entries = length / descriptorBytes;
      index = 0;
      inIndirect = true;
      continue;
    }
    followed += 1;
    if (followed > size) throw fault('chain too long', `more than ${size} descriptors`);
    bytes += length;
    if (bytes > mostBytes) throw fault('chain too large', `${bytes} bytes and more`);
    const piece = ram.slice(address, length);
    if (!piece) throw fault('buffer outside memory', `0x${address.toString(16)}, ${length} bytes`);
    if ((flags & WRITE) !== 0) {
      if (length > 0) writable.push(piece);
    } else {
      if (writable.length > 0) throw fault('buffer order', `descriptor ${index} is to be read`);
      if (length > 0) readable.push(piece);
    }
    if ((flags & NEXT) === 0) return { head, readable, writable };
    index = next;
  }
}

interface IndirectDescriptor {
  readonly address: bigint;
  readonly length: number;
  readonly flags: number;
  readonly inIndirect: boolean;
  readonly allowed: boolean;
}

/** The table behind a descriptor with VIRTQ_DESC_F_INDIRECT; its WRITE flag means nothing (2.7.5.3.2). */
function indirectTable(
  ram: GuestRam,
  { address, length, flags, inIndirect, allowed }: IndirectDescriptor,
  fault: (name: DriverFault['fault'], found: string) => DriverFault,
): DataView {
  const where = `table at 0x${address.toString(16)}, ${length} bytes`;
  if (!allowed) throw fault('indirect not negotiated', where);
  if (inIndirect) throw fault('indirect nested', where);
  if ((flags & NEXT) !== 0) throw fault('indirect with next', where);
  if (length === 0 || length % descriptorBytes !== 0) throw fault('indirect size', where);
  const table = ram.slice(address, length);
  if (!table) throw fault('buffer outside memory', where);
  return new DataView(table.buffer, table.byteOffset, table.byteLength);
}
