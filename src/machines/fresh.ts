/**
 * A machine for one piece of work of this process: made, used, removed. Its row says whose it is, so that when
 * this process dies the next reconciliation removes it.
 */
import { CarrelError, messageOf } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { type DriverName, type Limits, newLimits } from '#contract/schemas/machines.ts';
import { identify } from '#host/processes.ts';
import { transaction } from '#store/database.ts';
import { selectOptionalImageByName } from '#store/images.ts';
import { selectOptionalMachine } from '#store/machines.ts';
import { selectNetworkByName } from '#store/networks.ts';
import { type Cloud, driverNamed } from './cloud.ts';
import type { RunningMachine } from './driver.ts';
import { carryOut } from './jobs.ts';
import { imageKindOf, insertWhole, limitsFor, type RequireImage } from './requests.ts';
import { changeMachine } from './rows.ts';

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
