/** What is done inside a running machine: programs, terminals, files, figures. The caller has checked who may. */
import { CarrelError } from '#base/errors.ts';
import type { Actor } from '#base/actor.ts';
import { formatSize } from '#base/units.ts';
import type { Inspection, RunReply, RunRequest, Stats } from '#contract/schemas/machines.ts';
import { insertEvent } from '#store/events.ts';
import { selectMachine } from '#store/machines.ts';
import { type Cloud, driverFor, runningOf, specOf } from './cloud.ts';
import { type Driver, type FileRead, type MachineSpec, requireCapability } from './driver.ts';
import { eventOf } from './events.ts';
import { answering, notRunning } from './answering.ts';
import { runByStarting } from './run-by-start.ts';

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
      const { runByStart } = driverFor(cloud, await selectMachine(cloud.db, id));
      if (runByStart) return await runByStarting(cloud, runByStart, id, request, options);
      const machine = await answering(cloud, id, 'run');
      return await machine.run(request, options);
    },
    async readFile(id, path) {
      using _work = cloud.idleness.atWork(id);
      const there = await filesInEveryState(cloud, id);
      if (there) return await there.files.read(there.spec, path, { maxBytes: maxFileBytes });
      const machine = await answering(cloud, id, 'files');
      return await machine.readFile(path, { maxBytes: maxFileBytes });
    },
    async writeFile(id, path, bytes, { mode = 0o644 } = {}) {
      if (bytes.length > maxFileBytes)
        throw new CarrelError('too_large', `a file may have ${formatSize(maxFileBytes)}`, {
          details: { maxBytes: maxFileBytes },
        });
      using _work = cloud.idleness.atWork(id);
      const there = await filesInEveryState(cloud, id);
      if (there) return await there.files.write(there.spec, path, bytes, { mode });
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

/** Where a driver reaches them in every state; undefined: only while the machine runs. */
async function filesInEveryState(
  cloud: Cloud,
  id: string,
): Promise<{ files: NonNullable<Driver['files']>; spec: MachineSpec } | undefined> {
  const row = await selectMachine(cloud.db, id);
  const { files } = driverFor(cloud, row);
  if (!files) return undefined;
  // there are none yet, or soon none any more
  if (row.activity === 'creating' || row.activity === 'deleting') throw notRunning(row);
  return { files, spec: await specOf(cloud, row) };
}
