/** Where each cgroup controller lives: v1, v2, or nowhere. Hybrids exist, so it is asked for each (cgroups(7)). */
import { access, constants, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mountsOf, type Mount } from '../mounts.ts';
import type { Finding, Probe } from './finding.ts';

const wanted = [
  {
    name: 'cpu',
    consequence: 'shares and limits of processor time',
    without: 'a busy machine slows the others down',
  },
  {
    name: 'memory',
    consequence: 'memory limits that count all processes together',
    without: 'memory is limited per process only',
  },
  {
    name: 'pids',
    consequence: 'limits on the number of processes',
    without: 'a fork bomb is stopped by rlimits only',
  },
  { name: 'cpuset', consequence: 'machines pinned to cores', without: 'no pinning' },
  { name: 'io', consequence: 'limits on disk traffic', without: 'a machine can take the whole disk' },
  { name: 'freezer', consequence: 'pause and resume', without: 'machines cannot be paused' },
] as const;
export type ControllerName = (typeof wanted)[number]['name'];

export interface ControllerPlace {
  readonly name: ControllerName;
  readonly version: 'v1' | 'v2' | 'absent';
  readonly path: string | null;
}

/** What a controller is called in v1, where the name differs. */
const v1Names: Readonly<Partial<Record<ControllerName, string>>> = { io: 'blkio' };

/**
 * Finds each controller from the mounts and, for v2, from its cgroup.controllers. A controller that is bound to a
 * v1 hierarchy is not in v2. The v2 freezer needs no controller: cgroup.freeze is in every v2 group.
 */
export function locateControllers(
  mounts: readonly Mount[],
  v2Controllers: (path: string) => string,
): ControllerPlace[] {
  const v1 = mounts.filter(({ type }) => type === 'cgroup');
  const v2 = mounts.filter(({ type }) => type === 'cgroup2');
  return wanted.map(({ name }) => {
    const old = v1.find(({ superOptions }) => superOptions.includes(v1Names[name] ?? name));
    if (old) return { name, version: 'v1', path: old.path };
    const unified = v2.find(
      ({ path }) => name === 'freezer' || v2Controllers(path).trim().split(/\s+/).includes(name),
    );
    return unified ? { name, version: 'v2', path: unified.path } : { name, version: 'absent', path: null };
  });
}

async function findingOf({ name, version, path }: ControllerPlace, root: boolean): Promise<Finding> {
  const words = wanted.find((entry) => entry.name === name);
  const base = { id: `cgroup.${name}`, title: `cgroup ${name}` };
  if (path === null)
    return {
      ...base,
      state: 'degraded',
      found: 'absent',
      consequence: words?.without ?? '',
      remedy: 'boot with systemd, or mount the controller',
    };
  const writable = await access(path, constants.W_OK).then(
    () => true,
    () => false,
  );
  if (!writable)
    return {
      ...base,
      state: 'degraded',
      found: `${version}, not writable`,
      consequence: words?.without ?? '',
      remedy: root ? 'mount it writable' : 'run as root, or have a part of it delegated',
    };
  return { ...base, state: 'ok', found: `${version} at ${path}`, consequence: words?.consequence ?? '' };
}

export const cgroups: Probe = {
  topic: 'limits',
  async run({ root }) {
    const mounts = mountsOf();
    const lists = new Map<string, string>();
    for (const { type, path } of mounts)
      if (type === 'cgroup2')
        lists.set(path, await readFile(join(path, 'cgroup.controllers'), 'utf8').catch(() => ''));
    const places = locateControllers(mounts, (path) => lists.get(path) ?? '');
    return await Promise.all(places.map((place) => findingOf(place, root)));
  },
};
