/** What a virtual machine uses, read from outside: QEMU's control group, the layers of the disk, the wire. */
import { z } from 'zod';
import { isCarrelError } from '#base/errors.ts';
import type { Stats } from '#contract/schemas/machines.ts';
import type { Fabric } from '#fabric/fabric.ts';
import type { GroupUsage } from '#isolate/cgroups/group.ts';
import type { MachineSpec } from '../../driver.ts';
import { diskUsage } from './disk/disk.ts';
import { withQmp } from './qmp.ts';
import type { Accelerator } from './spec.ts';

/** A look at figures is not worth waiting longer for. */
const exitsMs = 2000;

/** Answer to query-stats for vCPUs (qapi/stats.json): per processor, what each provider counts. */
export const vcpuStats = z.array(
  z.object({
    provider: z.string(),
    stats: z.array(
      z.object({ name: z.string(), value: z.union([z.number(), z.boolean(), z.array(z.number())]) }),
    ),
  }),
);

/** The exits of all processors together; null when nobody counted. Pure. */
export function exitsOf(reply: z.infer<typeof vcpuStats>): number | null {
  const counts = reply.flatMap(({ provider, stats }) =>
    provider === 'kvm' ? stats.filter(({ name }) => name === 'exits').map(({ value }) => value) : [],
  );
  const numbers = counts.filter((value) => typeof value === 'number');
  return numbers.length > 0 ? numbers.reduce((sum, value) => sum + value, 0) : null;
}

async function exits(directory: string): Promise<number | null> {
  const providers = [{ provider: 'kvm', names: ['exits'] }];
  try {
    return await withQmp(
      directory,
      async (qmp) => exitsOf(await qmp.execute('query-stats', { target: 'vcpu', providers }, vcpuStats)),
      { limitMs: exitsMs },
    );
  } catch (error) {
    if (isCarrelError(error)) return null; // busy, ending, or a QEMU before 7.1
    throw error;
  }
}

/** One look at everything. Memory and processor are QEMU's with the guest in it; what runs inside is not seen. */
export async function observeVm(
  { id, directory }: Pick<MachineSpec, 'id' | 'directory'>,
  { usage, fabric, accelerator }: { usage: GroupUsage; fabric: Fabric; accelerator: Accelerator },
): Promise<Stats> {
  const [diskBytes, network, exitCount] = await Promise.all([
    diskUsage(directory),
    fabric.traffic(id),
    accelerator === 'kvm' ? exits(directory) : null,
  ]);
  return {
    cpuMs: usage.cpuMs ?? 0,
    memoryBytes: usage.memoryBytes,
    peakMemoryBytes: usage.peakMemoryBytes,
    processes: null,
    diskBytes,
    oomKills: usage.oomKills,
    network,
    exits: exitCount,
  };
}
