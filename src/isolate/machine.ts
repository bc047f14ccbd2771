/**
 * A student's container: root inside, its own network, a shared image below and its own writable layer above,
 * under limits. It hangs off its own keeper and outlives us; `adoptKeeper` finds it again.
 *
 * In the machine's directory: `keeper.sock` (control and console), `exec.sock` (commands), `lock` (held while
 * the keeper lives), `init.json` (who it is, and later how it ended), `console.ring`, and `exec/<id>/` for
 * commands that are kept.
 */
import { existsSync, mkdirSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { within } from '#base/deadline.ts';
import { isLocked } from '#host/flock.ts';
import { statOf } from '#host/processes.ts';
import { createGroup, instanceGroup, sweepGroups, type Group } from './cgroups/group.ts';
import { readCgroupLayout, type CgroupLayout } from './cgroups/layout.ts';
import { attach, exitReport, startLive, type Exec, type ExitReport } from './live.ts';
import { reportSchema, runningSchema, type Running } from './messages.ts';
import { op, type Namespace, type Operation } from './plan.ts';
import type { ForkServer } from './server.ts';
import { connectSession } from './session.ts';

export type { Exec, ExitReport } from './live.ts';

export interface ContainerSpec {
  readonly id: string;
  readonly hostname: string;
  readonly directory: string;
  /** The image's rootfs; shared, never written. */
  readonly lower: string;
  /** A block device with a file system, or a directory. */
  readonly upper: { kind: 'loop'; device: string } | { kind: 'directory'; path: string };
  /** The first of 65536 host ids that are the container's own. */
  readonly uidBase: number;
  /** Empty: our own init, which reaps and powers off in order (SIGTERM, SIGRTMIN+3). */
  readonly init: readonly string[];
  readonly limits: { readonly cpus: number; readonly memoryBytes: number; readonly processes: number };
  readonly network?: {
    /** Puts the machine's end of a cable, called eth0, into the network namespace of the process. */
    plug(pid: number): Promise<void>;
    readonly address: string;
    readonly prefix: number;
    readonly gateway: string;
    readonly mac: string;
  };
}

export interface ExecSpec {
  readonly argv: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** A name or number of the guest's /etc/passwd; the default is root. */
  readonly user?: string;
  readonly tty?: { readonly rows: number; readonly columns: number };
  /** Bytes, then end of file; null or nothing: none; `'open'`: comes later through the Exec. */
  readonly stdin?: Uint8Array | null | 'open';
  readonly limits?: { readonly wallMs?: number; readonly outputBytes?: number };
  /** Outlives us: recorded, and attachable by its id. */
  readonly keep?: { readonly id: string };
}

export interface Keeper {
  /** As the host sees it. */
  readonly initPid: number;
  readonly initStartTime: string;
  /** The machine's console: live output, input, resize. */
  readonly console: Exec;
  exec(spec: ExecSpec): Promise<Exec>;
  /** Asks init to power off in order; see `ended`. */
  powerOff(): void;
  kill(): Promise<void>;
  ended(): Promise<ExitReport>;
  /** Lets go; the machine goes on. */
  close(): void;
}

export const idsPerContainer = 65_536;
const MiB = 1 << 20;
const endMs = 10_000;
const startMs = 60_000;
/** SIGRTMIN+3, the orderly power-off that systemd and our init understand. */
const powerOffSignal = 37;
const all: readonly Namespace[] = ['user', 'pid', 'mnt', 'uts', 'ipc', 'net', 'cgroup'];
/** Processes of ours in the machine's group: the exec server; commands have a session each. */
const ownProcesses = 8;
const guestPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export function containerPaths(
  directory: string,
): Record<'socket' | 'exec' | 'lock' | 'report' | 'console', string> {
  return {
    socket: join(directory, 'keeper.sock'),
    exec: join(directory, 'exec.sock'),
    lock: join(directory, 'lock'),
    report: join(directory, 'init.json'),
    console: join(directory, 'console.ring'),
  };
}

/** Where a kept command of a machine is: its socket to attach to, its record, its report. */
export function execPaths(
  directory: string,
  id: string,
): Record<'folder' | 'socket' | 'lock' | 'report' | 'record', string> {
  const folder = join(directory, 'exec', id);
  return {
    folder,
    socket: join(folder, 'sock'),
    lock: join(folder, 'lock'),
    report: join(folder, 'report.json'),
    record: join(folder, 'record'),
  };
}

/** The machine's control groups: for limits, usage and freezing. */
export function containerGroup(
  instance: string,
  id: string,
  layout: CgroupLayout = readCgroupLayout(),
): Group {
  return createGroup(layout, groupPath(instance, id));
}

const groupPath = (instance: string, id: string): string => `${instanceGroup(instance)}/machines/${id}`;

/** Kills whatever is left of a machine and removes its control groups. Nothing happens if there is nothing. */
export async function releaseContainer(
  instance: string,
  id: string,
  layout: CgroupLayout = readCgroupLayout(),
): Promise<void> {
  await sweepGroups(layout, groupPath(instance, id));
}

/** The overlay's layers are named in mount options, where some characters mean something. */
function plain(path: string): string {
  if (/[,:\\]/.test(path))
    throw new CarrelError('validation_failed', `The path may not contain , : or \\: ${path}`);
  return path;
}

function storage(spec: ContainerSpec, layers: string, lower: string, merged: string): Operation[] {
  const mount =
    spec.upper.kind === 'loop'
      ? [op.sessionMount('ext4', spec.upper.device, layers, ['nosuid', 'nodev'], '')]
      : [];
  const at = spec.upper.kind === 'loop' ? layers : spec.upper.path;
  const upper = plain(join(at, 'upper'));
  const work = plain(join(at, 'work'));
  return [
    op.sessionPrivate(),
    ...mount,
    op.sessionMkdir(upper, 0o755, spec.uidBase, spec.uidBase),
    op.sessionMkdir(work, 0o755, spec.uidBase, spec.uidBase),
    op.sessionIdmap(realpathSync(spec.lower), lower),
    op.sessionMount(
      'overlay',
      'overlay',
      merged,
      ['nodev'],
      `lowerdir=${plain(lower)},upperdir=${upper},workdir=${work}`,
      {
        late: true,
      },
    ),
  ];
}

/** What tmpfs allows by itself: half of the memory. But of the machine's, not the host's. */
const half = ({ limits }: ContainerSpec): number => Math.floor(limits.memoryBytes / 2);

function containerPlan(spec: ContainerSpec, group: Group): Operation[] {
  const paths = containerPaths(spec.directory);
  const [layers, lower, merged] = ['layers', 'lower', 'root'].map((name) => join(spec.directory, name));
  if (layers === undefined || lower === undefined || merged === undefined)
    throw new CarrelError('internal', 'no paths');
  const { network } = spec;
  return [
    op.keep(paths.socket, paths.lock, paths.report),
    op.record(paths.console, MiB, MiB),
    op.execServer(paths.exec),
    ...group.v1Procs.map(op.place),
    ...(group.v2Directory ? [op.cgroup(group.v2Directory)] : []),
    ...group.counters.map(op.counter),
    op.oomAdjust(-1000, 0),
    op.namespaces(['user', 'pid', 'uts', 'ipc', 'net']),
    op.map('uid', 0, spec.uidBase, idsPerContainer),
    op.map('gid', 0, spec.uidBase, idsPerContainer),
    ...storage(spec, layers, lower, merged),
    ...(network ? [op.sync()] : []),
    // in the child
    op.identity(0, 0),
    op.unshare(['mnt', 'cgroup']),
    op.private(),
    op.hostname(spec.hostname),
    op.rootLate(merged),
    ...['/proc', '/sys', '/dev', '/run', '/tmp'].map((path) =>
      op.mkdir(path, path === '/tmp' ? 0o1777 : 0o755),
    ),
    op.mount('proc', '/proc', ['nosuid', 'nodev', 'noexec']),
    op.mount('sysfs', '/sys', ['nosuid', 'nodev', 'noexec', 'ro']),
    op.dev(['null', 'zero', 'full', 'random', 'urandom', 'tty']),
    op.mkdir('/dev/pts', 0o755),
    op.mount('devpts', '/dev/pts', ['nosuid', 'noexec'], 'newinstance,ptmxmode=0666,mode=0620,gid=5'),
    op.symlink('pts/ptmx', '/dev/ptmx'),
    op.mkdir('/dev/shm', 0o1777),
    op.mount('tmpfs', '/dev/shm', ['nosuid', 'nodev'], `mode=1777,size=${half(spec)}`),
    op.mkdir('/dev/mqueue', 0o1777),
    op.mount('mqueue', '/dev/mqueue', ['nosuid', 'nodev', 'noexec']),
    op.mount('tmpfs', '/run', ['nosuid', 'nodev'], `mode=755,size=${half(spec)}`),
    op.pivot(),
    op.linkUp('lo'),
    ...(network
      ? [
          op.mac('eth0', network.mac),
          op.address('eth0', network.address, network.prefix),
          op.linkUp('eth0'),
          op.gateway(network.gateway),
        ]
      : []),
    op.pty(24, 80),
    op.seccomp('machine'),
    op.env('container', 'carrel'),
    op.env('PATH', guestPath),
    op.env('TERM', 'xterm-256color'),
    ...(spec.init.length ? spec.init.map(op.arg) : [op.self(), op.arg('carrel-init')]),
  ];
}

function execPlan(directory: string, spec: ExecSpec): Operation[] {
  const { env = {}, user = '0', tty, stdin = null, limits = {}, keep } = spec;
  const kept = keep && execPaths(directory, keep.id);
  const environment = { PATH: guestPath, ...(tty ? { TERM: 'xterm-256color' } : {}), ...env };
  return [
    ...(kept ? [op.keep(kept.socket, kept.lock, kept.report), op.record(kept.record, MiB, MiB)] : []),
    ...(limits.wallMs === undefined ? [] : [op.limit('wall_ms', limits.wallMs)]),
    ...(limits.outputBytes === undefined ? [] : [op.limit('output_bytes', limits.outputBytes)]),
    op.oomAdjust(-1000, 0),
    op.target('machine', all),
    ...(tty
      ? [op.pty(tty.rows, tty.columns)]
      : [
          op.stdio(0, stdin === null ? 'null' : 'pipe'),
          op.stdio(1, 'pipe'),
          op.stdio(2, 'pipe'),
          op.leader(),
        ]),
    op.identity(0, 0),
    op.seccomp('machine'),
    ...Object.entries(environment).map(([name, value]) => op.env(name, value)),
    op.user(user),
    op.cwd(spec.cwd ?? '/'),
    ...spec.argv.map(op.arg),
  ];
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

function keeperOf(directory: string, link: Exec, identity: Pick<Running, 'pid' | 'start_time'>): Keeper {
  const paths = containerPaths(directory);
  let letGo = false;
  const ended = link.ended.catch((): ExitReport => {
    if (letGo) throw new CarrelError('cancelled', 'The keeper has been let go');
    return readExitReport(paths.report) ?? lostReport;
  });
  ended.catch(() => undefined);
  return {
    initPid: identity.pid,
    initStartTime: identity.start_time,
    console: link,
    exec: async (spec) => {
      if (spec.keep) mkdirSync(execPaths(directory, spec.keep.id).folder, { recursive: true, mode: 0o700 });
      const session = await connectSession(paths.exec);
      try {
        const exec = await startLive(session, execPlan(directory, spec), { kept: spec.keep !== undefined });
        if (spec.stdin instanceof Uint8Array) {
          exec.write(spec.stdin);
          exec.endInput();
        }
        return exec;
      } catch (error) {
        session.close();
        throw error;
      }
    },
    powerOff: () => link.signal(powerOffSignal),
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

export interface ContainerOptions {
  /** Eight hexadecimal digits that tell this data directory's control groups from another's. */
  readonly instance: string;
  readonly layout?: CgroupLayout;
}

/**
 * Starts the container and returns when its init runs. A second copy is impossible: the keeper holds the lock
 * file of the directory, and fails with `wrong_state` if somebody else does.
 */
export async function startContainer(
  server: ForkServer,
  spec: ContainerSpec,
  { instance, layout = readCgroupLayout() }: ContainerOptions,
): Promise<Keeper> {
  const paths = containerPaths(spec.directory);
  if (isLocked(paths.lock)) throw new CarrelError('wrong_state', `Machine ${spec.id} runs already`);
  await releaseContainer(instance, spec.id, layout);
  for (const name of ['layers', 'lower', 'root', 'exec'])
    mkdirSync(join(spec.directory, name), { recursive: true, mode: 0o700 });
  const group = createGroup(layout, groupPath(instance, spec.id));
  group.limit({ ...spec.limits, processes: spec.limits.processes + ownProcesses });
  const session = await server.openSession();
  try {
    const { network } = spec;
    const starting = startLive(session, containerPlan(spec, group), {
      kept: true,
      ...(network ? { onCloned: (pid: number) => network.plug(pid) } : {}),
    });
    const link = await within(startMs, `machine ${spec.id} to start`, starting);
    if (link.pid === undefined || link.startTime === undefined) throw new CarrelError('internal', 'no init');
    return keeperOf(spec.directory, link, { pid: link.pid, start_time: link.startTime });
  } catch (error) {
    session.close();
    await releaseContainer(instance, spec.id, layout);
    throw error;
  }
}

/**
 * The keeper of a machine that an earlier daemon started; undefined if none lives. The lock decides: it is held
 * as long as the keeper lives, whatever namespace we look from. A living keeper that cannot be reached is an
 * error, never "gone": a second copy would destroy the machine's disk.
 */
export async function adoptKeeper(directory: string): Promise<Keeper | undefined> {
  const paths = containerPaths(directory);
  if (!existsSync(paths.lock) || !isLocked(paths.lock)) return undefined;
  const record = runningSchema.safeParse(parseJsonFile(paths.report));
  const link = await attach(paths.socket);
  const { pid, startTime } = link;
  const known = record.success && record.data.pid === pid && record.data.start_time === startTime;
  if (pid === undefined || startTime === undefined || !known || statOf(pid)?.startTime !== startTime) {
    link.close();
    throw new CarrelError(
      'machine_lost',
      `The keeper in ${directory} does not answer for the process it recorded`,
      {
        details: { pid, startTime },
      },
    );
  }
  return keeperOf(directory, link, { pid, start_time: startTime });
}
