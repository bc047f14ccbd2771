/**
 * A temporary directory that belongs to a living process. Its owner holds a lock beside it; who finds one
 * whose lock is free removes it, so a killed build leaves nothing for longer than until the next one.
 */
import { randomBytes } from 'node:crypto';
import { fstatSync, statSync } from 'node:fs';
import { chmod, lstat, mkdir, readdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf } from '#base/errors.ts';
import { type FileLock, tryLock } from '#host/flock.ts';
import { removeTree } from '#host/trees.ts';

export interface Workspace extends AsyncDisposable {
  /** Empty, mode 0700, on the same file system as its parent: ready for a rename out of it. */
  readonly directory: string;
  readonly lockFd: number;
}

/** Is the locked file still the one of that name, or was it removed between open and lock? */
function isCurrent(lock: FileLock): boolean {
  try {
    return statSync(lock.path).ino === fstatSync(lock.fd).ino;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Removes a tree that may hold directories without permissions (only a problem without root). */
async function removeAnyTree(directory: string): Promise<void> {
  try {
    await removeTree(directory);
  } catch (error) {
    if (errnoOf(error) !== 'EACCES') throw error;
    await openUp(directory);
    await removeTree(directory);
  }
}

async function openUp(directory: string): Promise<void> {
  await chmod(directory, 0o700);
  for (const entry of await readdir(directory, { withFileTypes: true }))
    if (entry.isDirectory()) await openUp(join(directory, entry.name));
}

/** Removes the workspaces below `parent` whose owners are gone. */
export async function sweepWorkspaces(parent: string): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!name.endsWith('.lock')) continue;
    const lock = tryLock(join(parent, name));
    if (!lock) continue;
    try {
      if (!isCurrent(lock)) continue;
      await removeAnyTree(join(parent, name.slice(0, -'.lock'.length)));
      await unlink(lock.path);
    } finally {
      lock.release();
    }
  }
}

/** A new workspace below `parent` (made if missing); leftovers of others are removed first. */
export async function openWorkspace(parent: string, name: string): Promise<Workspace> {
  await mkdir(parent, { recursive: true, mode: 0o700 });
  await sweepWorkspaces(parent);
  for (;;) {
    const directory = join(parent, `${name}-${randomBytes(6).toString('hex')}`);
    const lock = tryLock(`${directory}.lock`);
    if (!lock || !isCurrent(lock)) {
      lock?.release();
      continue;
    }
    await mkdir(directory, { mode: 0o700 });
    return {
      directory,
      lockFd: lock.fd,
      async [Symbol.asyncDispose]() {
        try {
          await removeAnyTree(directory);
          await unlink(lock.path);
        } finally {
          lock.release();
        }
      },
    };
  }
}

/** Does the path exist, whatever it is? */
export async function exists(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return false;
    throw error;
  }
}
