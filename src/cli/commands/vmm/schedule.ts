/** `carrel vmm schedule GUEST GUEST`. */
import { CarrelError } from '#base/errors.ts';
import { describeEnd, type End } from '#vmm/end.ts';
import type { Fault } from '#vmm/fault/fault.ts';
import { parsePlace } from '#vmm/debug/parse.ts';
import { loadGuest } from '#vmm/image/compile.ts';
import { createMachine, type Machine } from '#vmm/machine.ts';
import { requireMode } from '#vmm/modes/require.ts';
import { modes } from '#vmm/modes/table.ts';
import { type PolicyName, policyNames } from '#vmm/schedule/policy.ts';
import { schedule, type Scheduled } from '#vmm/schedule/schedule.ts';
import type { Arguments } from '../../arguments.ts';
import { exitCodes } from '../../exit-codes.ts';
import type { Action } from '../../spec.ts';
import { drawFault } from './draw-run.ts';
import { drawShares, drawSlices, drawTimeline, letter } from './draw-schedule.ts';
import { countOf, interruptible, limitOf, modeOf, shareOf } from './options.ts';
import { plain } from '#vmm/inspect/plain.ts';

/** Slices that are listed at most; --json has all that were kept. */
const mostListed = 20_000;

function policyOf(args: Arguments): PolicyName {
  const word = args.option('policy') ?? 'timer';
  const policy = policyNames.find((name) => name === word);
  if (!policy) throw new CarrelError('invalid_request', `there is no policy ${word}`);
  return policy;
}

/** `70:30`. */
function weightsOf(args: Arguments): { weights?: readonly number[] } {
  const text = args.option('weights');
  if (text === undefined) return {};
  if (!/^\d{1,6}(?::\d{1,6})*$/.test(text))
    throw new CarrelError('invalid_request', `--weights ${text} are no weights`, { hint: 'write 70:30' });
  return { weights: text.split(':').map(Number) };
}

async function machinesOf(args: Arguments): Promise<readonly Machine[]> {
  const mode = modeOf(args);
  await requireMode(mode, 1);
  const machines: Machine[] = [];
  const images = [];
  for (const guest of args.words('guests')) images.push(await loadGuest(guest, modes[mode]));
  try {
    for (const image of images) machines.push(createMachine({ mode, image }));
    return machines;
  } catch (error) {
    closeAll(machines);
    throw error;
  }
}

function closeAll(machines: readonly Machine[]): void {
  for (const machine of machines) machine.close();
}

/** The word at --counter of each machine, after the run. */
function countersOf(args: Arguments, machines: readonly Machine[]): number[] {
  const text = args.option('counter');
  if (text === undefined) return [];
  return machines.map(({ memory, image }) => {
    const bytes = memory.slice(parsePlace(text, image.symbols), 4);
    if (!bytes) throw new CarrelError('invalid_request', `--counter ${text} is outside of guest memory`);
    return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  });
}

function jsonOf(
  { machines, timeline, ms, core }: Scheduled,
  { args, policy, counters }: { args: Arguments; policy: PolicyName; counters: readonly number[] },
): unknown {
  return plain({
    policy,
    core,
    ms,
    machines: machines.map(({ end, ...rest }, index) => ({
      name: letter(index),
      guest: args.words('guests')[index],
      ...rest,
      end: { ...end, sentence: describeEnd(end) },
      ...(counters.length > 0 && { counted: counters[index] }),
    })),
    timeline,
  });
}

/** A machine that never ends is a good contender: the limit is for it. */
const isMeant = ({ kind }: End): boolean => kind === 'halted' || kind === 'time limit';

/** What there is to see of a fault, besides the sentence in the table. */
function drawEvidence(fault: Fault, machine: Machine | undefined): string {
  const cr3 = machine?.vcpuAt(0).vcpu.special().get('cr3') ?? 0n;
  return `${fault.exit}\n${drawFault(fault, cr3)}`;
}

export const vmmSchedule: Action = async ({ args, out }) => {
  const policy = policyOf(args);
  const sliceMs = args.duration('slice') ?? 10;
  const limitMs = limitOf(args, 1000);
  const listed = countOf(args, 'slices', { usual: 0, most: mostListed });
  const weights = weightsOf(args);
  const machines = await machinesOf(args);
  try {
    countersOf(args, machines); // refuse before the run
    using interrupt = interruptible();
    const result = await schedule(machines, {
      policy,
      sliceMs,
      limitMs,
      ...weights,
      signal: interrupt.signal,
      ...(await shareOf(args)),
      ...(!out.json && {
        onLine: (machine, line) =>
          void process.stdout.write(`[${letter(machine)}] ${line.endsWith('\n') ? line : `${line}\n`}`),
      }),
    });
    for (const [index, { end }] of result.machines.entries())
      if (end.kind === 'fault') out.note(`${letter(index)}: ${drawEvidence(end.fault, machines[index])}`);
    const counters = countersOf(args, machines);
    out.result(jsonOf(result, { args, policy, counters }), () =>
      [
        `${machines.length} ${machines.length === 1 ? 'machine' : 'machines'} on one core (processor ${result.core}), policy ${policy}${policy === 'io' ? '' : `, slices of ${sliceMs} ms`}`,
        drawTimeline(result, { policy, sliceMs }),
        drawShares(result.machines, { policy, guests: args.words('guests'), counters }),
        ...(listed > 0 ? [drawSlices(result, listed)] : []),
      ].join('\n\n'),
    );
    if (result.machines.some(({ end }) => end.kind === 'stopped')) return exitCodes.interrupted;
    return result.machines.every(({ end }) => isMeant(end)) ? undefined : exitCodes.failed;
  } finally {
    closeAll(machines);
  }
};
