/** What a kept program wrote, as far as we have been told: the first and the last MiB, under absolute offsets. */
import { CarrelError } from '#base/errors.ts';
import type { Transcript } from '../../../driver.ts';

const keptBytes = 1 << 20;

export interface TranscriptStore {
  readonly total: number;
  /** Bytes that stand at `offset`; what lies between is gone. `machine_lost` for an offset that was there before. */
  add(offset: number, bytes: Uint8Array): void;
  read(from: number, maxBytes?: number): Transcript;
}

/** `headBytes` from the start, and a ring of the last `ringBytes`, which is made when the head is full. */
export function createTranscript({ headBytes = keptBytes, ringBytes = keptBytes } = {}): TranscriptStore {
  let head = Buffer.alloc(0);
  let headEnd = 0;
  let ring: Buffer | undefined;
  /** The ring holds [ringStart, total). */
  let ringStart = 0;
  let total = 0;

  /** How many of the bytes belong to the head: they do while nothing is missing before them. */
  const intoHead = (bytes: Uint8Array): number => {
    if (total !== headEnd || headEnd === headBytes) return 0;
    const piece = bytes.subarray(0, headBytes - headEnd);
    if (headEnd + piece.length > head.length) {
      const larger = Buffer.alloc(Math.min(headBytes, Math.max(4096, 2 * (headEnd + piece.length))));
      head.copy(larger, 0, 0, headEnd);
      head = larger;
    }
    head.set(piece, headEnd);
    headEnd += piece.length;
    return piece.length;
  };
  const intoRing = (offset: number, bytes: Uint8Array): void => {
    ring ??= Buffer.alloc(ringBytes);
    const kept = bytes.subarray(Math.max(0, bytes.length - ringBytes));
    const place = (offset + bytes.length - kept.length) % ringBytes;
    const first = kept.subarray(0, ringBytes - place);
    ring.set(first, place);
    ring.set(kept.subarray(first.length), 0);
  };
  const readRing = (from: number, length: number): Buffer => {
    if (!ring || length <= 0) return Buffer.alloc(0);
    const place = from % ringBytes;
    const first = ring.subarray(place, Math.min(ringBytes, place + length));
    return Buffer.concat([first, ring.subarray(0, length - first.length)]);
  };

  return {
    get total() {
      return total;
    },
    add(offset, bytes) {
      if (offset < total)
        throw new CarrelError('machine_lost', "the machine's agent sent output that it had sent before");
      const gap = offset > total;
      const done = gap ? 0 : intoHead(bytes);
      if (done < bytes.length) {
        if (gap || !ring) ringStart = offset + done;
        intoRing(offset + done, bytes.subarray(done));
        ringStart = Math.max(ringStart, offset + bytes.length - ringBytes);
      }
      if (bytes.length > 0) total = offset + bytes.length;
    },
    read(from, maxBytes = keptBytes) {
      if (from < headEnd)
        return { total, from, bytes: Buffer.from(head.subarray(from, Math.min(headEnd, from + maxBytes))) };
      const start = ring ? Math.min(Math.max(from, ringStart), total) : total;
      return { total, from: start, bytes: readRing(start, Math.min(maxBytes, total - start)) };
    },
  };
}
