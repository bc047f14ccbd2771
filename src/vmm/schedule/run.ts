/** Several machines on one thread, one after another: the loop of a scheduler, with KVM_RUN as its processor. */
import { threadCpuMs } from '#host/thread-clock.ts';
import { exitReasons } from '#kvm/abi/exits.ts';
import { SYNC_X86_REGS } from '#kvm/abi/flags.ts';
import { Kick } from '#kvm/kick.ts';
import type { Registers } from '#kvm/registers.ts';
import type { ExitCounts } from '../counters.ts';
import type { End } from '../end.ts';
import type { Guest } from '../guest.ts';
import { findPortMap, type PortBinding } from '../hypercalls/maps.ts';
import { explainHere, openGuest, serveExit } from '../serve.ts';
import type { VcpuOrder } from '../vcpu-run.ts';
import { pinThread } from './pin.ts';
import { choose, keepsCore, type PolicyName, type SwitchCause } from './policy.ts';
import { type Timeline, TimelineLog } from './timeline.ts';

/** Plain data and shared buffers: it goes to the thread as a message. */
export interface ScheduleOrder {
  readonly machines: readonly { readonly vcpu: VcpuOrder; readonly weight: number }[];
  readonly policy: PolicyName;
  readonly kick: SharedArrayBuffer;
}

export interface MachineReport {
  /** 'kicked': stopped from outside; whoever kicked knows why. */
  readonly end: End | 'kicked';
  readonly exits: ExitCounts;
  readonly registers: Registers;
  /** What its slices add up to, in milliseconds. */
  readonly cpuMs: number;
  readonly ms: number;
  readonly slices: number;
}

export interface ScheduleReport {
  readonly machines: readonly MachineReport[];
  readonly timeline: Timeline;
  /** From the first instruction to the last exit, in milliseconds. */
  readonly ms: number;
  /** The core: a number of the host's. */
  readonly core: number;
}

class Contestant {
  readonly guest: Guest;
  readonly weight: number;
  readonly #calls: ReadonlyMap<number, PortBinding>;
  end: End | 'fault' | undefined;
  cpuMs = 0;
  ms = 0;
  slices = 0;

  constructor(order: VcpuOrder, weight: number, onLine: (line: string) => void) {
    this.guest = openGuest(order, onLine);
    this.weight = weight;
    this.#calls = findPortMap(order.ports) ?? new Map();
    this.guest.vcpu.page.syncedRegisters = SYNC_X86_REGS;
  }

  get ready(): boolean {
    return this.end === undefined;
  }

  /** Runs until it has to give the core away; 'stop' if somebody wants all of it to stop. */
  slice(kick: Kick, policy: PolicyName): SwitchCause | 'stop' {
    const { vcpu } = this.guest;
    const { page } = vcpu;
    let { ticks } = kick;
    for (;;) {
      if (kick.wanted) return 'stop';
      const how = vcpu.run();
      if (how === 'interrupted') {
        // first the flag, then the number: kick.ts says why
        page.immediateExit = false;
        const before = ticks;
        ({ ticks } = kick);
        if (ticks !== before && !keepsCore(policy, 'tick')) return 'tick';
      } else if (how === 'exit') {
        const isPort = page.exitReason === exitReasons.IO.number;
        const served = serveExit(this.guest, this.#calls, page);
        if (served === 'vmcall') continue;
        this.end = served;
        if (this.end !== undefined) return 'end';
        if (isPort && !keepsCore(policy, 'io')) return 'io';
      }
    }
  }

  async report(): Promise<MachineReport> {
    const { end, guest, cpuMs, ms, slices } = this;
    // who looks now, or goes on, finds the last instruction done
    if (end === undefined) guest.vcpu.complete();
    return {
      end: end === 'fault' ? await explainHere(guest) : (end ?? 'kicked'),
      exits: guest.counters.snapshot(),
      registers: guest.vcpu.registers(),
      cpuMs,
      ms,
      slices,
    };
  }

  close(): void {
    this.guest.output.flush();
    this.guest.share.closeAll();
  }
}

/** Who had the core, until all have ended or somebody kicks. */
function runSlices(contestants: readonly Contestant[], policy: PolicyName, kick: Kick): TimelineLog {
  const log = new TimelineLog();
  const began = performance.now();
  let at = 0;
  let cpuAt = threadCpuMs();
  let current: number | undefined = 0;
  while (current !== undefined) {
    const chosen: Contestant | undefined = contestants[current];
    if (!chosen) break;
    const exitsBefore = chosen.guest.counters.total;
    const cause: SwitchCause | 'stop' = chosen.slice(kick, policy);
    const now = performance.now() - began;
    const cpuNow = threadCpuMs();
    chosen.cpuMs += cpuNow - cpuAt;
    chosen.ms += now - at;
    chosen.slices += 1;
    log.add(current, at, now, cpuNow - cpuAt, chosen.guest.counters.total - exitsBefore, cause);
    at = now;
    cpuAt = cpuNow;
    current = cause === 'stop' ? undefined : choose(policy, contestants, current);
  }
  return log;
}

/** Runs them all. `onLine` gets what they print, line by line. */
export async function runSchedule(
  { machines, policy, kick: buffer }: ScheduleOrder,
  onLine: (machine: number, line: string) => void,
): Promise<ScheduleReport> {
  const contestants: Contestant[] = [];
  try {
    for (const [index, { vcpu, weight }] of machines.entries())
      contestants.push(new Contestant(vcpu, weight, (line) => onLine(index, line)));
    const kick = new Kick(buffer);
    const core = pinThread();
    kick.enter();
    const began = performance.now();
    let log: TimelineLog;
    try {
      log = runSlices(contestants, policy, kick);
    } finally {
      kick.leave();
    }
    const ms = performance.now() - began;
    const reports: MachineReport[] = [];
    for (const contestant of contestants) reports.push(await contestant.report());
    return { machines: reports, timeline: log.timeline(), ms, core };
  } finally {
    for (const contestant of contestants) contestant.close();
  }
}
