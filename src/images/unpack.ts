/**
 * Unpacks the tar archive of a root file system into an empty directory of ours.
 *
 * Nothing is written through a link: every directory on the way to an entry must be a real one, and no
 * name may come twice. So it does not matter where links point while we unpack; where they point later,
 * seen from inside the image, must be inside of it too.
 */
import { chmod, lchown, link, lstat, mkdir, open, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { isUnprintable, maxPathBytes, quoteName, safeRelativePath } from './archive/paths.ts';
import type { TarEntry } from './archive/tar.ts';
import { bad } from './archive/tarheader.ts';
import { makeDirectories } from './inroot.ts';

export interface UnpackOptions {
  readonly maxPathBytes?: number;
  /** Keep setuid and setgid bits of files; otherwise they are taken away. */
  readonly allowSetuid?: boolean;
  readonly signal?: AbortSignal | undefined;
  readonly onEntry?: ((count: number) => void) | undefined;
}

/** A machine has 65536 ids; another owner could not be mapped into it. */
const maxOwnerId = 65_535;

/**
 * Refuses a link that climbs above the root of the image. An absolute target means the image's root. Links
 * that go through other links are not followed here: inside a machine `..` at the root stays there.
 */
export function checkLinkTarget(path: string, target: string): void {
  const name = quoteName(path);
  if (target === '' || target.length >= maxPathBytes || isUnprintable(target))
    throw bad(`The link ${name} in the archive has an impossible target`);
  let depth = target.startsWith('/') ? 0 : path.split('/').length - 1;
  for (const part of target.split('/')) {
    if (part === '' || part === '.') continue;
    depth += part === '..' ? -1 : 1;
    if (depth < 0) throw bad(`The link ${name} in the archive leaves the image: ${quoteName(target)}`);
  }
}

class Unpacker {
  readonly #root: string;
  readonly #options: UnpackOptions;
  readonly #canChown = process.geteuid?.() === 0;
  /** The directory found to be real last: most entries share it with the one before. */
  #lastParent = '';

  constructor(root: string, options: UnpackOptions) {
    this.#root = root;
    this.#options = options;
  }

  #path(text: string): string {
    return safeRelativePath(text, {
      allowBackslash: true,
      maxBytes: this.#options.maxPathBytes ?? maxPathBytes,
    });
  }

  /** Every part of `parent` exists as a real directory, or is made. */
  async #realDirectory(parent: string, of: string): Promise<void> {
    if (parent === '.' || parent === this.#lastParent) return;
    let at = '';
    for (const part of parent.split('/')) {
      at = at === '' ? part : `${at}/${part}`;
      const place = join(this.#root, at);
      try {
        if (!(await lstat(place)).isDirectory())
          throw bad(`${quoteName(of)} in the archive lies below ${quoteName(at)}, which is not a directory`);
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT') throw error;
        await makeDirectories(place);
      }
    }
    this.#lastParent = parent;
  }

  async #finish(place: string, mode: number, { uid, gid, path }: TarEntry): Promise<void> {
    if (uid > maxOwnerId || gid > maxOwnerId)
      throw bad(
        `${quoteName(path)} in the archive belongs to ${uid}:${gid}; a machine has ids up to ${maxOwnerId}`,
      );
    if (this.#canChown) await lchown(place, uid, gid);
    await chmod(place, mode); // after chown, which clears setuid
  }

  async #directory(place: string, entry: TarEntry): Promise<void> {
    try {
      await mkdir(place, { mode: 0o700 });
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST' || !(await lstat(place)).isDirectory()) throw error;
    }
    // Without root we must be able to go on writing into it.
    await this.#finish(place, entry.mode | (this.#canChown ? 0 : 0o700), entry);
  }

  async #file(place: string, entry: TarEntry): Promise<void> {
    const file = await open(place, 'wx', 0o600); // O_EXCL: never through a link
    try {
      for await (const chunk of entry.data) await file.writeFile(chunk);
    } finally {
      await file.close();
    }
    const mask = this.#options.allowSetuid === true ? 0o6777 : 0o777;
    await this.#finish(place, entry.mode & mask, entry);
  }

  async #hardlink(place: string, path: string, target: string): Promise<void> {
    const name = quoteName(path);
    const existing = this.#path(target);
    const from = join(this.#root, existing);
    this.#lastParent = '';
    try {
      await this.#realDirectory(dirname(existing), target);
      if (!(await lstat(from)).isFile())
        throw bad(`The hard link ${name} in the archive does not lead to a file`);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
      throw bad(
        `The hard link ${name} in the archive leads to ${quoteName(target)}, which is not in it before`,
      );
    }
    await link(from, place);
  }

  async add(entry: TarEntry): Promise<void> {
    if (entry.kind === 'directory' && /^\.?\/?$/.test(entry.path) && entry.path !== '/' && entry.path !== '')
      return;
    const path = this.#path(entry.path);
    const place = join(this.#root, path);
    await this.#realDirectory(dirname(path), path);
    try {
      switch (entry.kind) {
        case 'directory':
          return await this.#directory(place, entry);
        case 'file':
          return await this.#file(place, entry);
        case 'symlink':
          checkLinkTarget(path, entry.link);
          await symlink(entry.link, place);
          if (this.#canChown)
            await lchown(place, Math.min(entry.uid, maxOwnerId), Math.min(entry.gid, maxOwnerId));
          return;
        case 'hardlink':
          return await this.#hardlink(place, path, entry.link);
        case 'fifo':
        case 'character device':
        case 'block device':
          throw bad(`${quoteName(path)} in the archive is a ${entry.kind}; an image has none`);
      }
    } catch (error) {
      if (errnoOf(error) === 'EEXIST') throw bad(`${quoteName(path)} occurs twice in the archive`);
      if (errnoOf(error) === 'ENOSPC')
        throw new CarrelError('disk_full', `The disk is full while unpacking ${quoteName(path)}`, {
          cause: error,
        });
      throw error;
    }
  }
}

/** Unpacks all entries below `root`. On an error the directory holds what came before it. */
export async function unpackRootfs(
  entries: AsyncIterable<TarEntry>,
  root: string,
  options: UnpackOptions = {},
): Promise<void> {
  const unpacker = new Unpacker(root, options);
  let count = 0;
  for await (const entry of entries) {
    options.signal?.throwIfAborted();
    await unpacker.add(entry);
    count += 1;
    options.onEntry?.(count);
  }
}
