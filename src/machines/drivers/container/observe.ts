/** What a container uses, read from outside: its control group, its disk, its link. */
import { statfs } from 'node:fs/promises';
import { errnoOf } from '#base/errors.ts';
import type { Stats } from '#contract/schemas/machines.ts';
import { linkOf } from '#fabric/fabric.ts';
import type { GroupUsage } from '#isolate/cgroups/group.ts';
import { trafficOf } from '../kept.ts';

/** One look at everything. */
export async function observe(id: string, pid: number, usage: GroupUsage): Promise<Stats> {
  return {
    cpuMs: usage.cpuMs ?? 0,
    memoryBytes: usage.memoryBytes,
    peakMemoryBytes: usage.peakMemoryBytes,
    processes: usage.processes,
    diskBytes: await diskBytes(pid),
    oomKills: usage.oomKills,
    network: trafficOf(linkOf(id)),
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
