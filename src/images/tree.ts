/**
 * The hash of a tree of files: one sha256 over a sorted list of paths, modes and contents. Times and the
 * order in the directory do not count, so the same files have the same hash on every host.
 *
 * Each entry is `kind mode[ uid:gid] NUL path NUL content NUL`; content is the sha256 of a file, the target
 * of a link, or a dash. Paths are sorted by their bytes, so the hash does not depend on a locale.
 */
import { createHash } from 'node:crypto';
import { type Stats, createReadStream } from 'node:fs';
import { lstat, opendir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';

export type TreeKind = 'file' | 'directory' | 'symlink' | 'fifo';

export interface TreeEntry {
  /** Relative, in normal form. */
  readonly path: string;
  readonly kind: TreeKind;
  /** Permission bits (with setuid, setgid, sticky). */
  readonly mode: number;
  /** A file's sha256 in hex, a link's target; empty for the others. */
  readonly content?: string;
  readonly owner?: { readonly uid: number; readonly gid: number };
}

export interface TreeSummary {
  readonly hash: string;
  readonly files: number;
  /** Sum of the files' lengths. */
  readonly bytes: number;
}

const byBytes = (left: string, right: string): number =>
  Buffer.compare(Buffer.from(left), Buffer.from(right));

/** The hash of entries in any order. A path may occur only once. */
export function hashEntries(entries: Iterable<TreeEntry>): string {
  const lines = [...entries].sort((left, right) => byBytes(left.path, right.path));
  const hash = createHash('sha256');
  let last: string | undefined;
  for (const { path, kind, mode, content = '-', owner } of lines) {
    if (path === last) throw new CarrelError('invalid_request', `${path} occurs twice`);
    last = path;
    const owned = owner === undefined ? '' : ` ${owner.uid}:${owner.gid}`;
    hash.update(`${kind} ${(mode & 0o7777).toString(8)}${owned}\0${path}\0${content}\0`);
  }
  return hash.digest('hex');
}

/** sha256 of bytes, in hex. */
export function sha256(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

/** Files up to this size are read in one go; longer ones in pieces. */
const wholeFile = 1 << 20;

async function hashFile(path: string, size: number): Promise<string> {
  if (size <= wholeFile) return sha256(await readFile(path));
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: wholeFile }))
    if (Buffer.isBuffer(chunk)) hash.update(chunk);
  return hash.digest('hex');
}

function kindOf(stats: Stats, path: string): TreeKind {
  if (stats.isFile()) return 'file';
  if (stats.isDirectory()) return 'directory';
  if (stats.isSymbolicLink()) return 'symlink';
  if (stats.isFIFO()) return 'fifo';
  throw new CarrelError(
    'validation_failed',
    `${path} is a device or socket; such files have no content to hash`,
  );
}

export interface Walked {
  /** Relative to the root, without a slash in front. */
  readonly path: string;
  readonly stats: Stats;
}

/** Every entry below `root` (not the root itself), directories before what is in them, sorted. */
export async function* walkTree(root: string, below = ''): AsyncGenerator<Walked, void, undefined> {
  const names: string[] = [];
  for await (const entry of await opendir(join(root, below))) names.push(entry.name);
  for (const name of names.sort(byBytes)) {
    const path = below === '' ? name : `${below}/${name}`;
    const stats = await lstat(join(root, path));
    yield { path, stats };
    if (stats.isDirectory()) yield* walkTree(root, path);
  }
}

/**
 * Hash, number of entries and size of a directory. `owners`: uid and gid count too (for images, not for
 * the files of people). Links are not followed.
 */
export async function hashTree(
  root: string,
  { owners = false }: { owners?: boolean } = {},
): Promise<TreeSummary> {
  const entries: TreeEntry[] = [];
  let bytes = 0;
  for await (const { path, stats } of walkTree(root)) {
    const kind = kindOf(stats, path);
    if (kind === 'file') bytes += stats.size;
    const full = join(root, path);
    entries.push({
      path,
      kind,
      mode: kind === 'symlink' ? 0o777 : stats.mode,
      ...(kind === 'file' ? { content: await hashFile(full, stats.size) } : {}),
      ...(kind === 'symlink' ? { content: await readlink(full) } : {}),
      ...(owners ? { owner: { uid: stats.uid, gid: stats.gid } } : {}),
    });
  }
  return { hash: hashEntries(entries), files: entries.length, bytes };
}

/** The same for a few named files of a directory, whoever owns them. `bytes` is what they hold on the disk. */
export async function hashFiles(directory: string, names: readonly string[]): Promise<TreeSummary> {
  const entries: TreeEntry[] = [];
  let bytes = 0;
  for (const path of names) {
    const full = join(directory, path);
    const stats = await lstat(full);
    bytes += stats.blocks * 512;
    entries.push({ path, kind: kindOf(stats, path), mode: 0o644, content: await hashFile(full, stats.size) });
  }
  return { hash: hashEntries(entries), files: entries.length, bytes };
}
