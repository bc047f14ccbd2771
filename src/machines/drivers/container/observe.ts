/** What a container uses, read from outside: its control group, its disk, its link. */
import { statfs } from 'node:fs/promises';
import { errnoOf } from '#base/errors.ts';
import type { Stats } from '#contract/schemas/machines.ts';
import type { Fabric } from '#fabric/fabric.ts';
import type { GroupUsage } from '#isolate/cgroups/group.ts';

/** One look at everything. */
export async function observe(id: string, pid: number, usage: GroupUsage, fabric: Fabric): Promise<Stats> {
  const [disk, network] = await Promise.all([diskBytes(pid), fabric.traffic(id)]);
  return {
    cpuMs: usage.cpuMs ?? 0,
    memoryBytes: usage.memoryBytes,
    peakMemoryBytes: usage.peakMemoryBytes,
    processes: usage.processes,
    diskBytes: disk,
    oomKills: usage.oomKills,
    exits: null,
    network,
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
