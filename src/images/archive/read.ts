/**
 * Files from people: one way to read an uploaded archive, whatever its format. Only files and directories
 * come out, with safe relative paths; everything else is refused with a sentence that names the entry.
 */
import { open } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { unlink } from 'node:fs/promises';
import type { Chunks } from './bytes.ts';
import { type Compression, decompress } from './decompress.ts';
import { type ArchiveLimits, Meter, uploadLimits } from './limits.ts';
import { quoteName, safeRelativePath } from './paths.ts';
import { readTar } from './tar.ts';
import { bad } from './tarheader.ts';
import { bufferAccess, fileAccess, readZip } from './zip.ts';

/** Stated by whoever sends the archive; never found out by looking at it. */
export const archiveFormats = ['tar', 'tar.gz', 'tar.zst', 'zip'] as const;
export type ArchiveFormat = (typeof archiveFormats)[number];

export const tarCompression = {
  tar: 'none',
  'tar.gz': 'gzip',
  'tar.zst': 'zstd',
} as const satisfies Record<string, Compression>;

export interface ArchiveEntry {
  /** Relative, in normal form (`safeRelativePath`). */
  readonly path: string;
  readonly kind: 'file' | 'directory';
  /** Read, write and execute bits only. */
  readonly mode: number;
  readonly size: number;
  /** To be read before the next entry is asked for, or not at all. */
  readonly data: Chunks;
}

interface RawEntry {
  readonly path: string;
  readonly kind: string;
  readonly mode: number;
  readonly size: number;
  readonly data: Chunks;
}

/** Knows the paths so far: what is a file cannot come twice, nor be a directory. */
class Names {
  readonly #kinds = new Map<string, 'file' | 'directory'>();

  add(path: string, kind: 'file' | 'directory'): void {
    const before = this.#kinds.get(path);
    if (before !== undefined && (before === 'file' || kind === 'file'))
      throw bad(`${quoteName(path)} occurs twice in the archive`);
    this.#kinds.set(path, kind);
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
      const above = path.slice(0, at);
      const known = this.#kinds.get(above);
      if (known === 'directory') return;
      if (known === 'file')
        throw bad(`${quoteName(above)} is a file in the archive, and a directory of ${quoteName(path)}`);
      this.#kinds.set(above, 'directory');
    }
  }
}

/** `./` at the head of an archive, as `tar -C DIR .` writes it. */
function isRoot({ path, kind }: RawEntry): boolean {
  return kind === 'directory' && /^\.?\/?$/.test(path) && path !== '/' && path !== '';
}

async function* judged(
  entries: AsyncIterable<RawEntry>,
  limits: ArchiveLimits,
): AsyncGenerator<ArchiveEntry, void, undefined> {
  const names = new Names();
  for await (const entry of entries) {
    if (isRoot(entry)) continue;
    const path = safeRelativePath(entry.path, { maxBytes: limits.pathBytes });
    const { kind, size, data } = entry;
    if (kind !== 'file' && kind !== 'directory')
      throw bad(`${quoteName(path)} in the archive is a ${kind}; only files and directories are taken`);
    names.add(path, kind);
    yield { path, kind, mode: entry.mode & 0o777, size, data };
  }
}

/** A stream as a file that has no name any more: gone when closed, also by a kill. */
async function* spooled(source: Chunks, meter: Meter): AsyncGenerator<RawEntry, void, undefined> {
  const path = join(tmpdir(), `carrel-${randomBytes(12).toString('hex')}`);
  const file = await open(path, 'wx+', 0o600);
  try {
    await unlink(path);
    let size = 0;
    for await (const chunk of source) {
      size += chunk.length;
      if (size > meter.limits.packedBytes) meter.packed(size); // throws
      await file.writeFile(chunk);
    }
    yield* readZip(await fileAccess(file), meter);
  } finally {
    await file.close();
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  yield bytes;
}

/**
 * The files and directories of an archive. Throws `invalid_archive` or `too_large`; what came out before
 * must then be thrown away. Memory is bounded by the limits on names, never by the files.
 *
 * @example
 * for await (const { path, kind, data } of readArchive(request.body, 'zip')) ...
 */
export function readArchive(
  source: Chunks | Uint8Array,
  format: ArchiveFormat,
  limits: ArchiveLimits = uploadLimits,
): AsyncGenerator<ArchiveEntry, void, undefined> {
  const meter = new Meter(limits);
  if (format === 'zip') {
    const entries =
      source instanceof Uint8Array ? readZip(bufferAccess(source), meter) : spooled(source, meter);
    return judged(entries, limits);
  }
  const chunks = source instanceof Uint8Array ? once(source) : source;
  return judged(readTar(decompress(chunks, tarCompression[format], meter), meter), limits);
}
