/** Requests of a block device (5.2.6): a header to read, data, and a byte to write the outcome into. */
import type { Chain } from '../chain.ts';
import { DriverFault } from '../fault.ts';
import { bytesIn, copyOut, cut, type Pieces } from '../pieces.ts';

export const requestTypes = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8 } as const;

/** Outcomes: the status byte. */
export const OK = 0;
export const IOERR = 1;
export const UNSUPP = 2;

export type Outcome = typeof OK | typeof IOERR | typeof UNSUPP;

/** le32 type, le32 reserved, le64 sector. */
const headerBytes = 16;

export const sectorBytes = 512;

export interface BlockRequest {
  readonly type: number;
  readonly sector: bigint;
  /** What the driver gives behind the header. */
  readonly out: Pieces;
  /** Room for what the device answers, before the status. */
  readonly in: Pieces;
  readonly inBytes: number;
  readonly status: Pieces;
}

/** The parts of a chain, wherever its descriptors are cut. Throws DriverFault if there is no room for a status. */
export function parseRequest({ head, readable, writable }: Chain): BlockRequest {
  const header = copyOut(readable, headerBytes);
  const room = bytesIn(writable);
  if (header.length < headerBytes || room === 0)
    throw new DriverFault(
      'request shape',
      `chain ${head}: ${header.length} of ${headerBytes} bytes of header, ${room} bytes to write to`,
    );
  const view = new DataView(header.buffer);
  return {
    type: view.getUint32(0, true),
    sector: view.getBigUint64(8, true),
    out: cut(readable, headerBytes),
    in: cut(writable, 0, room - 1),
    inBytes: room - 1,
    status: cut(writable, room - 1),
  };
}
