/** What an exit of a vCPU means, and what is done about it: the same in every loop that runs one. */
import { exitReasons } from '#kvm/abi/exits.ts';
import { GuestMemory } from '#kvm/memory.ts';
import type { RunPage } from '#kvm/runpage.ts';
import { Vcpu } from '#kvm/vcpu.ts';
import { ExitCounters } from './counters.ts';
import { openDiskBus } from './disk.ts';
import type { End } from './end.ts';
import type { Guest } from './guest.ts';
import type { PortBinding } from './hypercalls/maps.ts';
import { modes } from './modes/table.ts';
import { GuestOutput } from './output.ts';
import { servePort } from './ports.ts';
import { Share } from './share.ts';
import { serveHypercall } from './vmcall/host.ts';
import { VmcallLog } from './vmcall/log.ts';
import { VmcallModel } from './vmcall/model.ts';
import type { VcpuOrder } from './vcpu-run.ts';

/** What hypercalls see of this vCPU. `interrupted`: somebody wants it to stop. */
export function openGuest(
  order: VcpuOrder,
  onLine: (line: string) => void,
  interrupted: () => boolean = () => false,
): Guest {
  const memory = new GuestMemory(order.memory);
  return {
    vcpu: new Vcpu(order.vcpu),
    mode: order.mode,
    layout: { memory, base: order.base, tables: order.tables },
    imageEnd: order.imageEnd,
    output: new GuestOutput({ limit: order.outputLimit, onLine }),
    outputLimit: order.outputLimit,
    counters: new ExitCounters(),
    share: new Share(order.share, order.shareLimits),
    disk: order.disk && openDiskBus(order.disk, memory, interrupted),
    vmcall: order.vmcallSites ? new VmcallModel(order.vmcallSites) : new VmcallLog(false),
    lastResult: 0,
  };
}

/**
 * Counts and serves an exit that is no step of ours. 'fault': nobody can, and it wants an explanation. 'vmcall': it
 * was one, simulated, which is no exit to the guest.
 */
export function serveExit(
  guest: Guest,
  calls: ReadonlyMap<number, PortBinding>,
  page: RunPage,
): End | 'fault' | 'vmcall' | undefined {
  const { vmcall } = guest;
  if (vmcall instanceof VmcallModel && vmcall.catches(page)) {
    vmcall.serve(guest);
    return 'vmcall';
  }
  guest.counters.count(page);
  const reason = page.exitReason;
  if (reason === exitReasons.IO.number) return servePort(guest, calls, page);
  if (reason === exitReasons.MMIO.number && guest.disk?.serve(page) === true) return undefined;
  if (reason === exitReasons.HYPERCALL.number && vmcall instanceof VmcallLog) {
    serveHypercall(page, vmcall, guest.counters.total);
    return undefined;
  }
  return reason === exitReasons.HLT.number ? { kind: 'halted' } : 'fault';
}

/** Faults are rare, and a disassembler is large: loaded when there is something to explain. */
export async function explainHere({ vcpu, mode, layout, imageEnd }: Guest): Promise<End> {
  const [{ observe }, { explain }] = await Promise.all([
    import('./fault/scene.ts'),
    import('./fault/explain.ts'),
  ]);
  return { kind: 'fault', fault: explain(observe(vcpu, modes[mode], layout, imageEnd)) };
}
