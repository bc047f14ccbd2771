/** `machine run-all`: one program in many machines, and what came of it in each. */
import { formatDuration } from '#base/units.ts';
import { isCarrelError } from '#base/errors.ts';
import type { Client } from '#contract/client.ts';
import type { Machine, ProgramEnd } from '#contract/schemas/machines.ts';
import { describeEnd, statusOf } from '../program-end.ts';
import type { Action } from '../spec.ts';
import type { Output } from '../ui/output.ts';
import { all } from '../waiting.ts';
import { indented } from './script.ts';

/** Programs at a time: those of emulated machines share the host's processors. */
const atOnce = 8;
const defaultLimitMs = 60_000;
/** What the way there and back may take beside the program's own limit: a machine may have to wake up. */
const wayMs = 60_000;

interface Outcome {
  readonly id: string;
  readonly name: string;
  readonly owner: string;
  readonly state: Machine['state'];
  /** null: it was not run, or nobody knows how it ended; `error` says why. */
  readonly end: ProgramEnd | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly wallMs: number | null;
  readonly error: string | null;
}

const text = (base64: string): string => Buffer.from(base64, 'base64').toString();

/** Never throws for what one machine does: the others are asked all the same. */
async function runIn(client: Client, machine: Machine, argv: string[], limitMs: number): Promise<Outcome> {
  const { id, name, owner, state } = machine;
  const outcome = { id, name, owner, state, end: null, stdout: '', stderr: '', wallMs: null, error: null };
  if (state !== 'running') return { ...outcome, error: `it is ${state}` };
  const signal = AbortSignal.timeout(limitMs + wayMs);
  try {
    const reply = await client.runInMachine({ params: { machine: id }, body: { argv, limitMs } }, { signal });
    const { end, stdout, stderr, wallMs } = reply;
    return { ...outcome, end, stdout: text(stdout), stderr: text(stderr), wallMs };
  } catch (error) {
    if (signal.aborted) return { ...outcome, error: 'it did not answer in time' };
    if (isCarrelError(error)) return { ...outcome, error: error.message };
    throw error;
  }
}

function render(outcomes: readonly Outcome[], out: Output): string {
  if (outcomes.length === 0) return 'no such machine; see: carrel machine ls';
  return outcomes
    .flatMap(({ name, owner, end, error, wallMs, stdout, stderr }) => [
      `${out.paint('bold', name)} (${owner})  ${end ? `[${describeEnd(end) ?? statusOf(end)}]` : error}${wallMs === null ? '' : ` ${formatDuration(wallMs)}`}`,
      ...indented(stdout),
      ...indented(stderr),
    ])
    .join('\n');
}

export const machineRunAll: Action = async ({ args, out, connect }) => {
  const limitMs = args.duration('limit') ?? defaultLimitMs;
  const argv = [...args.program('program')];
  const given = Object.fromEntries(
    ['owner', 'course', 'label'].flatMap((key) => {
      const value = args.option(key);
      return value === undefined ? [] : [[key, value]];
    }),
  );
  const { client } = await connect();
  const machines = await all((page) => client.listMachines({ params: {}, query: { ...page, ...given } }));
  const outcomes: Outcome[] = [];
  const queue = machines.entries();
  const work = async (): Promise<void> => {
    for (const [index, machine] of queue) outcomes[index] = await runIn(client, machine, argv, limitMs);
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  out.result(outcomes, () => render(outcomes, out));
  return outcomes.every(({ end }) => end !== null && statusOf(end) === 0) ? 0 : 1;
};
