/** Copies of files with holes: holes stay holes, and pages of nothing but zeros become some. */
import { read, write } from 'node:fs';
import { constants } from 'node:os';
import { promisify } from 'node:util';
import { CarrelError } from '#base/errors.ts';
import { syscallError, trySyscall } from './syscalls.ts';

const readAt = promisify(read);
const writeAt = promisify(write);

/** lseek(2) */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const pageBytes = 4096;
const chunkBytes = 2 ** 20;
const zeros = Buffer.alloc(pageBytes);

/** The next piece with data at or after `from`; undefined when there is none before `end`. */
function nextData(
  fd: number,
  from: number,
  end: number,
): { readonly from: number; readonly to: number } | undefined {
  const data = trySyscall('lseek', fd, from, SEEK_DATA);
  // ENXIO: nothing but a hole up to the end
  if (data === -constants.errno.ENXIO || data >= end) return undefined;
  if (data < 0) throw syscallError('lseek', data);
  const hole = trySyscall('lseek', fd, data, SEEK_HOLE);
  if (hole < 0) throw syscallError('lseek', hole);
  return { from: data, to: Math.min(hole, end) };
}

/**
 * Copies the first `bytes` of one open file to the same places of another, which is empty and as long as it shall
 * be. Gives how many bytes were written. `signal` stops it between two pieces of a MiB.
 */
export async function copySparse(
  source: number,
  target: number,
  bytes: number,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<number> {
  const buffer = Buffer.allocUnsafeSlow(chunkBytes);
  let written = 0;
  let at = 0;
  for (let piece = nextData(source, at, bytes); piece; piece = nextData(source, at, bytes)) {
    for (at = piece.from; at < piece.to;) {
      signal?.throwIfAborted();
      const { bytesRead } = await readAt(source, buffer, 0, Math.min(chunkBytes, piece.to - at), at);
      if (bytesRead === 0) throw new CarrelError('internal', 'the file became shorter while it was copied');
      written += await writeUsed(target, buffer.subarray(0, bytesRead), at);
      at += bytesRead;
    }
  }
  return written;
}

/** Writes the runs of pages that are not all zeros. */
async function writeUsed(target: number, data: Buffer, position: number): Promise<number> {
  let written = 0;
  const isZero = (at: number): boolean => {
    const page = data.subarray(at, at + pageBytes);
    return page.equals(page.length === pageBytes ? zeros : zeros.subarray(0, page.length));
  };
  for (let at = 0; at < data.length;) {
    if (isZero(at)) {
      at += pageBytes;
      continue;
    }
    const from = at;
    while (at < data.length && !isZero(at)) at += pageBytes;
    const to = Math.min(at, data.length);
    for (let done = from; done < to;) {
      const { bytesWritten } = await writeAt(target, data, done, to - done, position + done);
      done += bytesWritten;
    }
    written += to - from;
  }
  return written;
}
