/**
 * A machine's first process under a keeper of its own: it outlives us, is found again, and never runs twice. What
 * that process is (the init of a container, QEMU) is the plan's business.
 *
 * In the machine's directory: `keeper.sock` (control and console), `lock` (held while the keeper lives),
 * `init.json` (who the process is, and later how it ended), `console.ring` (what it wrote to its terminal).
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { within } from '#base/deadline.ts';
import { isLocked } from '#host/flock.ts';
import { statOf } from '#host/processes.ts';
import { createGroup, type Group, instanceGroup, sweepGroups } from './cgroups/group.ts';
import { type CgroupLayout, readCgroupLayout } from './cgroups/layout.ts';
import type { GroupLimits } from './cgroups/limits.ts';
import { attach, type Exec, exitReport, type ExitReport, startLive } from './live.ts';
import { reportSchema, runningSchema } from './messages.ts';
import { op, type Operation } from './plan.ts';
import type { ForkServer } from './server.ts';

export interface KeptSpec {
  readonly id: string;
  readonly directory: string;
  readonly limits: GroupLimits;
  /** Begins with `keptOperations`. */
  readonly plan: (group: Group) => readonly Operation[];
  /** At the plan's `sync`, while the process waits. */
  readonly onCloned?: (pid: number) => Promise<void>;
  /** Open descriptors for `op.descriptor`; they stay the caller's to close. */
  readonly fds?: readonly number[];
}

export interface Kept {
  /** As the host sees it. */
  readonly initPid: number;
  readonly initStartTime: string;
  /** The machine's console: live output, input, resize. */
  readonly console: Exec;
  kill(): Promise<void>;
  ended(): Promise<ExitReport>;
  /** Lets go; the machine goes on. */
  close(): void;
}

export interface KeptOptions {
  /** Eight hexadecimal digits that tell this data directory's control groups from another's. */
  readonly instance: string;
  readonly layout?: CgroupLayout;
}

/** Kept of the beginning, and of the end, of what a kept process writes. */
export const recordBytes = 1 << 20;
const endMs = 10_000;
const startMs = 60_000;

export function keptPaths(
  directory: string,
): Readonly<Record<'socket' | 'lock' | 'report' | 'console', string>> {
  return {
    socket: join(directory, 'keeper.sock'),
    lock: join(directory, 'lock'),
    report: join(directory, 'init.json'),
    console: join(directory, 'console.ring'),
  };
}

/** How every plan of a machine's first process begins: kept, recorded, in the machine's control groups. */
export function keptOperations(directory: string, group: Group): Operation[] {
  const paths = keptPaths(directory);
  return [
    op.keep(paths.socket, paths.lock, paths.report),
    op.record(paths.console, recordBytes, recordBytes),
    ...groupOperations(group),
  ];
}

/** A process in a machine's control groups; without the operations before these it dies with who started it. */
export function groupOperations(group: Group): Operation[] {
  return [
    ...group.v1Procs.map(op.place),
    ...(group.v2Directory ? [op.cgroup(group.v2Directory)] : []),
    ...group.counters.map(op.counter),
    op.oomAdjust(-1000, 0),
  ];
}

const groupPath = (instance: string, id: string): string => `${instanceGroup(instance)}/machines/${id}`;

/** The machine's control groups: for limits, usage and freezing. */
export function machineGroup(instance: string, id: string, layout: CgroupLayout = readCgroupLayout()): Group {
  return createGroup(layout, groupPath(instance, id));
}

/** Kills whatever is left of a machine and removes its control groups. Nothing happens if there is nothing. */
export async function releaseMachine(
  instance: string,
  id: string,
  layout: CgroupLayout = readCgroupLayout(),
): Promise<void> {
  await sweepGroups(layout, groupPath(instance, id));
}

const lostReport: ExitReport = {
  exit: null,
  signal: null,
  killed: 'lost',
  wallMs: 0,
  cpuMs: 0,
  oomKills: 0,
  execErrno: 0,
};

function parseJsonFile(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** How a kept run ended, from its report file; undefined if it goes on, or never wrote one. */
export function readExitReport(path: string): ExitReport | undefined {
  const parsed = reportSchema.safeParse(parseJsonFile(path));
  return parsed.success ? exitReport(parsed.data) : undefined;
}

function keptOf(directory: string, link: Exec): Kept {
  const { report } = keptPaths(directory);
  if (link.pid === undefined || link.startTime === undefined) throw new CarrelError('internal', 'no init');
  let letGo = false;
  const ended = link.ended.catch((): ExitReport => {
    if (letGo) throw new CarrelError('cancelled', 'The keeper has been let go');
    return readExitReport(report) ?? lostReport;
  });
  ended.catch(() => undefined);
  return {
    initPid: link.pid,
    initStartTime: link.startTime,
    console: link,
    kill: async () => {
      link.kill();
      await within(endMs, 'the machine to end', ended);
    },
    ended: () => ended,
    close: () => {
      letGo = true;
      link.close();
    },
  };
}

/**
 * Starts the plan and returns when its program runs. A second copy is impossible: the keeper holds the lock file of
 * the directory, and fails with `wrong_state` if somebody else does.
 */
export async function startKept(
  server: ForkServer,
  { id, directory, limits, plan, onCloned, fds = [] }: KeptSpec,
  { instance, layout = readCgroupLayout() }: KeptOptions,
): Promise<Kept> {
  if (isLocked(keptPaths(directory).lock)) throw new CarrelError('wrong_state', `Machine ${id} runs already`);
  await releaseMachine(instance, id, layout);
  const group = machineGroup(instance, id, layout);
  group.limit(limits);
  const session = await server.openSession();
  try {
    const starting = startLive(session, plan(group), { kept: true, fds, ...(onCloned ? { onCloned } : {}) });
    return keptOf(directory, await within(startMs, `machine ${id} to start`, starting));
  } catch (error) {
    session.close();
    await releaseMachine(instance, id, layout);
    throw error;
  }
}

/**
 * What an earlier daemon started; undefined if it does not live. The lock decides: it is held as long as the keeper
 * lives, whatever namespace we look from. A living keeper that cannot be reached is an error, never "gone": a second
 * copy would destroy the machine's disk.
 */
export async function adoptKept(directory: string): Promise<Kept | undefined> {
  const paths = keptPaths(directory);
  if (!existsSync(paths.lock) || !isLocked(paths.lock)) return undefined;
  const link = await attach(paths.socket);
  // after the attachment: a keeper that has only just begun writes first who its process is, and answers then
  const record = runningSchema.safeParse(parseJsonFile(paths.report));
  const { pid, startTime } = link;
  const known = record.success && record.data.pid === pid && record.data.start_time === startTime;
  if (pid === undefined || !known || statOf(pid)?.startTime !== startTime) {
    link.close();
    throw new CarrelError(
      'machine_lost',
      `The keeper in ${directory} does not answer for the process it recorded`,
      {
        details: { pid, startTime },
      },
    );
  }
  return keptOf(directory, link);
}
