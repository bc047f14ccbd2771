/**
 * Several machines on one core of the host, and who gets it when: the exercise with which schedulers begin.
 *
 * @example
 * using a = createMachine({ mode: 'long', image });
 * using b = createMachine({ mode: 'long', image });
 * const { machines, timeline } = await schedule([a, b], { policy: 'weights', weights: [70, 30] });
 * console.log(machines.map(({ share }) => share), timeline.slices);
 */
import { longestTimerMs } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { Kick } from '#kvm/kick.ts';
import type { End } from '../end.ts';
import type { GuestOptions, Machine } from '../machine.ts';
import { supervise } from '../supervise.ts';
import { startThread } from '../threads.ts';
import type { PolicyName } from './policy.ts';
import type { MachineReport, ScheduleReport } from './run.ts';
import type { FromSchedule } from './thread.ts';

/** As many as a drawing can show. */
export const mostScheduled = 8;
/** A tick that comes more often leaves no time between. */
export const leastSliceMs = 1;

export interface ScheduleOptions extends Omit<GuestOptions, 'trace' | 'disk'> {
  readonly policy: PolicyName;
  /** For each machine, in order; for `weights`. */
  readonly weights?: readonly number[];
  /** Time between ticks, for `timer` and `weights`. */
  readonly sliceMs?: number;
  /** For all of it, from the first instruction on. */
  readonly limitMs?: number;
  readonly onLine?: (machine: number, line: string) => void;
  readonly signal?: AbortSignal;
}

export interface ScheduledMachine extends Omit<MachineReport, 'end'> {
  readonly end: End;
  /** All it printed. */
  readonly output: string;
  readonly weight: number;
  /** Of the CPU time of all, 0 to 1. */
  readonly share: number;
}

export interface Scheduled extends Omit<ScheduleReport, 'machines'> {
  readonly machines: readonly ScheduledMachine[];
}

function refuse(what: string): never {
  throw new CarrelError('invalid_request', what);
}

/** Refuses what makes no schedule, before anything runs. */
function weightsOf(machines: readonly Machine[], { policy, weights, sliceMs }: ScheduleOptions): number[] {
  if (machines.length < 1 || machines.length > mostScheduled)
    refuse(`a schedule has 1 to ${mostScheduled} machines, not ${machines.length}`);
  if (machines.some(({ vcpus }) => vcpus.length !== 1)) refuse('a scheduled machine has one vCPU');
  if (sliceMs !== undefined && !(sliceMs >= leastSliceMs))
    refuse(`a slice lasts ${leastSliceMs} ms at least, not ${sliceMs}`);
  if (weights === undefined) return machines.map(() => 1);
  if (policy !== 'weights') refuse(`weights are for the policy weights, not for ${policy}`);
  if (weights.length !== machines.length || !weights.every((weight) => weight > 0 && Number.isFinite(weight)))
    refuse(`there must be one weight above 0 for each of ${machines.length} machines`);
  return [...weights];
}

/** Runs them in turn on one thread, bound to one processor, until all have ended or the limit is reached. */
export async function schedule(machines: readonly Machine[], options: ScheduleOptions): Promise<Scheduled> {
  const weights = weightsOf(machines, options);
  const { policy, sliceMs = 10, limitMs = 5000, onLine, signal = new AbortController().signal } = options;
  const kick = new Kick();
  const outputs = machines.map((): string[] => []);
  const orders = machines.map((machine, index) => ({
    vcpu: machine.orderOf(0, options),
    weight: weights[index] ?? 1,
  }));
  const pages = machines.flatMap(({ vcpus }) => vcpus.map(({ vcpu }) => vcpu.page));
  const thread = startThread('schedule/thread.ts');
  let timer: NodeJS.Timeout | undefined;
  using _busy = holdAll(machines);
  try {
    const { report, why } = await supervise(thread, {
      begin: () => thread.postMessage({ machines: orders, policy, kick: kick.buffer }),
      kick: () => kick.stop(...pages),
      limitMs,
      signal,
      hear(message: FromSchedule) {
        if (message.kind === 'line') {
          outputs[message.machine]?.push(message.text);
          onLine?.(message.machine, message.text);
          return undefined;
        }
        if (message.kind === 'began' && policy !== 'io')
          timer = setInterval(() => kick.tick(...pages), Math.min(sliceMs, longestTimerMs));
        return message;
      },
    });
    await thread.terminate();
    const cpuMs = report.machines.reduce((sum, each) => sum + each.cpuMs, 0);
    return {
      ...report,
      machines: report.machines.map((each, index) =>
        Object.assign(each, {
          end: each.end === 'kicked' ? why : each.end,
          output: outputs[index]?.join('') ?? '',
          weight: weights[index] ?? 1,
          share: cpuMs > 0 ? each.cpuMs / cpuMs : 0,
        }),
      ),
    };
  } finally {
    clearInterval(timer);
    void thread.terminate(); // after a failure: ends as soon as it can
  }
}

/** While these run nobody closes them. */
function holdAll(machines: readonly Machine[]): Disposable {
  const holds = machines.map((machine) => machine.hold());
  return {
    [Symbol.dispose]() {
      for (const hold of holds) hold[Symbol.dispose]();
    },
  };
}
