/**
 * virtio-blk: a disk (5.2). Requests are served in the order in which they come, one after the other; what fails is
 * told by the status byte and does not stop the device.
 */
import { CarrelError } from '#base/errors.ts';
import type { Chain } from '../chain.ts';
import type { VirtioDevice } from '../device.ts';
import { bytesIn, copyIn } from '../pieces.ts';
import {
  type BlockRequest,
  IOERR,
  OK,
  type Outcome,
  parseRequest,
  requestTypes,
  sectorBytes,
  UNSUPP,
} from './request.ts';
import type { BlockStore } from './store.ts';

// feature bits (5.2.3)
export const SIZE_MAX = 1n << 1n;
export const SEG_MAX = 1n << 2n;
export const RO = 1n << 5n;
export const BLK_SIZE = 1n << 6n;
export const FLUSH = 1n << 9n;

const queueSize = 256;
/** Two descriptors are the header's and the status's. */
const segments = queueSize - 2;
/** Bytes in one segment, as Linux is told. */
const segmentBytes = 2 ** 17;
/** A guest waits for one request in the kernel of the host: it may not ask for gigabytes at once. */
const mostBytes = segments * segmentBytes;

/** VIRTIO_BLK_ID_BYTES */
const idBytes = 20;

export interface BlockOptions {
  readonly store: BlockStore;
  /** Serial number, as in /dev/disk/by-id: up to 20 bytes of ASCII. */
  readonly id?: string;
  /** Told of what the store could not do; the driver has got IOERR. */
  readonly onError?: (what: 'read' | 'write' | 'flush', errno: string) => void;
}

/** struct virtio_blk_config (5.2.4) as far as the offered features go. */
function configOf(sectors: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(24));
  view.setBigUint64(0, BigInt(sectors), true);
  view.setUint32(8, segmentBytes, true);
  view.setUint32(12, segments, true);
  view.setUint32(20, sectorBytes, true);
  return new Uint8Array(view.buffer);
}

/** A disk with as many whole sectors as the store has. */
export function createBlock({ store, id = '', onError }: BlockOptions): VirtioDevice {
  const identity = Buffer.from(id, 'latin1');
  if (identity.length > idBytes)
    throw new CarrelError('invalid_request', `a disk's serial number has up to ${idBytes} bytes: ${id}`);
  const sectors = Math.floor(store.bytes / sectorBytes);

  /** Where a transfer of so many bytes begins in the store, or undefined: not whole sectors, or not on the disk. */
  const place = (sector: bigint, bytes: number): number | undefined =>
    bytes % sectorBytes === 0 && bytes <= mostBytes && sector + BigInt(bytes / sectorBytes) <= BigInt(sectors)
      ? Number(sector) * sectorBytes
      : undefined;

  const outcome = (what: 'read' | 'write' | 'flush', errno: string | undefined): Outcome => {
    if (errno === undefined) return OK;
    onError?.(what, errno);
    return IOERR;
  };

  const write = ({ sector, out }: BlockRequest, writeThrough: boolean): Outcome => {
    const at = place(sector, bytesIn(out));
    if (at === undefined || store.readOnly) return IOERR;
    const written = outcome('write', store.write(at, out));
    // a driver without FLUSH cannot ask for it, and counts on what it was told is written (5.2.6.2)
    return written === OK && writeThrough ? outcome('flush', store.flush()) : written;
  };

  const read = (request: BlockRequest): Outcome => {
    const at = place(request.sector, request.inBytes);
    return at === undefined ? IOERR : outcome('read', store.read(at, request.in));
  };

  const identify = (request: BlockRequest): Outcome => {
    const answer = new Uint8Array(Math.min(idBytes, request.inBytes));
    answer.set(identity.subarray(0, answer.length));
    copyIn(request.in, answer);
    return OK;
  };

  /** Serves a request; how many bytes of it were written without a gap (2.7.8.2). */
  const serve = (chain: Chain, features: bigint): number => {
    const request = parseRequest(chain);
    const flushable = (features & FLUSH) !== 0n;
    let status: Outcome = UNSUPP;
    let filled = 0;
    if (request.type === requestTypes.IN) {
      status = read(request);
      if (status === OK) filled = request.inBytes;
    } else if (request.type === requestTypes.OUT) status = write(request, !flushable);
    else if (request.type === requestTypes.FLUSH && flushable) status = outcome('flush', store.flush());
    else if (request.type === requestTypes.GET_ID) {
      status = identify(request);
      filled = Math.min(idBytes, request.inBytes);
    }
    copyIn(request.status, Uint8Array.of(status));
    return filled === request.inBytes ? filled + 1 : filled;
  };

  return {
    name: 'virtio-blk',
    deviceId: 2,
    features: SIZE_MAX | SEG_MAX | BLK_SIZE | FLUSH | (store.readOnly ? RO : 0n),
    queueSizes: [queueSize],
    config: configOf(sectors),
    attach: () => undefined,
    notify: (_queue, queues) => queues.drain(0, (chain) => serve(chain, queues.features)),
    reset: () => undefined,
  };
}
