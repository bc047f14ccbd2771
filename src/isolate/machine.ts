/**
 * A student's container: root inside, its own network, a shared image below and its own writable layer above,
 * under limits. It hangs off its own keeper and outlives us; `adoptKeeper` finds it again.
 *
 * In the machine's directory: `keeper.sock` (control and console), `exec.sock` (commands), `lock` (held while
 * the keeper lives), `init.json` (who it is, and later how it ended), `console.ring`, and `exec/<id>/` for
 * commands that are kept.
 */
import { mkdirSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { Group } from './cgroups/group.ts';
import {
  adoptKept,
  type Kept,
  keptOperations,
  type KeptOptions,
  keptPaths,
  recordBytes,
  startKept,
} from './kept.ts';
import { type Exec, startLive } from './live.ts';
import { type Namespace, op, type Operation } from './plan.ts';
import type { ForkServer } from './server.ts';
import { connectSession } from './session.ts';

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

export interface Keeper extends Kept {
  exec(spec: ExecSpec): Promise<Exec>;
  /** Asks init to power off in order; see `ended`. */
  powerOff(): void;
}

export const idsPerContainer = 65_536;
/** SIGRTMIN+3, the orderly power-off that systemd and our init understand. */
const powerOffSignal = 37;
const all: readonly Namespace[] = ['user', 'pid', 'mnt', 'uts', 'ipc', 'net', 'cgroup'];
/** Processes of ours in the machine's group: the exec server; commands have a session each. */
const ownProcesses = 8;
const guestPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

function containerPaths(directory: string): ReturnType<typeof keptPaths> & { readonly exec: string } {
  return { ...keptPaths(directory), exec: join(directory, 'exec.sock') };
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
    ...keptOperations(spec.directory, group),
    op.execServer(paths.exec),
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
    ...(kept
      ? [op.keep(kept.socket, kept.lock, kept.report), op.record(kept.record, recordBytes, recordBytes)]
      : []),
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

function keeperOf(directory: string, kept: Kept): Keeper {
  const { exec: socket } = containerPaths(directory);
  return {
    ...kept,
    exec: async (spec) => {
      if (spec.keep) mkdirSync(execPaths(directory, spec.keep.id).folder, { recursive: true, mode: 0o700 });
      const session = await connectSession(socket);
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
    powerOff: () => kept.console.signal(powerOffSignal),
  };
}

/**
 * Starts the container and returns when its init runs; `wrong_state` when it runs already (see `startKept`).
 */
export async function startContainer(
  server: ForkServer,
  spec: ContainerSpec,
  options: KeptOptions,
): Promise<Keeper> {
  const { id, directory, limits, network } = spec;
  for (const name of ['layers', 'lower', 'root', 'exec'])
    mkdirSync(join(directory, name), { recursive: true, mode: 0o700 });
  const kept = await startKept(
    server,
    {
      id,
      directory,
      limits: { ...limits, processes: limits.processes + ownProcesses },
      plan: (group) => containerPlan(spec, group),
      ...(network ? { onCloned: (pid: number) => network.plug(pid) } : {}),
    },
    options,
  );
  return keeperOf(directory, kept);
}

/** The keeper of a container that an earlier daemon started; undefined if none lives (see `adoptKept`). */
export async function adoptKeeper(directory: string): Promise<Keeper | undefined> {
  const kept = await adoptKept(directory);
  return kept && keeperOf(directory, kept);
}
