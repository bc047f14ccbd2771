/** What the drivers share whose machines hang off a keeper: reaching it, its end, and what is left on the host. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { until, within } from '#base/deadline.ts';
import { errnoOf, isCarrelError } from '#base/errors.ts';
import { isLocked, readLockNote } from '#host/flock.ts';
import { signalProcess } from '#host/processes.ts';
import { removeTree } from '#host/trees.ts';
import { instanceGroup } from '#isolate/cgroups/group.ts';
import { type CgroupLayout, controllers, readCgroupLayout } from '#isolate/cgroups/layout.ts';
import { groupDirectories, groupDirectory } from '#isolate/cgroups/limits.ts';
import { type Kept, keptPaths, readExitReport, releaseMachine } from '#isolate/kept.ts';
import type { ExitReport } from '#isolate/live.ts';
import type { EndReport, MachineSpec } from '../driver.ts';
import type { DriverHost } from './table.ts';
import { endOf } from './terminal.ts';

/** A keeper has nothing to do but answer; a loaded host may be slow. */
const reachMs = 5000;
/** After the first process has ended the keeper writes its report, unmounts and goes. */
const keeperEndMs = 10_000;
/** The same, when it was found to answer no more. */
const endingMs = 1000;
/** A keeper that has not gone this long after its machine was killed does not go by itself. */
const keeperGraceMs = 2000;

type Place = Pick<MachineSpec, 'id' | 'directory'>;

/**
 * The machine's keeper, by `adopt`, or undefined. One that hangs is out of reach, like one whose socket is gone; one
 * that is about to end has ended.
 */
export async function reach<K extends Kept>(
  { directory, name }: Pick<MachineSpec, 'directory' | 'name'>,
  adopt: (directory: string) => Promise<K | undefined>,
): Promise<K | undefined> {
  const pending = adopt(directory);
  try {
    return await within(reachMs, `the keeper of machine ${name}`, pending);
  } catch (error) {
    void pending.then(
      (late) => late?.close(),
      () => undefined,
    );
    if (await isEnding(directory)) return undefined;
    throw error;
  }
}

/** Is the keeper gone in a moment? Then it was no use to try to speak with what it kept. */
export async function isEnding(directory: string): Promise<boolean> {
  try {
    await keeperEnd(directory, endingMs);
    return true;
  } catch (error) {
    if (!isCarrelError(error, 'deadline_exceeded')) throw error;
    return false;
  }
}

/** Resolves when the machine's first process has ended; rejects when the keeper is let go. */
export function endReport(keeper: Kept): Promise<EndReport> {
  const ended = keeper.ended().then(reportOf);
  ended.catch(() => undefined); // let go of: then nobody need be waiting
  return ended;
}

/** How the last run ended, by what its keeper wrote down. */
export function lastEnd(directory: string): EndReport {
  return reportOf(readExitReport(keptPaths(directory).report));
}

function reportOf(report: ExitReport | undefined): EndReport {
  if (!report || report.killed === 'lost') return { end: null, outOfMemory: false };
  return { end: endOf(report), outOfMemory: report.signal === 'SIGKILL' && report.oomKills > 0 };
}

/**
 * Ends a machine whose keeper does not answer: its control groups say which processes are its own. With its first
 * process gone the keeper ends by itself.
 */
export async function killKept({ id, directory }: Place, { instance }: DriverHost): Promise<void> {
  await releaseMachine(instance, id);
  try {
    await keeperEnd(directory, keeperGraceMs);
  } catch (error) {
    if (!isCarrelError(error, 'deadline_exceeded')) throw error;
    // it hangs, or was stopped: its lock tells who it is
    const [pid = '', startTime = ''] = (readLockNote(keptPaths(directory).lock) ?? '').trim().split(' ');
    if (/^\d+$/.test(pid) && /^\d+$/.test(startTime))
      signalProcess({ pid: Number(pid), startTime }, 'SIGKILL');
    await keeperEnd(directory);
  }
}

/** Waits for the keeper to be gone: then the machine may be started again. */
export async function keeperEnd(directory: string, ms = keeperEndMs): Promise<void> {
  const { lock } = keptPaths(directory);
  await until(ms, 'the keeper to end', () => (isLocked(lock) ? undefined : true), { everyMs: 2 });
}

/** The link and the control groups, with whatever is in them. */
export async function tidyKept(
  { id }: Pick<MachineSpec, 'id'>,
  { fabric, instance }: DriverHost,
): Promise<void> {
  await Promise.all([fabric.unplug(id), releaseMachine(instance, id)]);
}

/** The machine's directory, and its hold on the image. The machine is stopped and tidied. */
export async function removeDirectory(
  { directory, image }: Pick<MachineSpec, 'directory' | 'image'>,
  { images }: DriverHost,
): Promise<void> {
  await removeTree(directory);
  await images.release(image, directory);
}

/** In the directory of a machine that lives no longer than the process that made it: held by that one. */
export const makerLock = (directory: string): string => join(directory, 'maker.lock');

/** Ids of machines of which there is a directory or a control group, without those that somebody is at work with. */
export function tracesOf({ directory, instance }: DriverHost): Set<string> {
  const places = groupDirectories(readCgroupLayout(), `${instanceGroup(instance)}/machines`, controllers);
  const groups = places.flatMap((place) =>
    existsSync(place)
      ? readdirSync(place, { withFileTypes: true }).flatMap((entry) =>
          entry.isDirectory() ? entry.name : [],
        )
      : [],
  );
  const all = new Set([...(existsSync(directory) ? readdirSync(directory) : []), ...groups]);
  for (const id of all) if (isLocked(makerLock(join(directory, id)))) all.delete(id);
  return all;
}

/** Is the control group frozen? freezer.state of v1 (also while it is FREEZING), cgroup.freeze of v2. */
export function isFrozen(layout: CgroupLayout, path: string): boolean {
  const directory = groupDirectory(layout, 'freezer', path);
  if (directory === undefined) return false;
  const file = layout.where.freezer?.version === 2 ? 'cgroup.freeze' : 'freezer.state';
  try {
    return !['0', 'THAWED'].includes(readFileSync(join(directory, file), 'utf8').trim());
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}
