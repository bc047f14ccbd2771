/** What a virtual machine uses, read from outside: QEMU's control group, the layers of the disk, the wire. */
import type { Stats } from '#contract/schemas/machines.ts';
import type { Fabric } from '#fabric/fabric.ts';
import type { GroupUsage } from '#isolate/cgroups/group.ts';
import type { MachineSpec } from '../../driver.ts';
import { diskUsage } from './disk/disk.ts';

/** One look at everything. Memory and processor are QEMU's with the guest in it; what runs inside is not seen. */
export async function observeVm(
  { id, directory }: Pick<MachineSpec, 'id' | 'directory'>,
  usage: GroupUsage,
  fabric: Fabric,
): Promise<Stats> {
  const [diskBytes, network] = await Promise.all([diskUsage(directory), fabric.traffic(id)]);
  return {
    cpuMs: usage.cpuMs ?? 0,
    memoryBytes: usage.memoryBytes,
    peakMemoryBytes: usage.peakMemoryBytes,
    processes: null,
    diskBytes,
    oomKills: usage.oomKills,
    network,
  };
}
