/**
 * The record of a kept run: its output under absolute byte numbers, the first part and a ring of the last one.
 * Layout (src/native/isolate/keep.c): magic, total, head and ring sizes in one page, then head, then ring. The
 * writer stores the bytes first and the total after them, so what the total covers is there; a reader checks
 * afterwards that the ring has not run over it meanwhile.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { CarrelError } from '#base/errors.ts';

const dataOffset = 4096;
const magic = 'CARRELR1';

export interface RecordPart {
  /** The number of the first byte in `bytes`. */
  readonly from: number;
  readonly bytes: Buffer;
  /** Bytes the run has written up to now, whether they are still here or not. */
  readonly total: number;
}

interface Header {
  readonly total: number;
  readonly head: number;
  readonly ring: number;
}

/** What can be read, as [from, to) ranges in ascending order. Pure. */
export function availableRanges({ total, head, ring }: Header): (readonly [from: number, to: number])[] {
  const kept = Math.max(head, total - ring);
  if (total <= head || kept === head) return [[0, total]];
  return [
    [0, head],
    [kept, total],
  ];
}

function readHeader(fd: number, path: string): Header {
  const bytes = Buffer.alloc(32);
  if (readSync(fd, bytes, 0, bytes.length, 0) < bytes.length || bytes.toString('latin1', 0, 8) !== magic)
    throw new CarrelError('internal', `${path} is not the record of a run`);
  const [total, head, ring] = [8, 16, 24].map((at) => Number(bytes.readBigUInt64LE(at)));
  if (total === undefined || head === undefined || !ring)
    throw new CarrelError('internal', `${path} is not the record of a run`);
  return { total, head, ring };
}

function expired(path: string, from: number, header: Header): CarrelError {
  const available = availableRanges(header);
  const text = available.map(([start, end]) => `${start} to ${end}`).join(' and ');
  return new CarrelError('gone', `The output from byte ${from} on is not kept any more; available: ${text}`, {
    details: { from, available, path },
  });
}

/** One contiguous piece of the file: the head, or the ring up to its edge. */
function readPiece(fd: number, header: Header, from: number, limit: number): Buffer {
  const { total, head, ring } = header;
  const place = from < head ? from : head + ((from - head) % ring);
  const edge = from < head ? head : head + ring;
  const bytes = Buffer.alloc(Math.min(limit, total - from, edge - place));
  const got = readSync(fd, bytes, 0, bytes.length, dataOffset + place);
  return bytes.subarray(0, got);
}

/**
 * Output from byte `from` on, at most `maxBytes`; empty at the end. A range that the ring has overwritten is a
 * `gone` error that names what there is (details.available).
 */
export function readRecord(
  path: string,
  from: number,
  { maxBytes = 1 << 20 }: { maxBytes?: number } = {},
): RecordPart {
  const fd = openSync(path, 'r');
  try {
    const header = readHeader(fd, path);
    const range = availableRanges(header).find(([start, end]) => from >= start && from < end);
    if (!range) {
      if (from === header.total) return { from, bytes: Buffer.alloc(0), total: header.total };
      throw expired(path, from, header);
    }
    const limit = Math.min(maxBytes, range[1] - from);
    const pieces: Buffer[] = [];
    for (let size = 0; size < limit;) {
      const piece = readPiece(fd, header, from + size, limit - size);
      if (!piece.length) break;
      pieces.push(piece);
      size += piece.length;
    }
    const after = readHeader(fd, path);
    if (!availableRanges(after).some(([start, end]) => from >= start && from < end))
      throw expired(path, from, after);
    return { from, bytes: Buffer.concat(pieces), total: header.total };
  } finally {
    closeSync(fd);
  }
}
