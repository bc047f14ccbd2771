/** What a micro-machine uses: its process's control group. It has files, and no wire. */
import type { Stats } from '#contract/schemas/machines.ts';
import type { GroupUsage } from '#isolate/cgroups/group.ts';

export function observeMicro(usage: GroupUsage, diskBytes: number): Stats {
  return {
    cpuMs: usage.cpuMs ?? 0,
    memoryBytes: usage.memoryBytes,
    peakMemoryBytes: usage.peakMemoryBytes,
    processes: null,
    diskBytes,
    oomKills: usage.oomKills,
    network: null,
    exits: null, // the VMM says so when the guest has ended: see report.ts
  };
}
