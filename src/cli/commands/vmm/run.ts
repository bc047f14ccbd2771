/** `carrel vmm run GUEST`. */
import { CarrelError } from '#base/errors.ts';
import { hex } from '#base/units.ts';
import { describeEnd } from '#vmm/end.ts';
import { parseAddress, parsePlace } from '#vmm/debug/parse.ts';
import { allRegisters } from '#vmm/inspect/registers.ts';
import type { Machine, VcpuResult } from '#vmm/machine.ts';
import { type ExitCosts, measureExits } from '#vmm/vmcall/cost.ts';
import { probeVmcall } from '#vmm/vmcall/probe.ts';
import { prepareThread } from '#vmm/threads.ts';
import type { Arguments } from '../../arguments.ts';
import { exitCodes } from '../../exit-codes.ts';
import type { Action } from '../../spec.ts';
import type { Output } from '../../ui/output.ts';
import { drawEnd, drawFault, drawRegisters } from './draw-run.ts';
import { drawHere } from './draw-code.ts';
import { drawTrace } from './draw-trace.ts';
import { drawCosts, drawVmcalls, traceVmcalls } from './draw-vmcall.ts';
import { drawDirty, dirtyOf } from './draw-dirty.ts';
import { hexDump } from './hexdump.ts';
import { breakpointsOf, diskOf, interruptible, limitOf, machineOf, shareOf } from './options.ts';
import { plain } from '#vmm/inspect/plain.ts';

interface Dump {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** `ADDRESS:BYTES` of guest-physical memory. */
function dumpOf(machine: Machine, text: string): Dump {
  const [where = '', count = '64'] = text.split(':');
  const from = parsePlace(where, machine.image.symbols);
  const bytes = machine.memory.slice(from, Number(parseAddress(count)));
  if (!bytes)
    throw new CarrelError('invalid_request', `--dump ${text} is outside of guest memory`, {
      hint: `there are ${hex(machine.memory.length)} bytes`,
    });
  return { address: Number(from), bytes };
}

function jsonOf(
  { vcpu, output, end, exits, registers, vmcalls, ms, trace, remarks }: VcpuResult,
  machine: Machine,
): unknown {
  return plain({
    vcpu,
    output,
    end: { ...end, sentence: describeEnd(end) },
    exits,
    registers,
    ...(vmcalls && { vmcalls }),
    ms,
    control: controlOf(machine, vcpu),
    remarks,
    ...(trace && { trace }),
  });
}

function controlOf(machine: Machine, index: number): Record<string, bigint> {
  const vcpu = machine.vcpus[index]?.vcpu;
  if (!vcpu) return {};
  const { cr0, cr2, cr3, cr4, efer } = allRegisters(vcpu);
  return { cr0, cr2, cr3, cr4, efer };
}

/** What the options ask for besides the guest's own output. */
function extras(
  args: Arguments,
  machine: Machine,
  { results, dumps }: { results: readonly VcpuResult[]; dumps: readonly Dump[] },
): string[] {
  const registersOf = ({ vcpu, registers }: VcpuResult): string =>
    drawRegisters(vcpu, { ...registers, ...controlOf(machine, vcpu) });
  return [
    ...results.flatMap(({ vcpu, trace, vmcalls }) => [
      ...(trace ? [drawTrace(vcpu, trace)] : []),
      ...(trace && vmcalls ? [traceVmcalls(vcpu, vmcalls)] : []),
    ]),
    ...(args.flag('registers') ? results.map(registersOf) : []),
    ...(machine.dirty ? [drawDirty(machine)] : []),
    ...dumps.map(({ address, bytes }) => hexDump(bytes, address)),
  ];
}

/** How each vCPU ended: a remark, for standard error. */
function noteEnds(results: readonly VcpuResult[], machine: Machine, out: Output): void {
  for (const result of results) {
    for (const remark of result.remarks) out.note(remark);
    out.note(drawEnd(result));
    if (result.end.kind === 'fault')
      out.note(drawFault(result.end.fault, controlOf(machine, result.vcpu)['cr3'] ?? 0n));
    if (result.end.kind === 'breakpoint') out.note(drawHere(machine, result.vcpu));
    if (result.vmcalls) out.note(drawVmcalls(result.vcpu, result.vmcalls));
  }
}

function printLine(vcpus: number): (vcpu: number, line: string) => void {
  // a label belongs before a whole line; one guest alone prints as it likes
  return (vcpu, line) => {
    const whole = vcpus === 1 || line.endsWith('\n') ? line : `${line}\n`;
    process.stdout.write(vcpus === 1 ? whole : `[vcpu ${vcpu}] ${whole}`);
  };
}

/** Runs the guest as the options want it. */
async function runGuest(machine: Machine, args: Arguments, json: boolean): Promise<readonly VcpuResult[]> {
  using interrupt = interruptible();
  return await machine.run({
    limitMs: limitOf(args),
    ports: args.option('ports') ?? 'carrel',
    trace: args.flag('trace'),
    breakpoints: breakpointsOf(args, machine.image.symbols),
    signal: interrupt.signal,
    ...(await shareOf(args)),
    ...diskOf(args),
    ...(!json && { onLine: printLine(machine.vcpus.length) }),
  });
}

/** What exits cost here, for a guest whose vmcalls were simulated: to be compared with its ports. */
async function costsOf(results: readonly VcpuResult[], out: Output): Promise<ExitCosts | undefined> {
  const count = results.reduce((sum, { vmcalls }) => sum + (vmcalls?.simulated ? vmcalls.total : 0), 0);
  if (count === 0) return undefined;
  const costs = measureExits((await probeVmcall()).unknown.fate);
  out.note(drawCosts(costs, count));
  return costs;
}

/** Says so if the model has nothing to do. */
function noteSites({ vmcallSites }: Machine, out: Output): void {
  if (vmcallSites?.length === 0)
    out.note(
      'the guest marks no vmcall, so that none is simulated: use vmcall() of guests/vmcall.h, or a label vmcall_NAME before the instruction',
    );
}

function vmcallOf(args: Arguments): 'host' | 'model' {
  const word = args.option('vmcall') ?? 'host';
  if (word !== 'host' && word !== 'model')
    throw new CarrelError('invalid_request', `--vmcall is host or model, not ${word}`);
  return word;
}

/** As it was meant to end: by itself, or where it was to stop. */
const isMeant = ({ end }: VcpuResult): boolean => end.kind === 'halted' || end.kind === 'breakpoint';

export const vmmRun: Action = async ({ args, out }) => {
  prepareThread();
  using machine = await machineOf(args, {
    vmcall: vmcallOf(args),
    ...(args.flag('dirty') && { watchDirty: 'as this host can' }),
  });
  noteSites(machine, out);
  const wanted = args.many('dump');
  // refuse before the run
  for (const text of wanted) dumpOf(machine, text);
  breakpointsOf(args, machine.image.symbols);
  const results = await runGuest(machine, args, out.json);
  const dumps = wanted.map((text) => dumpOf(machine, text));
  noteEnds(results, machine, out);
  const costs = await costsOf(results, out);
  out.result(
    {
      mode: machine.mode.name,
      ports: args.option('ports') ?? 'carrel',
      vmcall: { answeredBy: vmcallOf(args), ...(costs && { simulatedCosts: costs }) },
      vcpus: results.map((result) => jsonOf(result, machine)),
      memory: dumps.map(({ address, bytes }) => ({
        address: hex(address),
        bytes: Buffer.from(bytes).toString('hex'),
      })),
      ...(machine.dirty && { dirty: dirtyOf(machine) }),
    },
    () => extras(args, machine, { results, dumps }).join('\n\n'),
  );
  if (results.some(({ end }) => end.kind === 'stopped')) return exitCodes.interrupted;
  return results.every(isMeant) ? undefined : exitCodes.failed;
};
