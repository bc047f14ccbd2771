/**
 * Guest RAM: pages of ours that a VM sees as its physical memory. A SharedArrayBuffer, so that every thread that
 * runs a vCPU has the same bytes by a plain message. A growable one, though it never grows: V8 gives such a buffer a
 * mapping of its own, which begins at a page and is zero without being written; memory that the guest does not touch
 * costs nothing. An ordinary one may lie in the heap of malloc, which fills it with zeros one by one.
 *
 * KVM keeps the address, and V8 may reuse it once the buffer is garbage: whoever runs a vCPU holds the buffer.
 */
import { CarrelError } from '#base/errors.ts';
import { addressOf } from '#host/syscalls.ts';

export const pageBytes = 4096;

/** What a thread needs to see the same memory. */
export interface GuestMemoryHandle {
  readonly buffer: SharedArrayBuffer;
  readonly offset: number;
  readonly length: number;
}

export class GuestMemory {
  readonly handle: GuestMemoryHandle;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Where it is in our own address space. */
  readonly hostAddress: bigint;

  constructor(handle: GuestMemoryHandle) {
    this.handle = handle;
    const { buffer, offset, length } = handle;
    this.bytes = new Uint8Array(buffer, offset, length);
    this.view = new DataView(buffer, offset, length);
    this.hostAddress = addressOf(this.view);
  }

  /** So many bytes of zeros, beginning at a page. */
  static allocate(length: number): GuestMemory {
    if (length <= 0 || length % pageBytes !== 0)
      throw new CarrelError('internal', `guest memory comes in pages of ${pageBytes} bytes, not ${length}`);
    const buffer = new SharedArrayBuffer(length, { maxByteLength: length });
    return new GuestMemory({ buffer, offset: 0, length });
  }

  get length(): number {
    return this.handle.length;
  }

  /** The bytes of a guest-physical range themselves, or undefined if any of them is outside. */
  slice(at: bigint, length: number): Uint8Array | undefined {
    if (at < 0n || length < 0 || at + BigInt(length) > BigInt(this.length)) return undefined;
    return this.bytes.subarray(Number(at), Number(at) + length);
  }
}
