/** The machine that somebody wants something of: awake and answering, or what it does instead. */
import { CarrelError } from '#base/errors.ts';
import { type Machine as Row, selectMachine } from '#store/machines.ts';
import { type Cloud, driverFor, runningOf } from './cloud.ts';
import { type Capability, requireCapability, type RunningMachine } from './driver.ts';
import { wake } from './idle.ts';
import { activityOf } from './rows.ts';
import { isAnswering } from './state.ts';

/** The machine, awake, if programs run in it right now. */
export async function answering(cloud: Cloud, id: string, capability: Capability): Promise<RunningMachine> {
  const row = await selectMachine(cloud.db, id);
  requireCapability(driverFor(cloud, row), capability);
  if (!isAnswering({ state: row.state, activity: activityOf(row) })) throw notRunning(row);
  if (row.asleep) await wake(cloud, id);
  return runningOf(cloud, row);
}

const hints: Readonly<Record<Row['state'], (name: string) => string>> = {
  stopped: (name) => `start it first: carrel machine start ${name}`,
  paused: (name) => `resume it first: carrel machine resume ${name}`,
  failed: (name) => `see why with: carrel machine show ${name}; then start it again`,
  running: () => 'wait until that is done',
};

/** Says what the machine does instead, and what to do about it. */
export function notRunning(row: Row): CarrelError {
  const doing = row.activity === null ? row.state : row.activity;
  return new CarrelError('wrong_state', `machine ${row.name} is ${doing}`, {
    hint:
      row.activity === null
        ? hints[row.state](row.name)
        : `wait until that is done: carrel machine show ${row.name}, or GET ...?gen=N&wait=30`,
    details: { state: row.state, activity: row.activity },
  });
}
