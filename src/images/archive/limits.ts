/** How much an archive from outside may cost. Each limit stops one attack; all are checked while reading. */
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { maxPathBytes, quoteName } from './paths.ts';

export interface ArchiveLimits {
  /** Of the archive itself, as it comes in. */
  readonly packedBytes: number;
  /** Sum of the files' lengths, unpacked: a disk filled. */
  readonly totalBytes: number;
  /** Of one file, unpacked. */
  readonly fileBytes: number;
  /** Entries of every kind, headers that only extend another one included: an inode table filled. */
  readonly entries: number;
  /** Of one path. */
  readonly pathBytes: number;
  /** Unpacked over packed bytes, once `ratioFrom` bytes are unpacked: a bomb. */
  readonly ratio: number;
}

const MiB = 2 ** 20;
const GiB = 2 ** 30;

/** For what a person hands in or uploads into a lab. */
export const uploadLimits: ArchiveLimits = {
  packedBytes: 64 * MiB,
  totalBytes: 128 * MiB,
  fileBytes: 64 * MiB,
  entries: 5_000,
  pathBytes: 1024,
  ratio: 200,
};

/** For a root file system: Debian with a desktop has some 200,000 entries. */
export const imageLimits: ArchiveLimits = {
  packedBytes: 8 * GiB,
  totalBytes: 16 * GiB,
  fileBytes: 4 * GiB,
  entries: 500_000,
  pathBytes: maxPathBytes,
  ratio: 200,
};

/** Small archives of very regular text may well shrink a thousandfold; they harm nobody. */
export const ratioFrom = MiB;

export function tooLarge(sentence: string, details: Readonly<Record<string, unknown>>): CarrelError {
  return new CarrelError('too_large', sentence, { details });
}

/** Counts what was read of one archive and throws `too_large` at the first limit passed. */
export class Meter {
  readonly limits: ArchiveLimits;
  #packed = 0;
  #unpacked = 0;
  #total = 0;
  #entries = 0;

  constructor(limits: ArchiveLimits) {
    this.limits = limits;
  }

  /** Bytes of the archive as they came in. */
  packed(bytes: number): void {
    this.#packed += bytes;
    const limit = this.limits.packedBytes;
    if (this.#packed > limit)
      throw tooLarge(`The archive is larger than ${formatSize(limit)}`, { limit, what: 'packedBytes' });
  }

  /** Bytes that a decompressor made of them. */
  unpacked(bytes: number): void {
    this.#unpacked += bytes;
    this.ratio(this.#packed, this.#unpacked, 'The archive');
  }

  /** Also for one entry by itself: in a zip file each is compressed for itself. */
  ratio(packed: number, unpacked: number, what: string): void {
    const limit = this.limits.ratio;
    if (unpacked > ratioFrom && unpacked > packed * limit)
      throw tooLarge(`${what} grows more than ${limit} times when unpacked`, { limit, what: 'ratio' });
  }

  /** One more entry (or header that belongs to one). */
  entry(count = 1): void {
    this.#entries += count;
    const limit = this.limits.entries;
    if (this.#entries > limit)
      throw tooLarge(`The archive has more than ${limit} entries`, { limit, what: 'entries' });
  }

  /** A file's length, before its first byte is read. */
  file(path: string, bytes: number): void {
    const { fileBytes, totalBytes } = this.limits;
    if (bytes > fileBytes)
      throw tooLarge(`${quoteName(path)} in the archive is larger than ${formatSize(fileBytes)}`, {
        limit: fileBytes,
        what: 'fileBytes',
        path,
      });
    this.#total += bytes;
    if (this.#total > totalBytes)
      throw tooLarge(
        `The archive holds more than ${formatSize(totalBytes)}; ${quoteName(path)} is too much`,
        {
          limit: totalBytes,
          what: 'totalBytes',
          path,
        },
      );
  }
}
