/** What a container uses, read from outside: its control group, its disk, its link. */
import { readFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf } from '#base/errors.ts';
import type { Stats } from '#contract/schemas/machines.ts';
import { linkOf } from '#fabric/fabric.ts';
import type { GroupUsage } from '#isolate/cgroups/group.ts';
import type { CgroupLayout } from '#isolate/cgroups/layout.ts';
import { groupDirectory } from '#isolate/cgroups/limits.ts';

/** One look at everything. */
export async function observe(id: string, pid: number, usage: GroupUsage): Promise<Stats> {
  return {
    cpuMs: usage.cpuMs ?? 0,
    memoryBytes: usage.memoryBytes,
    peakMemoryBytes: usage.peakMemoryBytes,
    processes: usage.processes,
    diskBytes: await diskBytes(pid),
    oomKills: usage.oomKills,
    network: networkOf(id),
  };
}

/** Bytes of the writable layer in use: an overlay tells the figures of its upper file system. */
async function diskBytes(pid: number): Promise<number | null> {
  try {
    const { blocks, bfree, bsize } = await statfs(`/proc/${pid}/root`);
    return (blocks - bfree) * bsize;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ESRCH') return null;
    throw error;
  }
}

/** The fabric's end of the wire (proc_net(5), dev): what went in there is what the machine received. */
function networkOf(id: string): Stats['network'] {
  const link = linkOf(id);
  for (const line of readFileSync('/proc/thread-self/net/dev', 'utf8').split('\n')) {
    const [name, figures] = line.split(':');
    if (name?.trim() !== link || figures === undefined) continue;
    const numbers = figures.trim().split(/\s+/).map(Number);
    return { receivedBytes: numbers[8] ?? 0, sentBytes: numbers[0] ?? 0 };
  }
  return null;
}

/** Is the control group frozen? freezer.state of v1 (also while it is FREEZING), cgroup.freeze of v2. */
export function isFrozen(layout: CgroupLayout, path: string): boolean {
  const directory = groupDirectory(layout, 'freezer', path);
  if (directory === undefined) return false;
  const file = layout.where.freezer?.version === 2 ? 'cgroup.freeze' : 'freezer.state';
  try {
    return !['0', 'THAWED'].includes(readFileSync(join(directory, file), 'utf8').trim());
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}
