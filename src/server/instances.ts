/**
 * Names for the control groups of this cloud's processes. The daemon has the cloud's own name; workers are
 * numbered, each number held by a lock, so that what a killed worker left can be found and removed.
 */
import { createHash } from 'node:crypto';
import { readdirSync, realpathSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { tryLock, type FileLock } from '#host/flock.ts';
import { instanceGroup, sweepGroups } from '#isolate/cgroups/group.ts';
import { readCgroupLayout } from '#isolate/cgroups/layout.ts';

const MAX_WORKERS = 64;

function shortHash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 8);
}

/** First 8 hex digits of the SHA-256 of the data directory's real path: one host may hold several clouds. */
export function cloudInstance(dataDirectory: string): string {
  return shortHash(realpathSync(dataDirectory));
}

/** The same for a worker: path and number. */
export function workerInstance(dataDirectory: string, number: number): string {
  return shortHash(`${realpathSync(dataDirectory)}\nworker ${number}`);
}

const lockPath = (dataDirectory: string, number: number): string =>
  join(dataDirectory, 'run', `worker-${number}.lock`);

/** The lowest free worker number, held until the process ends. */
export function takeWorkerNumber(dataDirectory: string): {
  readonly number: number;
  readonly lock: FileLock;
} {
  for (let number = 1; number <= MAX_WORKERS; number += 1) {
    const lock = tryLock(lockPath(dataDirectory, number));
    if (lock) return { number, lock };
  }
  throw new CarrelError('no_capacity', `${MAX_WORKERS} workers are running already`);
}

/** Removes the control groups of workers that are gone. */
export async function sweepWorkers(dataDirectory: string): Promise<void> {
  const layout = readCgroupLayout();
  for (const name of readdirSync(join(dataDirectory, 'run'))) {
    const number = Number(/^worker-(\d+)\.lock$/.exec(name)?.[1] ?? Number.NaN);
    if (!Number.isInteger(number)) continue;
    using lock = tryLock(lockPath(dataDirectory, number));
    if (!lock) continue;
    const group = instanceGroup(workerInstance(dataDirectory, number));
    await sweepGroups(layout, `${group}/slots`);
    await sweepGroups(layout, group);
    rmSync(lock.path, { force: true });
  }
}
