/**
 * Version 2 hands controllers down level by level: a group has those that `cgroup.subtree_control` of the group
 * above names, and (but for the root of the hierarchy) a group that hands down may hold no processes itself
 * (cgroups(7), "no internal processes"). In a container's own cgroup namespace what looks like the root is such
 * a group, with the container's processes in it: these then move one level down, as docker-in-docker and systemd
 * do it, and stay there.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CarrelError, errnoOf, messageOf } from '#base/errors.ts';

/** Where the processes of a root that is none go: the name that other software uses too. */
const leaf = 'init';
/** They may fork while they are moved. */
const passes = 20;

const words = (path: string): string[] => readFileSync(path, 'utf8').split(/\s+/).filter(Boolean);

/** The groups above `path`, the mount itself (`''`) first. */
function levelsAbove(path: string): string[] {
  const levels: string[] = [];
  for (let level = dirname(path); level !== '.'; level = dirname(level)) levels.unshift(level);
  return ['', ...levels];
}

/** Moves every process of a group into a group below it. Gives false if some cannot be moved. */
function moveDown(directory: string): boolean {
  const target = join(directory, leaf);
  mkdirSync(target, { recursive: true });
  for (let pass = 0; pass < passes; pass += 1) {
    const pids = words(join(directory, 'cgroup.procs'));
    if (pids.length === 0) return true;
    for (const pid of pids)
      try {
        writeFileSync(join(target, 'cgroup.procs'), pid);
      } catch (error) {
        if (errnoOf(error) !== 'ESRCH') return false; // of another pid namespace (shown as 0), or not ours
      }
  }
  return false;
}

function refused(file: string, names: readonly string[], error: unknown): CarrelError {
  return new CarrelError(
    'host_unsupported',
    `Cannot hand the controllers ${names.join(', ')} down in ${dirname(file)}: ${messageOf(error)}`,
    {
      hint: 'run as root of the host, or in a container or service to which its control groups are delegated (Delegate=yes; docker: --privileged)',
      details: { file, errno: errnoOf(error) ?? null },
      cause: error,
    },
  );
}

/** Makes `names` available in the group `path` below the mount; the groups above exist. */
export function enableControllers(mount: string, path: string, names: readonly string[]): void {
  for (const level of levelsAbove(path)) {
    const directory = join(mount, level);
    const file = join(directory, 'cgroup.subtree_control');
    const enable = (): void => {
      const enabled = new Set(words(file));
      const missing = names.filter((name) => !enabled.has(name));
      if (missing.length > 0) writeFileSync(file, missing.map((name) => `+${name}`).join(' '));
    };
    try {
      try {
        enable();
      } catch (error) {
        if (level !== '' || errnoOf(error) !== 'EBUSY' || !moveDown(directory)) throw error;
        enable();
      }
    } catch (error) {
      throw refused(file, names, error);
    }
  }
}
