/**
 * A machine for one piece of work of this process: made, used, removed. Its row says whose it is, so that when
 * this process dies the next reconciliation removes it.
 */
import { CarrelError, messageOf } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { type Activity, type DriverName, type Limits, newLimits } from '#contract/schemas/machines.ts';
import { identify } from '#host/processes.ts';
import { transaction } from '#store/database.ts';
import { selectOptionalImageByName } from '#store/images.ts';
import { type Machine as Row, selectMachine, selectOptionalMachine } from '#store/machines.ts';
import { selectNetworkByName } from '#store/networks.ts';
import { type Cloud, driverFor, driverNamed, specOf } from './cloud.ts';
import { consoleName, type EndReport, type FileRead, type RunningMachine, type Terminal } from './driver.ts';
import { carryOut } from './jobs.ts';
import { imageKindOf } from './image-kinds.ts';
import { insertWhole, limitsFor, type RequireImage } from './requests.ts';
import { changeMachine } from './rows.ts';
import type { WorkOptions } from './work.ts';

export interface FreshOptions {
  readonly image: string;
  readonly driver?: DriverName | undefined;
  /** The account it is made for: the author of the submission. It does not count in his quota. */
  readonly ownerId: string;
  readonly submissionId: string;
  readonly courseId?: string | null;
  readonly labId?: string | null;
  readonly limits?: Partial<Limits>;
  readonly labels?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

export interface FreshMachine extends Pick<
  RunningMachine,
  'process' | 'run' | 'exec' | 'console' | 'readFile' | 'writeFile' | 'stats' | 'ended'
> {
  readonly id: string;
  readonly address: string;
  /** The machine while it is switched on, also when it has just ended; not always the same after a start. */
  running(): RunningMachine | undefined;
  stop(options: { graceMs: number }): Promise<void>;
  /** False: it runs, and has not answered within `limitMs`, whatever became of it. */
  start(options: { limitMs: number; signal: AbortSignal }): Promise<boolean>;
  /** How its last run ended, as its keeper wrote it down. */
  lastEnd(): EndReport;
  /** Its console, on or off. */
  record(): Promise<Terminal>;
  /** See the driver's readDisk; `driver_unsupported` where there is none. */
  readDisk(path: string, options: { maxBytes: number }): Promise<FileRead>;
}

/** Marks the machines made here, for people and for selection. */
export const freshLabel = { purpose: 'grading' } as const;

export async function withFresh<T>(
  cloud: Cloud,
  requireImage: RequireImage,
  options: FreshOptions,
  work: (machine: FreshMachine) => Promise<T>,
): Promise<T> {
  const { signal = new AbortController().signal, labels = {}, driver = 'container' } = options;
  const image = await requireImage(options.image, { kind: imageKindOf[driver] });
  const creator = identify(process.pid);
  if (!creator) throw new CarrelError('internal', 'this process cannot find itself in /proc');
  const name = `grade-${newId('machine').slice(2)}`;
  const limits = limitsFor(newLimits.parse(options.limits ?? {}), image);
  await driverNamed(cloud, driver).validate({ name, limits }, image);
  const network = await selectNetworkByName(cloud.db);
  signal.throwIfAborted();
  const row = await transaction(cloud.db, async (tx) =>
    insertWhole(tx, {
      name,
      ownerId: options.ownerId,
      driver,
      imageId: (await selectOptionalImageByName(tx, image.name))?.id ?? null,
      limits,
      labels: { ...labels, ...freshLabel },
      networkId: network.id,
      bytesPerSecond: null,
      idleFreezeMs: null,
      config: { image: options.image, imageHash: image.hash, start: true, sshKeys: [], ephemeral: creator },
      courseId: options.courseId ?? null,
      labId: options.labId ?? null,
      submissionId: options.submissionId,
    }),
  );
  cloud.fresh.add(row.id);
  try {
    {
      using _lock = await cloud.locks.take(row.id);
      await carryOut(cloud, row, 'creating', { signal, step: () => undefined });
    }
    const machine = cloud.living.get(row.id);
    if (!machine) throw new CarrelError('machine_lost', 'the machine ended as soon as it was made');
    return await work({
      id: row.id,
      address: row.address ?? '',
      ...(await switchable(cloud, row, machine)),
      process: machine.process,
      ended: machine.ended,
      run: (request, runOptions) => machine.run(request, runOptions),
      exec: (id, request) => machine.exec(id, request),
      console: () => machine.console(),
      readFile: (path, readOptions) => machine.readFile(path, readOptions),
      writeFile: (path, bytes, writeOptions) => machine.writeFile(path, bytes, writeOptions),
      stats: () => machine.stats(),
    });
  } finally {
    await removeFresh(cloud, row.id);
    cloud.fresh.delete(row.id);
  }
}

/** Off and on again, by the same work as everybody else's machines, which this process must finish by itself. */
async function switchable(
  cloud: Cloud,
  row: Row,
  made: RunningMachine,
): Promise<Pick<FreshMachine, 'running' | 'stop' | 'start' | 'lastEnd' | 'record' | 'readDisk'>> {
  const { id } = row;
  const driver = driverFor(cloud, row);
  const spec = await specOf(cloud, row);
  let last: RunningMachine | undefined = made;
  const act = async (activity: Activity, signal: AbortSignal, options: WorkOptions): Promise<void> => {
    using _lock = await cloud.locks.take(id, { signal });
    const now = await selectMachine(cloud.db, id);
    const gen = await changeMachine(cloud.db, now, { activity });
    if (gen === undefined) throw new CarrelError('machine_lost', 'the machine was taken away');
    const context = { signal, step: () => undefined };
    await carryOut(cloud, { ...now, gen, activity }, activity, context, options);
  };
  return {
    running: () => last,
    async stop({ graceMs }) {
      last = undefined;
      await act('stopping', new AbortController().signal, { graceMs });
    },
    async start({ limitMs, signal }) {
      let answers = true;
      await act('starting', signal, { patience: { limitMs, silent: () => (answers = false) } });
      last = cloud.living.get(id);
      return answers;
    },
    lastEnd: () => driver.lastEnd(spec),
    record: () => driver.openExec(spec, consoleName),
    async readDisk(path, options) {
      if (driver.readDisk) return driver.readDisk(spec, path, options);
      throw new CarrelError('driver_unsupported', `disks of machines of kind ${driver.name} are not read`);
    },
  };
}

/** Whatever state it is in. A failure is left to the next reconciliation, and does not hide the work's result. */
async function removeFresh(cloud: Cloud, id: string): Promise<void> {
  try {
    using lock = await cloud.locks.take(id);
    const row = await selectOptionalMachine(cloud.db, id);
    if (!row) return;
    const gen = await changeMachine(cloud.db, row, { activity: 'deleting' });
    if (gen === undefined) return;
    await carryOut(cloud, { ...row, gen, activity: 'deleting' }, 'deleting', {
      signal: new AbortController().signal,
      step: () => undefined,
    });
    lock.forget();
  } catch (error) {
    cloud.log.error('a machine used for grading could not be removed yet', {
      machine: id,
      error: messageOf(error),
    });
  }
}
