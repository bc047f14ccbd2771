/**
 * The census: everything on this host that belongs to one cloud. Taken before and after a test, it shows what
 * dangles: processes, mounts, network namespaces, links, cgroups, loop devices, rules, files.
 *
 * A process belongs to a cloud if its command line, working directory or open files lie in the data
 * directory, or if it sits in one of the cloud's cgroups: a student's process cannot leave those.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdir, readFile, readlink, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { errnoOf } from '#base/errors.ts';
import { workerInstance } from '#server/instances.ts';

const run = promisify(execFile);

export interface Census {
  /** `pid comm: why it is the cloud's`. */
  readonly processes: readonly string[];
  /** Mounts in this namespace with a path of the cloud in them. */
  readonly mounts: readonly string[];
  /** Directories in any cgroup hierarchy. */
  readonly cgroups: readonly string[];
  /** Loop devices backed by a file of the cloud. */
  readonly loops: readonly string[];
  /** Interfaces of the namespace the test runs in. */
  readonly links: readonly string[];
  /** Its packet filter rules. */
  readonly rules: string;
}

/** The instance word of a data directory: what its cgroups are called. */
async function instanceOf(directory: string): Promise<string> {
  return createHash('sha256')
    .update(await realpath(directory))
    .digest('hex')
    .slice(0, 8);
}

async function quietly<T>(work: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work;
  } catch (error) {
    // processes and files vanish while one looks
    if (['ENOENT', 'ESRCH', 'EACCES', 'EINVAL', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return otherwise;
    throw error;
  }
}

async function whyOurs(
  pid: string,
  directory: string,
  groups: readonly string[],
): Promise<string | undefined> {
  const base = `/proc/${pid}`;
  const cgroup = await quietly(readFile(`${base}/cgroup`, 'utf8'), '');
  if (groups.some((group) => cgroup.includes(group))) return 'cgroup';
  if ((await quietly(readFile(`${base}/cmdline`, 'utf8'), '')).includes(directory)) return 'command line';
  if ((await quietly(readlink(`${base}/cwd`), '')).startsWith(directory)) return 'working directory';
  for (const fd of await quietly(readdir(`${base}/fd`), []))
    if ((await quietly(readlink(`${base}/fd/${fd}`), '')).startsWith(directory)) return `open file ${fd}`;
  return undefined;
}

async function processesOf(directory: string, groups: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    if (Number(pid) === process.pid) continue;
    const status = await quietly(readFile(`/proc/${pid}/status`, 'utf8'), '');
    if (status === '' || /^State:\s+[ZX]/m.test(status)) continue;
    const why = await whyOurs(pid, directory, groups);
    if (why) found.push(`${pid} ${/^Name:\t(.*)$/m.exec(status)?.[1]}: ${why}`);
  }
  return found;
}

/** A killed worker's groups have a name of their own (server/instances.ts). */
const workersLookedFor = 8;

async function groupsOf(directory: string): Promise<string[]> {
  const path = await realpath(directory);
  const numbers = Array.from({ length: workersLookedFor }, (_, index) => index + 1);
  return [
    `carrel-${await instanceOf(directory)}`,
    ...numbers.map((number) => `carrel-${workerInstance(path, number)}`),
  ];
}

async function cgroupsOf(groups: readonly string[]): Promise<string[]> {
  const mounts = (await readFile('/proc/self/mounts', 'utf8'))
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, , type]) => type === 'cgroup' || type === 'cgroup2')
    .map(([, path]) => path ?? '');
  const found: string[] = [];
  for (const mount of mounts)
    for (const entry of await quietly(readdir(mount, { withFileTypes: true }), []))
      if (entry.isDirectory() && groups.includes(entry.name)) found.push(join(mount, entry.name));
  return found;
}

async function loopsOf(directory: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of await readdir('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const file = await quietly(readFile(`/sys/block/${name}/loop/backing_file`, 'utf8'), '');
    if (file.startsWith(directory)) found.push(`${name} ${file.trim()}`);
  }
  return found;
}

/** Counts what belongs to the cloud at `directory`, and what stands in the test's own network namespace. */
export async function takeCensus(directory: string): Promise<Census> {
  const groups = await groupsOf(directory);
  const links = await run('ip', ['-o', 'link']);
  const rules = await run('nft', ['list', 'ruleset']).catch(() => ({ stdout: '' }));
  return {
    processes: await processesOf(directory, groups),
    mounts: (await readFile('/proc/self/mounts', 'utf8'))
      .split('\n')
      .filter((line) => line.includes(directory)),
    cgroups: await cgroupsOf(groups),
    loops: await loopsOf(directory),
    links: links.stdout
      .trim()
      .split('\n')
      .map((line) => line.split(': ')[1] ?? ''),
    rules: rules.stdout,
  };
}

function fresh(kind: string, before: readonly string[], after: readonly string[]): string[] {
  return after.filter((entry) => !before.includes(entry)).map((entry) => `${kind}: ${entry}`);
}

/** What stands in `after` and did not in `before`, one line each; empty when nothing dangles. */
export function dangling(before: Census, after: Census): string[] {
  return [
    ...fresh('process', before.processes, after.processes),
    ...fresh('mount', before.mounts, after.mounts),
    ...fresh('cgroup', before.cgroups, after.cgroups),
    ...fresh('loop device', before.loops, after.loops),
    ...fresh('link', before.links, after.links),
    ...(before.rules === after.rules ? [] : [`rules: ${after.rules}`]),
  ];
}
