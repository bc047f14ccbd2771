/**
 * Limits as files: what to write where, for v1 and for v2. Pure.
 */
import { join } from 'node:path';
import type { Counter } from '../plan.ts';
import type { CgroupLayout, Controller } from './layout.ts';

export interface GroupLimits {
  readonly memoryBytes?: number;
  readonly processes?: number;
  /** Processors, as a fraction: 0.5 is half of one. */
  readonly cpus?: number;
  /** Share under contention, 1 to 10000, 100 is normal: the scale of v2. */
  readonly cpuWeight?: number;
  /** Out of memory, all of it is killed and not the largest process only. v2; v1 cannot. */
  readonly diesTogether?: boolean;
}

export interface FileWrite {
  readonly path: string;
  readonly text: string;
  /** Not every kernel has it (swap accounting): its absence is no failure. */
  readonly optional?: boolean;
}

const periodUs = 100_000;
const text = (value: number): string => String(Math.round(value));

/** v2 weight (1..10000, 100) to v1 shares (2..262144, 1024): the kernel's own ratio at the default. */
export const sharesOf = (weight: number): number =>
  Math.min(262_144, Math.max(2, Math.round((weight * 1024) / 100)));

/** The directory of a group in the controller's hierarchy. */
export function groupDirectory(
  layout: CgroupLayout,
  controller: Controller,
  path: string,
): string | undefined {
  const hierarchy = layout.where[controller];
  return hierarchy && join(hierarchy.mount, path);
}

/** All directories of a group, each once, v1 and v2. */
export function groupDirectories(
  layout: CgroupLayout,
  path: string,
  wanted: readonly Controller[],
): string[] {
  const found = wanted.map((controller) => groupDirectory(layout, controller, path));
  return [...new Set(found.filter((directory) => directory !== undefined))];
}

function memoryWrites(layout: CgroupLayout, path: string, bytes: number, before: number): FileWrite[] {
  const directory = groupDirectory(layout, 'memory', path);
  if (!directory) return [];
  if (layout.where.memory?.version === 2)
    return [
      { path: join(directory, 'memory.max'), text: text(bytes) },
      { path: join(directory, 'memory.swap.max'), text: '0', optional: true },
    ];
  const limit: FileWrite = { path: join(directory, 'memory.limit_in_bytes'), text: text(bytes) };
  const withSwap: FileWrite = {
    path: join(directory, 'memory.memsw.limit_in_bytes'),
    text: text(bytes),
    optional: true,
  };
  // memory + swap may never be less than memory: which one goes first depends on the direction
  return bytes > before ? [withSwap, limit] : [limit, withSwap];
}

function cpuWrites(layout: CgroupLayout, path: string, { cpus, cpuWeight }: GroupLimits): FileWrite[] {
  const directory = groupDirectory(layout, 'cpu', path);
  if (!directory) return [];
  const v2 = layout.where.cpu?.version === 2;
  const writes: FileWrite[] = [];
  if (cpus !== undefined)
    writes.push(
      ...(v2
        ? [{ path: join(directory, 'cpu.max'), text: `${text(cpus * periodUs)} ${periodUs}` }]
        : [
            { path: join(directory, 'cpu.cfs_period_us'), text: text(periodUs) },
            { path: join(directory, 'cpu.cfs_quota_us'), text: text(cpus * periodUs) },
          ]),
    );
  if (cpuWeight !== undefined)
    writes.push(
      v2
        ? { path: join(directory, 'cpu.weight'), text: text(cpuWeight) }
        : { path: join(directory, 'cpu.shares'), text: text(sharesOf(cpuWeight)) },
    );
  return writes;
}

/** What to write to bring the group from the limits `before` to `limits`. */
export function limitWrites(
  layout: CgroupLayout,
  path: string,
  limits: GroupLimits,
  before: GroupLimits = {},
): FileWrite[] {
  const writes: FileWrite[] = [];
  // a new group has no limit, so from there every change is downwards
  if (limits.memoryBytes !== undefined && limits.memoryBytes !== before.memoryBytes)
    writes.push(...memoryWrites(layout, path, limits.memoryBytes, before.memoryBytes ?? Infinity));
  const pids = groupDirectory(layout, 'pids', path);
  if (pids && limits.processes !== undefined && limits.processes !== before.processes)
    writes.push({ path: join(pids, 'pids.max'), text: text(limits.processes) });
  const memory = groupDirectory(layout, 'memory', path);
  if (memory && layout.where.memory?.version === 2 && limits.diesTogether && !before.diesTogether)
    writes.push({ path: join(memory, 'memory.oom.group'), text: '1', optional: true });
  return [...writes, ...cpuWrites(layout, path, limits)];
}

/** Those limits that are not in a hierarchy of this version. */
export function limitsOutside(layout: CgroupLayout, version: 1 | 2, limits: GroupLimits): GroupLimits {
  const { where } = layout;
  const { memoryBytes, processes, cpus, cpuWeight, diesTogether } = limits;
  return {
    ...(where.memory?.version === version || memoryBytes === undefined ? {} : { memoryBytes }),
    ...(where.memory?.version === version || diesTogether === undefined ? {} : { diesTogether }),
    ...(where.pids?.version === version || processes === undefined ? {} : { processes }),
    ...(where.cpu?.version === version || cpus === undefined ? {} : { cpus }),
    ...(where.cpu?.version === version || cpuWeight === undefined ? {} : { cpuWeight }),
  };
}

/** The files that tell the usage of a group. */
export function usageCounters(layout: CgroupLayout, path: string): Counter[] {
  const counters: Counter[] = [];
  const cpu = groupDirectory(layout, 'cpuacct', path);
  if (cpu)
    counters.push(
      layout.where.cpuacct?.version === 2
        ? { name: 'cpu', path: join(cpu, 'cpu.stat'), key: 'usage_usec', scale: 1000 }
        : { name: 'cpu', path: join(cpu, 'cpuacct.usage') },
    );
  const memory = groupDirectory(layout, 'memory', path);
  if (memory && layout.where.memory?.version === 2)
    counters.push(
      { name: 'memory', path: join(memory, 'memory.peak') },
      { name: 'oom', path: join(memory, 'memory.events'), key: 'oom_kill' },
    );
  else if (memory)
    counters.push(
      { name: 'memory', path: join(memory, 'memory.max_usage_in_bytes') },
      { name: 'oom', path: join(memory, 'memory.oom_control'), key: 'oom_kill' },
    );
  const pids = groupDirectory(layout, 'pids', path);
  if (pids) counters.push({ name: 'processes', path: join(pids, 'pids.peak') });
  return counters;
}

/** Peaks that can be set back: memory on v1. On v2 a peak is the group's life's: see `Group.renew`. */
export function resettable(layout: CgroupLayout, counters: readonly Counter[]): string[] {
  return layout.where.memory?.version === 1
    ? counters.filter(({ name }) => name === 'memory').map(({ path }) => path)
    : [];
}
