/**
 * Plans: what the fork server executes, one operation after the other.
 *
 * Each builder below makes one operation (a name and its arguments, all text); `encodePlan` turns a list of
 * them into the bytes that `build/isolate --serve` reads. The table in src/native/isolate/plan.c says what
 * each operation does and where it runs.
 *
 * @example
 * encodePlan([op.namespaces(['user', 'pid', 'mnt']), op.hostname('lab'), op.arg('/bin/true')]);
 */
import { CarrelError } from '#base/errors.ts';

export type Operation = readonly [name: string, ...args: readonly string[]];
export type Namespace = 'user' | 'pid' | 'mnt' | 'uts' | 'ipc' | 'net' | 'cgroup' | 'time';
export type MountFlag = 'ro' | 'rw' | 'nosuid' | 'nodev' | 'noexec' | 'rec';
export type ResourceLimit =
  | 'core'
  | 'fsize'
  | 'nofile'
  | 'cpu'
  | 'memlock'
  | 'msgqueue'
  | 'nproc'
  | 'as'
  | 'stack';
export type CounterName = 'cpu' | 'memory' | 'oom' | 'processes';

/** A number in a file of a control group: `key` selects a line of "key value" files. */
export interface Counter {
  readonly name: CounterName;
  readonly path: string;
  readonly key?: string;
  /** Multiplied with the value; the counter called cpu must come out in nanoseconds. */
  readonly scale?: number;
}

/** Bytes of one plan; the fork server refuses more. */
export const maxPlanBytes = 1 << 20;
/** The largest number an operation takes. */
const maxNumber = 9e15;

function number(value: number): string {
  if (!Number.isInteger(value) || value < 0 || value > maxNumber)
    throw new CarrelError('validation_failed', `A plan takes whole numbers from 0, not ${value}`);
  return String(value);
}

const mode = (value: number): string => value.toString(8);
const list = (values: readonly string[]): string => values.join(',');

export const op = {
  // limits and accounting
  limit: (name: 'wall_ms' | 'cpu_ms' | 'output_bytes', value: number): Operation => [
    'limit',
    name,
    number(value),
  ],
  counter: ({ name, path, key = '', scale = 1 }: Counter): Operation => [
    'counter',
    name,
    path,
    key,
    number(scale),
  ],
  write: (path: string, text: string): Operation => ['write', path, text],
  /** The session itself moves into the control group: a warm slot. */
  join: (procs: string): Operation => ['join', procs],
  /** The child is moved into the control group. */
  place: (procs: string): Operation => ['place', procs],
  /** The child is born in this directory of the v2 hierarchy. */
  cgroup: (directory: string): Operation => ['cgroup', directory],
  oomAdjust: (session: number, child: number): Operation => ['oom-adjust', String(session), String(child)],
  // namespaces and identity
  namespaces: (names: readonly Namespace[]): Operation => ['namespaces', list(names)],
  target: (target: number | 'machine', names: readonly Namespace[]): Operation => [
    'target',
    typeof target === 'number' ? number(target) : target,
    list(names),
  ],
  unshare: (names: readonly Namespace[]): Operation => ['unshare', list(names)],
  map: (kind: 'uid' | 'gid', inside: number, outside: number, count: number): Operation => [
    'map',
    kind,
    number(inside),
    number(outside),
    number(count),
  ],
  denySetgroups: (): Operation => ['setgroups', 'deny'],
  /** `groups`: supplementary ones, at most eight. */
  identity: (uid: number, gid: number, groups: readonly number[] = []): Operation => [
    'identity',
    number(uid),
    number(gid),
    list(groups.map(number)),
  ],
  hostname: (name: string): Operation => ['hostname', name],
  /** The session clones the next run's child ahead of time, in the same namespaces and ids. */
  prepare: (): Operation => ['prepare'],
  /** The session announces the child's pid and waits for `go`. */
  sync: (): Operation => ['sync'],
  // input and output
  stdio: (
    descriptor: 0 | 1 | 2 | 3,
    kind: 'null' | 'pipe' | 'inherit' | 'file' | 'fd',
    what = '',
  ): Operation => ['stdio', String(descriptor), kind, what],
  /** The descriptor `index` of those that came along with the plan is number `as` in the program, from 3 to 7. */
  descriptor: (as: number, index: number): Operation => ['stdio', number(as), 'fd', number(index)],
  pty: (rows: number, columns: number): Operation => ['pty', number(rows), number(columns)],
  /** The pty passes every byte as it is: no echo, no lines, no signals. */
  raw: (): Operation => ['raw'],
  keep: (socket: string, lock: string, report: string): Operation => ['keep', socket, lock, report],
  record: (path: string, headBytes: number, ringBytes: number): Operation => [
    'record',
    path,
    number(headBytes),
    number(ringBytes),
  ],
  execServer: (socket: string): Operation => ['exec-server', socket],
  // the session's own mount namespace
  sessionPrivate: (): Operation => ['session-private'],
  sessionMkdir: (path: string, permissions: number, uid: number, gid: number): Operation => [
    'session-mkdir',
    path,
    mode(permissions),
    number(uid),
    number(gid),
  ],
  sessionMount: (
    type: string,
    source: string,
    target: string,
    flags: readonly MountFlag[],
    data: string,
    { late = false }: { late?: boolean } = {},
  ): Operation => [late ? 'session-mount-late' : 'session-mount', type, source, target, list(flags), data],
  sessionIdmap: (source: string, target: string): Operation => ['session-idmap', source, target],
  // the child's file systems
  private: (): Operation => ['private'],
  root: (path: string, flags: readonly MountFlag[]): Operation => ['root', path, list(flags)],
  /** A root that the session mounts itself, while the child waits. */
  rootLate: (path: string): Operation => ['root-late', path],
  /** A root that lacks some mount points; they are given as absolute paths. */
  overlayRoot: (path: string, missing: readonly { path: string; directory: boolean }[]): Operation => [
    'overlay-root',
    path,
    missing.map((entry) => `${entry.directory ? 'd' : 'f'}${entry.path}`).join(':'),
  ],
  bind: (source: string, target: string, flags: readonly MountFlag[]): Operation => [
    'bind',
    source,
    target,
    list(flags),
  ],
  mount: (type: string, target: string, flags: readonly MountFlag[], data = '', source = type): Operation => [
    'mount',
    type,
    source,
    target,
    list(flags),
    data,
  ],
  dev: (nodes: readonly string[]): Operation => ['dev', list(nodes)],
  remount: (target: string, flags: readonly MountFlag[]): Operation => ['remount', target, list(flags)],
  mkdir: (path: string, permissions: number): Operation => ['mkdir', path, mode(permissions)],
  touch: (path: string, permissions: number): Operation => ['touch', path, mode(permissions)],
  symlink: (to: string, path: string): Operation => ['symlink', to, path],
  pivot: (): Operation => ['pivot'],
  work: (directory: string): Operation => ['work', directory],
  copy: (host: string, path: string): Operation => ['copy', host, path],
  collect: (path: string, maxBytes: number): Operation => ['collect', path, number(maxBytes)],
  // network
  linkUp: (name: string): Operation => ['link-up', name],
  mac: (link: string, mac: string): Operation => ['mac', link, mac],
  address: (link: string, address: string, prefix: number): Operation => [
    'address',
    link,
    address,
    number(prefix),
  ],
  gateway: (address: string): Operation => ['gateway', address],
  // the program
  init: (): Operation => ['init'],
  leader: (): Operation => ['leader'],
  rlimit: (name: ResourceLimit, value: number): Operation => ['rlimit', name, number(value)],
  user: (name: string): Operation => ['user', name],
  /** `bounding`: what is left goes with the change of identity, which needs it. */
  caps: (which: 'none' | 'all' | 'bounding'): Operation => ['caps', which],
  noNewPrivileges: (): Operation => ['no-new-privs'],
  seccomp: (profile: 'sandbox' | 'machine'): Operation => ['seccomp', profile],
  env: (name: string, value: string): Operation => ['env', `${name}=${value}`],
  cwd: (path: string): Operation => ['cwd', path],
  /** The program is the isolate binary itself, which needs nothing from the image. */
  self: (): Operation => ['self'],
  arg: (text: string): Operation => ['arg', text],
} as const;

/** The bytes of a plan. Text with a NUL, and more than `maxPlanBytes`, are refused. */
export function encodePlan(operations: readonly Operation[]): Buffer {
  const text = operations.flat();
  for (const part of text)
    if (part.includes('\0'))
      throw new CarrelError(
        'validation_failed',
        'A path, an argument or a variable contains a NUL character',
      );
  const bytes = Buffer.from(text.length ? `${text.join('\0')}\0` : '');
  if (bytes.length > maxPlanBytes)
    throw new CarrelError(
      'too_large',
      `The plan of a run has ${bytes.length} bytes; at most ${maxPlanBytes} are allowed`,
      {
        hint: 'pass fewer arguments and variables, or put them into a file',
      },
    );
  return bytes;
}
