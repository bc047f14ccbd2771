/** What is done inside a running machine: programs, terminals, files, figures. The caller has checked who may. */
import { CarrelError } from '#base/errors.ts';
import type { Actor } from '#base/actor.ts';
import { formatSize } from '#base/units.ts';
import type { Inspection, RunReply, RunRequest, Stats } from '#contract/schemas/machines.ts';
import { insertEvent } from '#store/events.ts';
import { type Machine as Row, selectMachine } from '#store/machines.ts';
import { type Cloud, driverFor, runningOf, specOf } from './cloud.ts';
import { type Capability, type FileRead, requireCapability, type RunningMachine } from './driver.ts';
import { eventOf } from './events.ts';
import { wake } from './idle.ts';
import { activityOf } from './rows.ts';
import { isAnswering } from './state.ts';

/** A file travels whole, through memory: the same for reading and writing. */
export const maxFileBytes = 64 * 2 ** 20;

export interface Inside {
  run(id: string, request: RunRequest, options?: { signal?: AbortSignal }): Promise<RunReply>;
  readFile(id: string, path: string): Promise<FileRead>;
  writeFile(id: string, path: string, bytes: Uint8Array, options?: { mode?: number }): Promise<void>;
  stats(id: string): Promise<Stats>;
  /** Of its last run, also when it has ended. */
  inspect(id: string): Promise<Inspection>;
  /** root's new password: nothing else knows it afterwards but the machine. */
  resetPassword(actor: Actor, id: string): Promise<string>;
}

export function openInside(cloud: Cloud): Inside {
  return {
    async run(id, request, options) {
      using _work = cloud.idleness.atWork(id);
      const machine = await answering(cloud, id, 'run');
      return await machine.run(request, options);
    },
    async readFile(id, path) {
      using _work = cloud.idleness.atWork(id);
      const machine = await answering(cloud, id, 'files');
      return await machine.readFile(path, { maxBytes: maxFileBytes });
    },
    async writeFile(id, path, bytes, { mode = 0o644 } = {}) {
      if (bytes.length > maxFileBytes)
        throw new CarrelError('too_large', `a file may have ${formatSize(maxFileBytes)}`, {
          details: { maxBytes: maxFileBytes },
        });
      using _work = cloud.idleness.atWork(id);
      const machine = await answering(cloud, id, 'files');
      await machine.writeFile(path, bytes, { mode });
    },
    async resetPassword(actor, id) {
      using _work = cloud.idleness.atWork(id);
      const row = await selectMachine(cloud.db, id);
      const machine = await answering(cloud, id, 'password');
      const password = await machine.resetPassword();
      await insertEvent(cloud.db, eventOf(row, 'machine.password_changed', {}, actor.id));
      return password;
    },
    async inspect(id) {
      const row = await selectMachine(cloud.db, id);
      const driver = driverFor(cloud, row);
      requireCapability(driver, 'inspect');
      if (!driver.inspect) throw new CarrelError('internal', `driver ${driver.name} does not inspect`);
      return driver.inspect(await specOf(cloud, row));
    },
    async stats(id) {
      const row = await selectMachine(cloud.db, id);
      requireCapability(driverFor(cloud, row), 'stats');
      if (row.state !== 'running' && row.state !== 'paused') throw notRunning(row);
      return (await runningOf(cloud, row)).stats();
    },
  };
}

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
