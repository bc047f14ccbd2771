/**
 * Who may do something with a disk. One at a time holds disk.lock. Merging layers may take half an hour and is not
 * urgent: so whoever waits for the disk holds disk.wanted meanwhile, and who merges looks at that, and lets go. Both
 * are flock(2): they hold among processes, and end with their holder.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '#base/deadline.ts';
import { type FileLock, isLocked, tryLock } from '#host/flock.ts';
import { keptPaths } from '#isolate/kept.ts';

/** Longer than any step but a copy of many GiB, which is made without the lock, and a merge, which is broken off. */
const lockMs = 60_000;

const lockOf = (directory: string): string => join(directory, 'disk.lock');
const wantedOf = (directory: string): string => join(directory, 'disk.wanted');

/** Does it while nobody else does anything with the disk. A merge that is under way is broken off. */
export async function locked<T>(directory: string, work: (lock: FileLock) => Promise<T>): Promise<T> {
  using lock = await takeLock(directory);
  return await work(lock);
}

async function takeLock(directory: string): Promise<FileLock> {
  let wanted: FileLock | undefined;
  try {
    return await until(lockMs, 'another step with the disk to end', () => {
      const lock = tryLock(lockOf(directory));
      if (!lock) wanted ??= tryLock(wantedOf(directory));
      return lock;
    });
  } finally {
    wanted?.release();
  }
}

/** For who does not wait; undefined while somebody is at work with the disk. */
export const lockIfFree = (directory: string): FileLock | undefined => tryLock(lockOf(directory));

/** Does somebody wait for the disk? */
export const isWanted = (directory: string): boolean => isLocked(wantedOf(directory));

/** Resolves when nobody is at work with the disk any more, and what could be broken off is. */
export async function untilLeft(directory: string): Promise<void> {
  if (existsSync(lockOf(directory))) await locked(directory, () => Promise.resolve());
}

/** QEMU has the disk open as long as its keeper lives. */
export const isOpen = (directory: string): boolean => isLocked(keptPaths(directory).lock);
