/**
 * One worker at a time per machine: within this process by queueing, between processes by flock(2), which the
 * kernel lets go of when its holder dies.
 */
import { fstatSync, mkdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { until, within } from '#base/deadline.ts';
import { type FileLock, tryLock } from '#host/flock.ts';

export interface MachineLock extends Disposable {
  /** Releases, and removes the lock file: the machine is gone. */
  forget(): void;
}

export interface MachineLocks {
  /** Waits its turn, at most `limitMs`. */
  take(id: string, options?: { limitMs?: number; signal?: AbortSignal }): Promise<MachineLock>;
  /** Is a worker of this process at it, or waiting to be? */
  isBusy(id: string): boolean;
}

/** Longer than anything that a worker does to one machine at a time. */
const defaultLimitMs = 180_000;

export function openLocks(directory: string): MachineLocks {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  /** Present: somebody is at it; the functions let in those who wait. */
  const queues = new Map<string, (() => void)[]>();

  const leave = (id: string): void => {
    const next = queues.get(id)?.shift();
    if (next) next();
    else queues.delete(id);
  };

  const queue = async (id: string, limitMs: number): Promise<void> => {
    const waiting = queues.get(id);
    if (!waiting) {
      queues.set(id, []);
      return;
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    waiting.push(resolve);
    try {
      await within(limitMs, `the work at machine ${id} to end`, promise);
    } catch (error) {
      const at = waiting.indexOf(resolve);
      if (at >= 0) waiting.splice(at, 1);
      else leave(id); // it was let in at the last moment
      throw error;
    }
  };

  return {
    async take(id, { limitMs = defaultLimitMs, signal } = {}) {
      await queue(id, limitMs);
      try {
        const path = join(directory, id);
        const lock =
          tryLockFile(path) ??
          (await until(limitMs, `another process to leave machine ${id}`, () => tryLockFile(path), {
            everyMs: 20,
            ...(signal ? { signal } : {}),
          }));
        let released = false;
        const release = (): void => {
          if (released) return;
          released = true;
          lock.release();
          leave(id);
        };
        return {
          forget() {
            rmSync(path, { force: true }); // under the lock: whoever waits notices and locks a new file
            release();
          },
          [Symbol.dispose]: release,
        };
      } catch (error) {
        leave(id);
        throw error;
      }
    },
    isBusy: (id) => queues.has(id),
  };
}

/** The lock on the file that has this name now: one that was removed meanwhile protects nothing. */
function tryLockFile(path: string): FileLock | undefined {
  const lock = tryLock(path);
  if (!lock) return undefined;
  if (statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(lock.fd).ino) return lock;
  lock.release();
  return undefined;
}
