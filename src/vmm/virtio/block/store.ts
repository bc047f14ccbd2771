/** Where the sectors of a block device are: a raw image in a file, or a device of the host. */
import { fstatSync } from 'node:fs';
import { CarrelError } from '#base/errors.ts';
import { addressOf, errnoName, trySyscall } from '#host/syscalls.ts';
import { bytesIn, cut, type Pieces } from '../pieces.ts';

/**
 * What a block device needs of a disk. Offsets and lengths are bytes within its size. Each call waits until it is
 * done, on the thread of the device; undefined is success, a string the name of what went wrong (`EIO`).
 */
export interface BlockStore {
  readonly bytes: number;
  readonly readOnly: boolean;
  read(at: number, into: Pieces): string | undefined;
  write(at: number, from: Pieces): string | undefined;
  /** All that was written is on the disk when this returns. */
  flush(): string | undefined;
}

/** IOV_MAX of limits.h: pieces in one call. */
const mostPieces = 1024;

/** struct iovec for preadv and pwritev. */
function vector(pieces: Pieces): BigUint64Array {
  const words = new BigUint64Array(2 * pieces.length);
  for (const [index, piece] of pieces.entries()) {
    words[2 * index] = addressOf(piece);
    words[2 * index + 1] = BigInt(piece.length);
  }
  return words;
}

const single = { preadv: 'pread64', pwritev: 'pwrite64' } as const;

/** The whole of it, in as many calls as the kernel needs. */
function transfer(call: keyof typeof single, fd: number, at: number, pieces: Pieces): string | undefined {
  const total = bytesIn(pieces);
  for (let done = 0; done < total;) {
    const left = done === 0 && pieces.length <= mostPieces ? pieces : cut(pieces, done).slice(0, mostPieces);
    const [first] = left;
    const result =
      first && left.length === 1
        ? trySyscall(single[call], fd, first, first.length, at + done)
        : trySyscall(call, fd, vector(left), left.length, at + done, 0);
    if (result > 0) done += result;
    else if (result === 0) return 'EIO'; // the file has become shorter
    else if (errnoName(result) !== 'EINTR') return errnoName(result);
  }
  return undefined;
}

/** A raw image behind an open descriptor, which stays the caller's. Its size is what it is now. */
export function fileStore(fd: number, { readOnly = false }: { readOnly?: boolean } = {}): BlockStore {
  const stat = fstatSync(fd);
  // a block device of the host has its size at its end
  const bytes = stat.isBlockDevice() ? trySyscall('lseek', fd, 0, 2) : stat.size;
  if (!stat.isFile() && !stat.isBlockDevice())
    throw new CarrelError('invalid_request', 'a disk is a regular file or a block device');
  return {
    bytes,
    readOnly,
    read: (at, into) => transfer('preadv', fd, at, into),
    write: (at, from) => transfer('pwritev', fd, at, from),
    flush() {
      const result = trySyscall('fdatasync', fd);
      return result < 0 ? errnoName(result) : undefined;
    },
  };
}
