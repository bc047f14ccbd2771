/**
 * Control groups of one Carrel: directories made and removed, limits written, usage read. In each hierarchy
 * `carrel-<instance>/slots/<n>` and `carrel-<instance>/machines/<id>`.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CarrelError, errnoOf, messageOf } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { enableControllers } from './enable.ts';
import { controllers, type CgroupLayout, type Controller } from './layout.ts';
import {
  groupDirectories,
  groupDirectory,
  limitsOutside,
  limitWrites,
  usageCounters,
  type FileWrite,
  type GroupLimits,
} from './limits.ts';
import type { Counter } from '../plan.ts';

/** A dying process leaves its group a moment after it has been waited for. */
const removeMs = 5000;

export interface GroupUsage {
  readonly cpuMs: number | null;
  readonly memoryBytes: number | null;
  readonly peakMemoryBytes: number | null;
  readonly processes: number | null;
  readonly oomKills: number;
}

export interface Group {
  readonly path: string;
  /** The v1 files a process id is written to. */
  readonly v1Procs: readonly string[];
  /** The v2 directory, if a wanted controller lives there. */
  readonly v2Directory: string | undefined;
  readonly counters: readonly Counter[];
  limit(limits: GroupLimits): void;
  usage(): GroupUsage;
  /**
   * What v2 counts, it counts for the life of the group (memory.peak, pids.peak): an empty group in its place
   * starts from nothing, without limits. Nothing happens on v1, where the peaks can be set back.
   */
  renew(): Promise<void>;
  /** Stops every process of the group, or lets them go on. */
  freeze(frozen: boolean): Promise<void>;
  remove(): Promise<void>;
}

export const instanceGroup = (instance: string): string => `carrel-${instance}`;

/** Without those for files that this kernel does not have, and need not have. */
export function presentWrites(writes: readonly FileWrite[]): FileWrite[] {
  return writes.filter(({ path, optional }) => !optional || existsSync(path));
}

function makeDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw new CarrelError('host_unsupported', `Cannot make the control group ${path}: ${messageOf(error)}`, {
      hint: 'run as root, with the control groups mounted for writing',
      cause: error,
    });
  }
}

export function applyWrites(writes: readonly FileWrite[]): void {
  for (const { path, text } of presentWrites(writes)) {
    try {
      writeFileSync(path, text);
    } catch (error) {
      throw new CarrelError('internal', `Cannot set ${path} to ${text}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }
}

export function readValue(path: string, key?: string): number | null {
  let content: string;
  try {
    content = readFileSync(path, 'utf8');
  } catch {
    return null;
  }
  const match = key ? new RegExp(`^${key} (\\d+)`, 'm').exec(content)?.[1] : content.trim();
  const value = match === undefined || match === '' ? Number.NaN : Number(match);
  return Number.isFinite(value) ? value : null;
}

export interface GroupOptions {
  /** Which controllers it takes part in. */
  readonly wanted?: readonly Controller[];
}

export function createGroup(
  layout: CgroupLayout,
  path: string,
  { wanted = controllers }: GroupOptions = {},
): Group {
  const directories = groupDirectories(layout, path, wanted);
  const { unified, where } = layout;
  for (const directory of directories) makeDirectory(dirname(directory));
  const handedDown = (['cpu', 'memory', 'pids'] as const).filter(
    (name) => unified && where[name] === unified,
  );
  if (unified && handedDown.length > 0) enableControllers(unified.mount, path, handedDown);
  for (const directory of directories) makeDirectory(directory);
  const v2Directory = wanted
    .filter((controller) => layout.where[controller]?.version === 2)
    .map((controller) => groupDirectory(layout, controller, path))[0];
  const counters = usageCounters(layout, path).filter((counter) => existsSync(counter.path));
  let current: GroupLimits = {};
  return {
    path,
    v1Procs: directories.filter((directory) => directory !== v2Directory).map((d) => join(d, 'cgroup.procs')),
    v2Directory,
    counters,
    limit: (limits) => {
      applyWrites(limitWrites(layout, path, limits, current));
      current = { ...current, ...limits };
    },
    usage: () => readUsage(layout, path, counters),
    freeze: (frozen) => freeze(layout, path, frozen),
    async renew() {
      if (v2Directory === undefined) return;
      await removeGroups([v2Directory]);
      makeDirectory(v2Directory);
      current = limitsOutside(layout, 2, current);
    },
    remove: () => removeGroups(directories),
  };
}

function readUsage(layout: CgroupLayout, path: string, counters: readonly Counter[]): GroupUsage {
  const value = (name: Counter['name']): number | null => {
    const counter = counters.find((candidate) => candidate.name === name);
    const read = counter && readValue(counter.path, counter.key);
    return read === null || read === undefined ? null : read * (counter?.scale ?? 1);
  };
  const memory = groupDirectory(layout, 'memory', path);
  const pids = groupDirectory(layout, 'pids', path);
  const cpuNs = value('cpu');
  return {
    cpuMs: cpuNs === null ? null : cpuNs / 1e6,
    memoryBytes:
      memory === undefined
        ? null
        : readValue(
            join(memory, layout.where.memory?.version === 2 ? 'memory.current' : 'memory.usage_in_bytes'),
          ),
    peakMemoryBytes: value('memory'),
    processes: pids === undefined ? null : readValue(join(pids, 'pids.current')),
    oomKills: value('oom') ?? 0,
  };
}

async function freeze(layout: CgroupLayout, path: string, frozen: boolean): Promise<void> {
  const directory = groupDirectory(layout, 'freezer', path);
  if (!directory)
    throw new CarrelError('host_unsupported', 'This host has no freezer: a machine cannot be paused', {
      hint: 'mount the freezer controller, or cgroup v2',
    });
  if (layout.where.freezer?.version === 2) {
    writeFileSync(join(directory, 'cgroup.freeze'), frozen ? '1' : '0');
    const wanted = frozen ? 1 : 0;
    await until(removeMs, `${path} to freeze`, () =>
      readValue(join(directory, 'cgroup.events'), 'frozen') === wanted ? true : undefined,
    );
    return;
  }
  const state = join(directory, 'freezer.state');
  const wanted = frozen ? 'FROZEN' : 'THAWED';
  // v1 may stay FREEZING while a process sleeps in the kernel: written again until it holds
  await until(removeMs, `${path} to be ${wanted}`, () => {
    writeFileSync(state, wanted);
    return readFileSync(state, 'utf8').trim() === wanted ? true : undefined;
  });
}

function removeTree(directory: string): boolean {
  if (!existsSync(directory)) return true;
  for (const entry of readdirSync(directory, { withFileTypes: true }))
    if (entry.isDirectory() && !removeTree(join(directory, entry.name))) return false;
  try {
    rmdirSync(directory);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return true;
    if (errnoOf(error) === 'EBUSY' || errnoOf(error) === 'ENOTEMPTY') return false;
    throw error;
  }
}

/** Removes groups with all they contain (guests make groups of their own); waits for processes that are dying. */
export async function removeGroups(directories: readonly string[]): Promise<void> {
  for (const directory of directories)
    await until(
      removeMs,
      `the processes of ${directory} to end`,
      () => (removeTree(directory) ? true : undefined),
      {
        everyMs: 2,
      },
    );
}

/** Processes of other pid namespaces have no number here, and are shown as 0, which kill(2) takes for ourselves. */
function processesIn(directory: string): number[] {
  try {
    const below = readdirSync(directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .flatMap((entry) => processesIn(join(directory, entry.name)));
    const own = readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n').map(Number);
    return [...own.filter((pid) => pid > 0), ...below];
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENODEV') return []; // removed meanwhile
    throw error;
  }
}

/** Each group is frozen on its own, those below too (a paused machine), and v1 delivers no signal to the frozen. */
function thawTree(directory: string, v2: boolean): void {
  applyWrites([
    v2
      ? { path: join(directory, 'cgroup.freeze'), text: '0', optional: true }
      : { path: join(directory, 'freezer.state'), text: 'THAWED', optional: true },
  ]);
  for (const entry of readdirSync(directory, { withFileTypes: true }))
    if (entry.isDirectory()) thawTree(join(directory, entry.name), v2);
}

/**
 * What an earlier daemon of this instance left below `path` (`slots`, or one machine): every process in it is
 * killed and the groups are removed. Control groups are the list of what was ours; names would be guesses.
 */
export async function sweepGroups(layout: CgroupLayout, path: string): Promise<void> {
  const directories = groupDirectories(layout, path, controllers);
  const freezer = groupDirectory(layout, 'freezer', path);
  if (freezer && existsSync(freezer)) thawTree(freezer, layout.where.freezer?.version === 2);
  // v2 kills a whole tree in one go, however fast it forks
  applyWrites(
    directories.map((directory) => ({ path: join(directory, 'cgroup.kill'), text: '1', optional: true })),
  );
  const end = performance.now() + removeMs;
  for (;;) {
    const pids = new Set(directories.flatMap(processesIn));
    for (const pid of pids)
      try {
        process.kill(pid, 'SIGKILL');
      } catch (error) {
        if (errnoOf(error) !== 'ESRCH') throw error;
      }
    if (!pids.size || performance.now() > end) break;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await removeGroups(directories);
  for (const directory of directories) pruneParents(directory, path.split('/').length - 1);
}

/** Removes the groups above, as long as they are empty: nothing is left of an instance that has ended. */
function pruneParents(directory: string, levels: number): void {
  let parent = dirname(directory);
  for (let level = 0; level < levels; level += 1, parent = dirname(parent))
    try {
      rmdirSync(parent);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') return; // others are in it
    }
}
