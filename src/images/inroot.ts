/**
 * Paths inside a root file system seen from outside: a symbolic link in it points into it, never into ours.
 * For trees that nobody else changes meanwhile (an image being built); running machines need openat2.
 */
import { chmod, lstat, mkdir, readlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';

/** The kernel's own limit (path_resolution(7)). */
const maxLinks = 40;

async function linkTarget(path: string): Promise<string | undefined> {
  try {
    return (await lstat(path)).isSymbolicLink() ? await readlink(path) : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Where `path` (as a process inside would write it) lies on the host. Links on the way are followed inside
 * the root; the last part is not followed, so that it can be replaced, removed or looked at.
 */
export async function resolveInRoot(root: string, path: string): Promise<string> {
  const todo = path.split('/').toReversed();
  let at: string[] = [];
  let links = 0;
  for (let part = todo.pop(); part !== undefined; part = todo.pop()) {
    if (part === '' || part === '.') continue;
    if (part === '..') {
      at.pop();
      continue;
    }
    const target = todo.length > 0 ? await linkTarget(join(root, ...at, part)) : undefined;
    if (target === undefined) {
      at.push(part);
      continue;
    }
    links += 1;
    if (links > maxLinks) throw new CarrelError('validation_failed', `${path} goes through too many links`);
    if (target.startsWith('/')) at = [];
    todo.push(...target.split('/').toReversed());
  }
  return join(root, ...at);
}

/** Makes a directory and those above it, each 0755 whatever the umask; existing ones stay as they are. */
export async function makeDirectories(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return;
    if (errnoOf(error) !== 'ENOENT') throw error;
    await makeDirectories(dirname(path));
    await mkdir(path);
  }
  await chmod(path, 0o755);
}
