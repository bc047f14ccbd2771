/**
 * What the activities do to the world. Every step looks first and then acts, so each can be cut off by a
 * kill -9 at any point and be done again from the start by the next attempt.
 */
import { unlessAborted } from '#base/deadline.ts';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import type { Activity } from '#contract/schemas/machines.ts';
import type { Machine as Row } from '#store/machines.ts';
import { type Cloud, driverFor, specOf } from './cloud.ts';
import type { Driver, MachineSpec, RunningMachine } from './driver.ts';
import {
  changeSnapshot,
  type Machinery,
  prepareDisk,
  present,
  restoreSnapshot,
  type Settle,
  undoSnapshots,
} from './disk.ts';
import { holdOutputs } from './outputs.ts';
import { configOf } from './rows.ts';

export interface WorkContext {
  readonly signal: AbortSignal;
  readonly step: (name: string) => void;
}

export interface WorkOptions {
  readonly graceMs?: number | undefined;
  /** Of work at a snapshot. */
  readonly snapshotId?: string | undefined;
  /** A machine that is started and has not answered by then runs all the same; `silent` is told. */
  readonly patience?: Patience | undefined;
}

interface Patience {
  readonly limitMs: number;
  readonly silent: () => void;
}

/** What has come of an activity. */
export interface Outcome {
  readonly running?: RunningMachine | undefined;
  /** Written in the transaction that ends the activity. */
  readonly settle?: Settle;
}

/**
 * How long a machine may take until it answers its first command, by what its processor is. A loaded host is slow, not
 * broken; where processors are emulated, many that boot at once share what it has. Cloud images of distributions set
 * themselves up at their first boot, which under emulation takes more than a minute.
 */
const readyLimitMs = { own: 30_000, kvm: 90_000, tcg: 300_000 } as const;

interface Scene extends WorkContext, Machinery {}

/** Does what an activity stands for. */
export async function perform(
  cloud: Cloud,
  row: Row,
  activity: Activity,
  context: WorkContext,
  { graceMs = 5000, snapshotId, patience }: WorkOptions = {},
): Promise<Outcome> {
  const machinery = await machineryOf(cloud, row);
  const scene: Scene = { ...context, ...machinery };
  switch (activity) {
    case 'creating':
      return { running: await create(scene, configOf(row).start) };
    case 'starting':
      if (row.state === 'failed') await stop(scene, 0); // what is left of it, even out of reach
      return { running: await start(scene, patience) };
    case 'stopping':
      await stop(scene, graceMs);
      return {};
    case 'restarting':
      await stop(scene, graceMs);
      return { running: await start(scene) };
    case 'pausing':
    case 'resuming':
      return { running: await freeze(scene, activity === 'pausing') };
    case 'deleting':
      await stop(scene, 0);
      scene.step('remove disk');
      await scene.driver.remove(scene.spec);
      return {};
    case 'snapshotting':
      scene.step('work at a snapshot');
      return { settle: await changeSnapshot(scene, snapshotId) };
    case 'restoring':
      await stop(scene, 0);
      scene.step('restore disk');
      await restoreSnapshot(scene, snapshotId);
      return row.state === 'running' ? { running: await start(scene) } : {};
    default:
      throw new CarrelError('internal', `no work is known for ${String(activity)}`);
  }
}

/** After a failed attempt that was the last: no process, no link; the disk stays where it is of use. */
export async function undo(cloud: Cloud, row: Row, activity: Activity): Promise<void> {
  const machinery = await machineryOf(cloud, row);
  const { driver, spec } = machinery;
  if (activity === 'pausing' || activity === 'resuming') return;
  if (activity === 'snapshotting') {
    await undoSnapshots(machinery);
    return;
  }
  await endAll(cloud, driver, spec, 0);
  if (activity === 'creating') await driver.remove(spec);
  else await driver.tidy(spec);
}

async function machineryOf(cloud: Cloud, row: Row): Promise<Machinery> {
  return { cloud, row, driver: driverFor(cloud, row), spec: await specOf(cloud, row) };
}

async function create(scene: Scene, startIt: boolean): Promise<RunningMachine | undefined> {
  const { row, driver, spec, signal } = scene;
  const earlier = await driver.adopt(spec); // an attempt that got as far as this
  if (earlier) return ready(scene, earlier);
  scene.step(configOf(row).source ? 'copy disk' : 'clone image');
  await prepareDisk(scene, signal, { starting: startIt });
  signal.throwIfAborted();
  return startIt ? start(scene) : undefined;
}

async function start(scene: Scene, patience?: Patience): Promise<RunningMachine> {
  const { row, driver, spec, cloud, signal } = scene;
  const living = cloud.living.get(spec.id);
  if (living) return ready(scene, living);
  // a copy that failed before it had a disk
  if (row.activity !== 'creating' && configOf(row).source) await prepareDisk(scene, signal);
  scene.step('start');
  signal.throwIfAborted();
  return ready(scene, await driver.start(spec), patience);
}

async function ready(scene: Scene, machine: RunningMachine, patience?: Patience): Promise<RunningMachine> {
  const { cloud, spec, signal } = scene;
  scene.step('wait until it answers');
  try {
    const limitMs = patience?.limitMs ?? readyLimitMs[machine.runtime.accelerator ?? 'own'];
    // what boots for minutes is not waited for when somebody wants it gone
    await unlessAborted(signal, machine.ready({ limitMs })).catch((error: unknown) => {
      if (!patience || !isCarrelError(error, 'deadline_exceeded')) throw error;
      patience.silent();
    });
  } catch (error) {
    if (cloud.living.get(spec.id) !== machine) machine.release(); // the next attempt, or the undoing, adopts it
    throw error;
  }
  cloud.living.hold(spec.id, machine);
  return machine;
}

async function stop(scene: Scene, graceMs: number): Promise<undefined> {
  const { driver, spec, cloud, row } = scene;
  scene.step(graceMs > 0 ? 'shut down' : 'power off');
  const answers = row.state === 'running' && !row.asleep && driver.capabilities.exec;
  using _outputs = graceMs > 0 && answers ? await holdOutputs(cloud, driver, spec) : undefined;
  await endAll(cloud, driver, spec, graceMs);
  await driver.tidy(spec);
  return undefined;
}

/** Orderly if it can be reached, else by force; nothing happens if nothing of it runs. */
export async function endAll(
  cloud: Cloud,
  driver: Driver,
  spec: MachineSpec,
  graceMs: number,
): Promise<void> {
  let machine: RunningMachine | undefined;
  try {
    machine = cloud.living.take(spec.id) ?? (await driver.adopt(spec));
    await machine?.stop({ graceMs });
  } catch (error) {
    cloud.log.warn('a machine is ended by force', { machine: spec.id, error: messageOf(error) });
    await driver.kill(spec);
  } finally {
    machine?.release();
  }
}

async function freeze(scene: Scene, freeze: boolean): Promise<RunningMachine> {
  const machine = await present(scene);
  if (!machine) throw new CarrelError('internal', `machine ${scene.spec.name} has no processes by its row`);
  await (freeze ? machine.pause() : machine.resume());
  return machine;
}
