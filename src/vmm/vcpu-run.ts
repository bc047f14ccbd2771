/** One vCPU from its first instruction to its end, on its own thread. */
import { exitReasons } from '#kvm/abi/exits.ts';
import { SYNC_X86_REGS } from '#kvm/abi/flags.ts';
import { GuestMemory, type GuestMemoryHandle } from '#kvm/memory.ts';
import { Kick } from '#kvm/kick.ts';
import type { Registers } from '#kvm/registers.ts';
import { runVcpu } from '#kvm/runloop.ts';
import type { RunPage } from '#kvm/runpage.ts';
import { Vcpu, type VcpuHandle } from '#kvm/vcpu.ts';
import { ExitCounters, type ExitCounts } from './counters.ts';
import type { End } from './end.ts';
import type { Guest } from './guest.ts';
import { findPortMap } from './hypercalls/maps.ts';
import type { ModeName } from './modes/mode.ts';
import { modes } from './modes/table.ts';
import { GuestOutput } from './output.ts';
import { servePort } from './ports.ts';
import { Share } from './share.ts';
import type { Step, Stepper } from './steps.ts';
import { ExitTrace, type TracedExit } from './trace.ts';

/** All that a vCPU's thread is told. Plain data and shared buffers: it goes to the thread as a message. */
export interface VcpuOrder {
  readonly vcpu: VcpuHandle;
  readonly memory: GuestMemoryHandle;
  readonly kick: SharedArrayBuffer;
  readonly base: number;
  readonly tables: number;
  readonly imageEnd: number;
  readonly mode: ModeName;
  readonly ports: string;
  readonly share: string | undefined;
  readonly outputLimit: number;
  readonly trace: boolean;
  /** So many single steps, or none. */
  readonly steps: number | undefined;
}

export interface VcpuReport {
  /** 'kicked': stopped from outside; whoever kicked knows why. */
  readonly end: End | 'kicked';
  readonly exits: ExitCounts;
  readonly registers: Registers;
  /** From the first instruction to the last exit. */
  readonly ms: number;
  readonly trace: { readonly dropped: number; readonly exits: readonly TracedExit[] } | undefined;
  readonly steps: readonly Step[] | undefined;
}

/** Faults are rare, and a disassembler is large: loaded when there is something to explain. */
async function explainHere({ vcpu, mode, layout, imageEnd }: Guest): Promise<End> {
  const [{ observe }, { explain }] = await Promise.all([
    import('./fault/scene.ts'),
    import('./fault/explain.ts'),
  ]);
  return { kind: 'fault', fault: explain(observe(vcpu, modes[mode], layout, imageEnd)) };
}

async function makeStepper({ vcpu, mode, layout }: Guest, limit: number): Promise<Stepper> {
  const { Stepper } = await import('./steps.ts');
  return new Stepper(vcpu, { mode: modes[mode], layout, limit });
}

/** What hypercalls see of this vCPU. */
function guestOf(order: VcpuOrder, onLine: (line: string) => void): Guest {
  return {
    vcpu: new Vcpu(order.vcpu),
    mode: order.mode,
    layout: { memory: new GuestMemory(order.memory), base: order.base, tables: order.tables },
    imageEnd: order.imageEnd,
    output: new GuestOutput({ limit: order.outputLimit, onLine }),
    outputLimit: order.outputLimit,
    counters: new ExitCounters(),
    share: new Share(order.share),
    lastResult: 0,
  };
}

/** Runs it. `onLine` gets what it prints, line by line. */
export async function runOrder(order: VcpuOrder, onLine: (line: string) => void): Promise<VcpuReport> {
  const guest = guestOf(order, onLine);
  const { vcpu, counters } = guest;
  const calls = findPortMap(order.ports) ?? new Map();
  const trace = order.trace ? new ExitTrace() : undefined;
  const stepper = order.steps === undefined ? undefined : await makeStepper(guest, order.steps);
  vcpu.page.syncedRegisters = SYNC_X86_REGS;

  let end: End | 'fault' | undefined;
  const serve = (page: RunPage): boolean => {
    const reason = page.exitReason;
    const isStep = reason === exitReasons.DEBUG.number && stepper !== undefined;
    // single steps are our doing: a guest that counts its exits must not see them
    if (!isStep) counters.count(page);
    if (reason === exitReasons.IO.number) end = servePort(guest, calls, page);
    else if (reason === exitReasons.HLT.number) end = { kind: 'halted' };
    else if (!isStep) end = 'fault';
    trace?.record(page);
    if (end !== undefined) return false;
    if (!stepper || stepper.after(page)) return true;
    end = { kind: 'steps done', count: stepper.steps.length };
    return false;
  };

  const began = performance.now();
  try {
    const how = runVcpu(vcpu, new Kick(order.kick), serve);
    const ms = performance.now() - began;
    if (end !== undefined && end !== 'fault' && end.kind === 'halted') stepper?.record();
    return {
      end:
        how === 'kicked' || end === undefined ? 'kicked' : end === 'fault' ? await explainHere(guest) : end,
      exits: counters.snapshot(),
      registers: vcpu.registers(),
      ms,
      trace: trace?.entries(),
      steps: stepper?.steps,
    };
  } finally {
    stepper?.disarm();
    guest.output.flush();
    guest.share.closeAll();
  }
}
