/** One vCPU on its own thread: from its first instruction to its end, or to where a debugger wants it. */
import { exitReasons } from '#kvm/abi/exits.ts';
import { SYNC_X86_REGS } from '#kvm/abi/flags.ts';
import type { GuestMemoryHandle } from '#kvm/memory.ts';
import { Kick } from '#kvm/kick.ts';
import type { Registers } from '#kvm/registers.ts';
import { runVcpu } from '#kvm/runloop.ts';
import type { RunPage } from '#kvm/runpage.ts';
import type { VcpuHandle } from '#kvm/vcpu.ts';
import type { ExitCounts } from './counters.ts';
import type { Goal } from './debug/choose.ts';
import type { Control } from './debug/control.ts';
import type { DiskHandle } from './disk.ts';
import type { Step } from './debug/steps.ts';
import type { End } from './end.ts';
import type { Guest } from './guest.ts';
import { findPortMap, type PortBinding } from './hypercalls/maps.ts';
import type { ModeName } from './modes/mode.ts';
import { explainHere, openGuest, serveExit } from './serve.ts';
import type { ShareLimits } from './share.ts';
import type { VmcallReport } from './vmcall/log.ts';
import { ExitTrace, type TracedExits } from './trace.ts';

/** All that a vCPU's thread is told. Plain data and shared buffers: it goes to the thread as a message. */
export interface VcpuOrder {
  readonly vcpu: VcpuHandle;
  readonly memory: GuestMemoryHandle;
  readonly base: number;
  readonly tables: number;
  readonly imageEnd: number;
  readonly mode: ModeName;
  readonly ports: string;
  /** Where its vmcalls are, for the model; undefined: the host's KVM answers them. */
  readonly vmcallSites: readonly number[] | undefined;
  readonly share: string | undefined;
  readonly shareLimits: ShareLimits;
  readonly disk: DiskHandle | undefined;
  readonly outputLimit: number;
  /** So many exits are kept, the last ones; 0 for none. */
  readonly trace: number;
  /** Say what is traced while the guest runs. */
  readonly live: boolean;
}

export interface VcpuReport {
  /** 'kicked': stopped from outside; whoever kicked knows why. */
  readonly end: End | 'kicked';
  readonly exits: ExitCounts;
  readonly registers: Registers;
  /** Undefined if there were none, or none that the host's KVM told of. */
  readonly vmcalls: VmcallReport | undefined;
  /** From the first instruction of this stretch to its last exit. */
  readonly ms: number;
  /** What was not told before. */
  readonly trace: TracedExits | undefined;
  readonly steps: readonly Step[] | undefined;
  /** What its devices have to say: why one needs a reset, what a disk could not do. */
  readonly remarks: readonly string[];
}

/** What a vCPU says while it runs. */
export interface Listener {
  /** The first instruction of a stretch comes now: all that is needed for it has been loaded. */
  readonly began: () => void;
  /** What it prints, line by line. */
  readonly line: (text: string) => void;
  /** With `live`: exits since the last call, the newest at least. */
  readonly exits: (batch: TracedExits) => void;
}

/** Live exits come in batches, so that a guest that leaves often does not drown whoever listens. */
const batchMs = 50;
const batchExits = 256;

async function makeControl(guest: Guest, goal: Goal): Promise<Control | undefined> {
  const { steps, breakpoints = [] } = goal;
  if (steps === undefined && breakpoints.length === 0) return undefined;
  const { controlFor } = await import('./debug/choose.ts');
  return controlFor(guest, goal);
}

export class VcpuRun {
  readonly #guest: Guest;
  readonly #calls: ReadonlyMap<number, PortBinding>;
  readonly #trace: ExitTrace | undefined;
  readonly #live: boolean;
  readonly #listener: Listener;
  /** Number of the last exit that was told. */
  #told = 0;
  #kick: Kick | undefined;
  #toldAt = 0;

  constructor(order: VcpuOrder, listener: Listener) {
    this.#guest = openGuest(order, listener.line, () => this.#kick?.wanted ?? false);
    this.#calls = findPortMap(order.ports) ?? new Map();
    this.#trace = order.trace > 0 ? new ExitTrace(order.trace) : undefined;
    this.#live = order.live;
    this.#listener = listener;
    this.#guest.vcpu.page.syncedRegisters = SYNC_X86_REGS;
  }

  #tell(most?: number): TracedExits | undefined {
    const batch = this.#trace?.entries({ after: this.#told, ...(most !== undefined && { most }) });
    this.#told = this.#trace?.count ?? 0;
    return batch;
  }

  #record(page: RunPage): void {
    const now = this.#trace?.record(page);
    if (!this.#live || now === undefined || now - this.#toldAt < batchMs) return;
    this.#toldAt = now;
    const batch = this.#tell(batchExits);
    if (batch) this.#listener.exits(batch);
  }

  /** Runs it until the goal is met, or it ends, or somebody kicks. */
  async go(kick: SharedArrayBuffer, goal: Goal): Promise<VcpuReport> {
    const guest = this.#guest;
    const { vcpu, counters } = guest;
    const control = await makeControl(guest, goal);

    let end: End | 'fault' | undefined;
    const serve = (page: RunPage): boolean => {
      // steps and breakpoints are our doing: a guest that counts its exits must not see them
      const isOurs = control !== undefined && page.exitReason === exitReasons.DEBUG.number;
      if (!isOurs) {
        const served = serveExit(guest, this.#calls, page);
        if (served !== 'vmcall') {
          end = served;
          this.#record(page);
        }
      }
      end ??= control?.after(page);
      return end === undefined;
    };

    this.#kick = new Kick(kick);
    this.#listener.began();
    this.#trace?.begin();
    const began = performance.now();
    try {
      const how = runVcpu(vcpu, this.#kick, serve);
      const ms = performance.now() - began;
      // who looks now, or goes on, finds the last instruction done
      if (how === 'kicked') vcpu.complete();
      if (end !== undefined && end !== 'fault' && end.kind === 'halted') control?.halted();
      return {
        end:
          how === 'kicked' || end === undefined ? 'kicked' : end === 'fault' ? await explainHere(guest) : end,
        exits: counters.snapshot(),
        registers: vcpu.registers(),
        vmcalls: guest.vmcall.report(),
        ms,
        trace: this.#tell(),
        steps: control?.steps,
        remarks: [...(guest.disk?.remarks ?? [])],
      };
    } finally {
      control?.release();
      guest.output.flush();
    }
  }

  /** Its files are closed; it cannot go on. */
  close(): void {
    this.#guest.share.closeAll();
  }
}
