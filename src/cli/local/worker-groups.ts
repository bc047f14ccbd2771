/**
 * The cgroups of `carrel worker` processes. Each worker names its own after the data directory and its number
 * (server/instances.ts); the lock file DIR/run/worker-N.lock says which numbers there were.
 */
import { createHash } from 'node:crypto';
import { readdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf } from '#base/errors.ts';
import { mountsOf } from '#host/mounts.ts';

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

/** Their directories, in each hierarchy where they have any. */
export async function findWorkerGroups(data: string): Promise<string[]> {
  const numbers = (await namesIn(join(data, 'run'))).flatMap(
    (name) => /^worker-(\d+)\.lock$/.exec(name)?.[1] ?? [],
  );
  if (numbers.length === 0) return [];
  const path = await realpath(data);
  const groups = new Set(
    numbers.map((number) => {
      const hash = createHash('sha256').update(`${path}\nworker ${number}`).digest('hex');
      return `carrel-${hash.slice(0, 8)}`;
    }),
  );
  const found: string[] = [];
  for (const { type, path: mount } of mountsOf())
    if (type === 'cgroup' || type === 'cgroup2')
      for (const name of await namesIn(mount)) if (groups.has(name)) found.push(join(mount, name));
  return found;
}
