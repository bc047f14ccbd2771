/**
 * A run where a run is a start: what is asked for is made ready, becomes what the machine starts with, and the answer is
 * what has come of it. The machine is as any other that was started: who asks goes away, or this process ends, and it
 * goes on to its limit.
 */
import { until, within } from '#base/deadline.ts';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import type { RunReply, RunRequest } from '#contract/schemas/machines.ts';
import { insertEvent } from '#store/events.ts';
import { transaction } from '#store/database.ts';
import { type Machine as Row, selectMachine } from '#store/machines.ts';
import { type Cloud, driverFor, specOf } from './cloud.ts';
import type { EndReport, PlacedRun, RunByStart, RunningMachine } from './driver.ts';
import { eventOf } from './events.ts';
import { carryOut } from './jobs.ts';
import { activityOf, changeMachine } from './rows.ts';
import { decide } from './state.ts';

/** A run has a limit of its own; beyond it and this time the machine is paused, or hangs. */
const spareMs = 300_000;
/** From the end of the process to the machine's row. */
const noticeMs = 60_000;
/** For what it has done so far to be reported. */
const stopMs = 5000;

export async function runByStarting(
  cloud: Cloud,
  driver: RunByStart,
  id: string,
  request: RunRequest,
  { signal }: { signal?: AbortSignal } = {},
): Promise<RunReply> {
  const before = await selectMachine(cloud.db, id);
  decideRun(before); // before anything is compiled
  const run = await driver.make(await specOf(cloud, before), request, signal ? { signal } : {});
  signal?.throwIfAborted();
  const machine = await begin(cloud, id, run);
  const stop = (): void => {
    machine
      ?.stop({ graceMs: stopMs })
      .catch((error: unknown) =>
        cloud.log.warn('a run could not be stopped', { machine: id, error: String(error) }),
      );
  };
  signal?.addEventListener('abort', stop, { once: true });
  try {
    if (signal?.aborted) stop();
    const ended = await endOf(cloud, before, machine, request.limitMs + spareMs);
    const reply = await run.reply(ended); // before anybody can begin the next one
    await until(
      noticeMs,
      `the end of the run of machine ${before.name} to be written down`,
      async () => ((await isOver(cloud, id)) ? true : undefined),
      { everyMs: 20 },
    );
    return reply;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** `wrong_state` unless it may be started. */
function decideRun(row: Row): void {
  const decision = decide({ state: row.state, activity: activityOf(row) }, 'start');
  if (decision.kind === 'begin') return;
  const [reason, hint] =
    decision.kind === 'refused'
      ? [decision.reason, decision.hint]
      : ['a guest of it is running', `wait for its end, or stop it: carrel machine stop ${row.name}`];
  throw new CarrelError('wrong_state', `machine ${row.name} cannot run another guest: ${reason}`, {
    hint,
    details: { state: row.state, activity: row.activity },
  });
}

/** Starts it; undefined: it has ended already. What was made for it takes effect with the machine locked. */
async function begin(cloud: Cloud, id: string, run: PlacedRun): Promise<RunningMachine | undefined> {
  using _lock = await cloud.locks.take(id);
  const row = await selectMachine(cloud.db, id);
  decideRun(row);
  await run.place();
  const gen = await transaction(cloud.db, async (tx) => {
    const moved = await changeMachine(tx, row, { activity: 'starting' });
    if (moved !== undefined) await insertEvent(tx, eventOf(row, 'machine.starting', { gen: moved }));
    return moved;
  });
  if (gen === undefined) throw new CarrelError('wrong_state', `machine ${row.name} was changed meanwhile`);
  cloud.changed(id);
  // not to be cut off: a start takes a second, and a half one would be a failed machine
  const context = { signal: new AbortController().signal, step: () => undefined };
  await carryOut(cloud, { ...row, gen, activity: 'starting' }, 'starting', context);
  return cloud.living.get(id);
}

/** Waits for the end of its process. */
async function endOf(
  cloud: Cloud,
  row: Row,
  machine: RunningMachine | undefined,
  limitMs: number,
): Promise<EndReport> {
  if (machine)
    try {
      return await within(limitMs, `the run of machine ${row.name}`, machine.ended);
    } catch (error) {
      // let go of: by somebody who stops it, or because this process ends
      if (isCarrelError(error, 'deadline_exceeded') || !(await isOver(cloud, row.id))) throw error;
    }
  return driverFor(cloud, row).lastEnd(await specOf(cloud, row));
}

/** Is it over by its row? Then the next run may begin. */
async function isOver(cloud: Cloud, id: string): Promise<boolean> {
  const { state, activity } = await selectMachine(cloud.db, id);
  return activity === null && (state === 'stopped' || state === 'failed');
}
