/**
 * The files a guest may open: those below one directory, never outside of it (openat2, RESOLVE_IN_ROOT), only
 * regular ones, and so many bytes and no more. Answers are those of the system calls: a number, or -errno.
 */
import { constants, fstatSync, readSync, writeSync } from 'node:fs';
import { constants as os } from 'node:os';
import { errnoOf } from '#base/errors.ts';
import type { Fd } from '#host/fds.ts';
import { openFileInRoot } from '#host/inroot.ts';
import { syscallErrno, trySyscall } from '#host/syscalls.ts';

const errno: Readonly<Record<string, number>> = os.errno;
const { EACCES, EBADF, EDQUOT, EINVAL, EMFILE, ENODEV } = os.errno;

export interface ShareLimits {
  /** Files open at the same time. */
  readonly files: number;
  /** Opens in one run that may make a file. */
  readonly creations: number;
  /** Bytes written in one run, over all files; or what they take on the disk, if that is more. */
  readonly writtenBytes: number;
}

/** Of st_blocks in stat(2), whatever the file system's own blocks are. */
const blockBytes = 512;

export const defaultShareLimits: ShareLimits = { files: 16, creations: 256, writtenBytes: 16 * 2 ** 20 };

/** What the system said, as a negative number; a refusal of our own is EACCES. */
function negative(error: unknown): number {
  return -(errno[syscallErrno(error) ?? errnoOf(error) ?? ''] ?? EACCES);
}

export class Share {
  readonly #root: string | undefined;
  readonly #limits: ShareLimits;
  readonly #open = new Map<number, Fd>();
  #created = 0;
  #written = 0;

  /** Without a directory every open answers ENODEV. */
  constructor(root: string | undefined, limits: ShareLimits = defaultShareLimits) {
    this.#root = root;
    this.#limits = limits;
  }

  isOpen(slot: number): boolean {
    return this.#open.has(slot);
  }

  /** Opens into a slot, or into the lowest free one from 1 on; the slot. Flags are those of open(2). */
  open(path: string, flags: number, slot?: number): number {
    if (this.#root === undefined) return -ENODEV;
    let free = slot ?? 1;
    if (slot === undefined) while (this.#open.has(free)) free += 1;
    if (this.#open.size >= this.#limits.files) return -EMFILE;
    if ((flags & constants.O_CREAT) !== 0) {
      if (this.#created >= this.#limits.creations) return -EDQUOT;
      this.#created += 1;
    }
    try {
      this.#open.set(free, openFileInRoot(this.#root, path, { flags }));
      return free;
    } catch (error) {
      return negative(error);
    }
  }

  /** At most `length` bytes from where the file stands; none at its end. */
  read(slot: number, length: number): Uint8Array | number {
    const file = this.#open.get(slot);
    if (!file) return -EBADF;
    if (length < 0) return -EINVAL;
    const buffer = Buffer.alloc(length);
    try {
      return buffer.subarray(0, readSync(file.fd, buffer, 0, length, null));
    } catch (error) {
      return negative(error);
    }
  }

  /** All of it, or EDQUOT. */
  write(slot: number, data: Uint8Array): number {
    const file = this.#open.get(slot);
    if (!file) return -EBADF;
    if (this.#written + data.length > this.#limits.writtenBytes) return -EDQUOT;
    try {
      const before = fstatSync(file.fd).blocks;
      for (let at = 0; at < data.length;) at += writeSync(file.fd, data, at);
      // single bytes far apart take a block each
      const taken = (fstatSync(file.fd).blocks - before) * blockBytes;
      this.#written += Math.max(data.length, taken);
      return data.length;
    } catch (error) {
      return negative(error);
    }
  }

  /** lseek(2): `whence` 0 from the start, 1 from here, 2 from the end. */
  seek(slot: number, offset: number, whence: number): number {
    const file = this.#open.get(slot);
    if (!file) return -EBADF;
    if (whence < 0 || whence > 2) return -EINVAL;
    return trySyscall('lseek', file.fd, offset, whence);
  }

  close(slot: number): number {
    const file = this.#open.get(slot);
    if (!file) return -EBADF;
    file.close();
    this.#open.delete(slot);
    return 0;
  }

  closeAll(): void {
    for (const slot of this.#open.keys()) this.close(slot);
  }
}
