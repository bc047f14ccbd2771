/**
 * Files by the hash of their content, below one directory: `ab/<sha256>`. Written aside, made durable, and
 * renamed: what has a name is whole, whoever is killed meanwhile. Any number of processes may use it at once.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, link, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { isHash } from './layout.ts';

export interface Blob {
  readonly hash: string;
  readonly size: number;
}

export interface StoredBlob extends Blob {
  /** When it was last put. */
  readonly putAt: Date;
}

export interface PutOptions {
  /** Most bytes; `too_large` beyond, and nothing is kept. */
  readonly limit?: number;
  /** Refuse (`validation_failed`) what has another hash. */
  readonly expected?: string;
  readonly signal?: AbortSignal | undefined;
}

/** Nobody writes one file for longer: its writer is gone. */
const staleMs = 24 * 3_600_000;
/** Unused blobs younger than this stay: the row that will name them may not be written yet. */
const graceMs = 3_600_000;

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

async function optional<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

export class BlobStore {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  get #temporary(): string {
    return join(this.#directory, 'tmp');
  }

  /** Where a blob lies: for programs that take a file, read-only by agreement. */
  path(hash: string): string {
    if (!isHash(hash)) throw new CarrelError('invalid_request', `${JSON.stringify(hash)} is not a sha256`);
    return join(this.#directory, hash.slice(0, 2), hash);
  }

  async #receive(
    file: FileHandle,
    source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    { limit = Number.MAX_SAFE_INTEGER, signal }: PutOptions,
  ): Promise<Blob> {
    const hash = createHash('sha256');
    let size = 0;
    for await (const chunk of source) {
      signal?.throwIfAborted();
      size += chunk.length;
      if (size > limit)
        throw new CarrelError('too_large', `The file is larger than ${formatSize(limit)}`, {
          details: { limit },
        });
      hash.update(chunk);
      await file.writeFile(chunk);
    }
    await file.sync();
    return { hash: hash.digest('hex'), size };
  }

  /** Stores a stream. When it returns, the blob survives a power cut. */
  async put(
    source: AsyncIterable<Uint8Array> | Iterable<Uint8Array> | Uint8Array,
    options: PutOptions = {},
  ): Promise<Blob> {
    const temporary = join(this.#temporary, randomBytes(12).toString('hex'));
    const chunks = source instanceof Uint8Array ? [source] : source;
    try {
      const file = await open(temporary, 'wx', 0o600);
      let blob: Blob;
      try {
        blob = await this.#receive(file, chunks, options);
      } finally {
        await file.close();
      }
      if (options.expected !== undefined && options.expected !== blob.hash)
        throw new CarrelError('validation_failed', 'The file is not what was promised: its sha256 differs', {
          details: { expected: options.expected, found: blob.hash },
        });
      const place = this.path(blob.hash);
      const above = join(this.#directory, blob.hash.slice(0, 2));
      if ((await mkdir(above, { recursive: true, mode: 0o700 })) !== undefined)
        await syncDirectory(this.#directory);
      // Over an equal one, if there is: that also makes it young, and heals a damaged one.
      await rename(temporary, place);
      await syncDirectory(above);
      return blob;
    } catch (error) {
      await rm(temporary, { force: true });
      if (errnoOf(error) === 'ENOSPC')
        throw new CarrelError('disk_full', 'The disk of the data directory is full', { cause: error });
      throw error;
    }
  }

  /** Length and time of a blob, or undefined. */
  async stat(hash: string): Promise<StoredBlob | undefined> {
    const stats = await optional(stat(this.path(hash)));
    return stats && { hash, size: stats.size, putAt: stats.mtime };
  }

  /** The bytes, in pieces. `not_found` if there is none; `internal` at the end if they were damaged. */
  async *read(hash: string): AsyncGenerator<Uint8Array, void, undefined> {
    const path = this.path(hash);
    if (!(await this.stat(hash))) throw new CarrelError('not_found', `There is no blob ${hash}`);
    const sum = createHash('sha256');
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 18 })) {
      if (!Buffer.isBuffer(chunk)) continue;
      sum.update(chunk);
      yield chunk;
    }
    if (sum.digest('hex') !== hash) throw new CarrelError('internal', `The blob ${hash} is damaged on disk`);
  }

  /** All of a blob, which must not be longer than `limit`. */
  async readWhole(hash: string, { limit }: { limit: number }): Promise<Buffer> {
    const { size } = (await this.stat(hash)) ?? { size: 0 };
    if (size > limit)
      throw new CarrelError('too_large', `The blob ${hash} is larger than ${formatSize(limit)}`);
    const chunks: Uint8Array[] = [];
    for await (const chunk of this.read(hash)) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  /** All blobs, in no order. */
  async *list(): AsyncGenerator<StoredBlob, void, undefined> {
    for (const above of await readdir(this.#directory)) {
      if (!/^[0-9a-f]{2}$/.test(above)) continue;
      for (const hash of await readdir(join(this.#directory, above))) {
        const blob = isHash(hash) ? await this.stat(hash) : undefined;
        if (blob) yield blob;
      }
    }
  }

  /** Blobs that `isUsed` does not know and that are older than the grace time: what `collect` would take. */
  async *garbage(
    isUsed: (hash: string) => boolean | Promise<boolean>,
    { olderThanMs = graceMs }: { olderThanMs?: number } = {},
  ): AsyncGenerator<StoredBlob, void, undefined> {
    const before = Date.now() - olderThanMs;
    for await (const blob of this.list())
      if (blob.putAt.getTime() < before && !(await isUsed(blob.hash))) yield blob;
  }

  /**
   * Removes a blob unless it was put again since `putAt`: it is taken aside, looked at, and put back if
   * it is younger. Returns whether it is gone. If we are killed meanwhile, `prepare` puts it back.
   */
  async remove({ hash, putAt }: StoredBlob): Promise<boolean> {
    const aside = join(this.#temporary, `${hash}.${randomBytes(6).toString('hex')}`);
    try {
      await rename(this.path(hash), aside);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return true;
      throw error;
    }
    const stats = await optional(stat(aside));
    if (stats && stats.mtime.getTime() <= putAt.getTime()) {
      await rm(aside, { force: true });
      return true;
    }
    await this.#putBack(hash, aside);
    return false;
  }

  async #putBack(hash: string, aside: string): Promise<void> {
    try {
      await link(aside, this.path(hash));
    } catch (error) {
      // Put once more meanwhile, or put back by somebody else.
      if (errnoOf(error) !== 'EEXIST' && errnoOf(error) !== 'ENOENT') throw error;
    }
    await rm(aside, { force: true });
  }

  /** Makes the directories; tidies up after writers and removers that were killed. */
  async prepare(): Promise<void> {
    await mkdir(this.#temporary, { recursive: true, mode: 0o700 });
    for (const name of await readdir(this.#temporary)) {
      const path = join(this.#temporary, name);
      const [hash = ''] = name.split('.');
      // A remover that lives loses nothing by this: what is unused is found again.
      if (isHash(hash)) {
        await this.#putBack(hash, path);
        continue;
      }
      const stats = await optional(stat(path));
      if (stats && stats.ctime.getTime() < Date.now() - staleMs) await rm(path, { force: true });
    }
  }
}

/** Opens the blob store in a directory (DIR/blobs), made if missing. */
export async function openBlobs(directory: string): Promise<BlobStore> {
  const store = new BlobStore(directory);
  await store.prepare();
  return store;
}
