/**
 * Everything on this host that belongs to the cloud of one data directory: processes, cgroups, loop devices,
 * mounts. `status` shows it, `down` makes sure that nothing of it is left.
 *
 * A process belongs to it if it sits in one of the cloud's cgroups, is in the fabric's network namespace, is
 * recorded in DIR/run, or is a program of ours (or the database) at work in the data directory. Somebody's
 * shell or editor there is not the cloud's.
 */
import { execFile } from 'node:child_process';
import { readdir, readFile, readlink, realpath, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { errnoOf } from '#base/errors.ts';
import { netnsOf } from '#fabric/netns.ts';
import { mountsOf } from '#host/mounts.ts';
import { statOf, type ProcessIdentity } from '#host/processes.ts';
import { doormanProcess, groupName, recorded } from './directory.ts';

const run = promisify(execFile);

export interface CloudProcess extends ProcessIdentity {
  readonly name: string;
  /** What it is to the cloud: doorman, daemon, database, uplink, holder, runtime, worker, machine, or in the fabric. */
  readonly role: string;
  /** Its share of memory (proportional set size) in bytes; null if it may not be read. */
  readonly memoryBytes: number | null;
}

const vanished = new Set(['ENOENT', 'ESRCH', 'EACCES', 'EINVAL', 'ENOTDIR', 'EPERM']);

async function quietly<T>(work: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work;
  } catch (error) {
    // processes and files vanish while one looks
    if (vanished.has(errnoOf(error) ?? '')) return otherwise;
    throw error;
  }
}

interface Marks {
  readonly directory: string;
  readonly group: string;
  readonly netns: string | undefined;
  readonly roles: ReadonlyMap<number, string>;
}

async function marksOf(data: string): Promise<Marks> {
  const directory = await realpath(data);
  const roles = new Map<number, string>();
  const doorman = doormanProcess(data);
  if (doorman) roles.set(doorman.pid, 'doorman');
  const holder = await recorded(data, 'fabric.json');
  if (holder) roles.set(holder.pid, 'holder');
  const daemon = await recorded(data, 'daemon.json');
  if (daemon) roles.set(daemon.pid, 'daemon');
  const uplink = await recorded(data, 'uplink.json');
  if (uplink) roles.set(uplink.pid, 'uplink');
  const own = netnsOf('self');
  const netns = holder ? netnsOf(holder.pid) : daemon ? netnsOf(daemon.pid) : undefined;
  return { directory, group: await groupName(data), netns: netns === own ? undefined : netns, roles };
}

/** True for the directory itself and for paths in it, not for /srv/carrel2 where /srv/carrel is meant. */
function names(text: string, directory: string): boolean {
  const at = text.indexOf(directory);
  return at >= 0 && /^(?:[/\0\s"',:;)]|$)/.test(text.slice(at + directory.length));
}

async function roleOf(pid: number, marks: Marks): Promise<string | undefined> {
  const role = marks.roles.get(pid);
  if (role !== undefined) return role;
  const base = `/proc/${pid}`;
  const groups = await quietly(readFile(`${base}/cgroup`, 'utf8'), '');
  if (groups.includes(`/${marks.group}/machines`)) return 'machine';
  if (groups.includes(`/${marks.group}`)) return 'runtime';
  const program = await programOf(base, marks.directory);
  if (program !== undefined) return program;
  const inside = marks.netns !== undefined && (await quietly(readlink(`${base}/ns/net`), '')) === marks.netns;
  return inside ? 'fabric' : undefined;
}

const isolateProgram = fileURLToPath(new URL('../../../build/isolate', import.meta.url));
const serverFolder = fileURLToPath(new URL('../../server/', import.meta.url));

/** `(deleted)` follows the path of a program that was rebuilt while it ran. */
async function programOf(base: string, directory: string): Promise<string | undefined> {
  const program = (await quietly(readlink(`${base}/exe`), '')).replace(/ \(deleted\)$/, '');
  if (program.startsWith('/usr/lib/postgresql/'))
    return names(await quietly(readlink(`${base}/cwd`), ''), directory) ? 'database' : undefined;
  const command = await quietly(readFile(`${base}/cmdline`, 'utf8'), '');
  if (!names(command, directory)) return undefined;
  if (program === isolateProgram) return 'runtime';
  return program === process.execPath && command.includes(serverFolder) ? 'worker' : undefined;
}

async function memoryOf(pid: number): Promise<number | null> {
  const text = await quietly(readFile(`/proc/${pid}/smaps_rollup`, 'utf8'), '');
  const kib = /^Pss:\s+(\d+) kB$/m.exec(text)?.[1];
  return kib === undefined ? null : Number(kib) * 1024;
}

/** Our own process and those it descends from: a shell that names the directory is not the cloud's. */
function ancestors(): Set<number> {
  const found = new Set<number>();
  for (let pid: number | undefined = process.pid; pid !== undefined && pid > 1 && !found.has(pid);) {
    found.add(pid);
    pid = statOf(pid)?.parent;
  }
  return found;
}

/** The cloud's processes, apart from the one that asks. */
export async function findProcesses(data: string): Promise<CloudProcess[]> {
  const marks = await quietly(marksOf(data), undefined);
  if (!marks) return [];
  const skip = ancestors();
  const found: CloudProcess[] = [];
  for (const entry of await readdir('/proc')) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || (skip.has(pid) && !marks.roles.has(pid))) continue;
    if (pid === process.pid) continue;
    const stat = statOf(pid);
    if (!stat || stat.state === 'Z' || stat.state === 'X') continue;
    const role = await roleOf(pid, marks);
    if (role === undefined) continue;
    found.push({ pid, startTime: stat.startTime, name: stat.name, role, memoryBytes: await memoryOf(pid) });
  }
  return found;
}

/** The cloud's cgroup directories: one in each hierarchy where it has any. */
export async function findGroups(data: string): Promise<string[]> {
  const group = await quietly(groupName(data), undefined);
  if (group === undefined) return [];
  const found: string[] = [];
  for (const { type, path } of mountsOf())
    if (type === 'cgroup' || type === 'cgroup2')
      if ((await quietly(readdir(path), [])).includes(group)) found.push(join(path, group));
  return found;
}

/** Removes a cgroup with all below it; returns false while a process is in one of them. */
export async function removeGroup(path: string): Promise<boolean> {
  for (const entry of await quietly(readdir(path, { withFileTypes: true }), []))
    if (entry.isDirectory() && !(await removeGroup(join(path, entry.name)))) return false;
  try {
    await rmdir(path);
  } catch (error) {
    if (errnoOf(error) === 'EBUSY') return false;
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  return true;
}

/** Loop devices over files of the cloud. */
export async function findLoops(data: string): Promise<string[]> {
  const directory = await quietly(realpath(data), data);
  const found: string[] = [];
  for (const name of await quietly(readdir('/sys/block'), [])) {
    if (!name.startsWith('loop')) continue;
    const file = await quietly(readFile(`/sys/block/${name}/loop/backing_file`, 'utf8'), '');
    if (names(file.trim(), directory)) found.push(`/dev/${name}`);
  }
  return found;
}

export async function detachLoop(device: string): Promise<void> {
  await run('losetup', ['--detach', device]);
}

/** Mounts in our namespace on or below the data directory. */
export async function findMounts(data: string): Promise<string[]> {
  const directory = await quietly(realpath(data), data);
  return mountsOf()
    .filter(({ path }) => path === directory || path.startsWith(`${directory}/`))
    .map(({ path }) => path)
    .filter((path) => path !== directory)
    .toReversed();
}
