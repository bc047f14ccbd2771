/**
 * The grading sandbox: a program in fresh namespaces, under an id that exists nowhere else, with no network,
 * a read-only root and read-only inputs, a work directory of limited size in memory, and limits on everything.
 * Verdicts are the caller's: this tells how the program ended and what it wrote.
 *
 * @example
 * await using sandboxes = await openSandboxes({ server, instance: '1f2e3d4c' });
 * const report = await sandboxes.run({ root, argv: ['python3', 'main.py'], work: [{ host, guest: 'main.py' }] });
 * if (report.end.kind === 'exited' && report.end.status === 0) console.log(report.stdout.toString());
 */
import { lstatSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, posix } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { createGroup, instanceGroup, presentWrites, sweepGroups, type Group } from './cgroups/group.ts';
import { readCgroupLayout, type CgroupLayout } from './cgroups/layout.ts';
import { limitsOutside, limitWrites, resettable, type GroupLimits } from './cgroups/limits.ts';
import type { Report } from './messages.ts';
import { op, type Operation } from './plan.ts';
import type { ForkServer } from './server.ts';
import type { RunResult, Session } from './session.ts';
import { createSlotPool } from './slots.ts';

export interface SandboxLimits {
  readonly cpuMs: number;
  readonly wallMs: number;
  readonly memoryBytes: number;
  readonly processes: number;
  /** Standard output, error and result together. */
  readonly outputBytes: number;
  /** Of the work directory, and again of /tmp. */
  readonly tmpBytes: number;
  readonly tmpFiles: number;
  /** Of the largest single file. */
  readonly fileBytes: number;
}

const MiB = 1 << 20;

/** The wall limit is three times the processor limit: a shared machine is slower than a stopwatch. */
export const defaultSandboxLimits: SandboxLimits = {
  cpuMs: 10_000,
  wallMs: 30_000,
  memoryBytes: 512 * MiB,
  processes: 64,
  outputBytes: 8 * MiB,
  tmpBytes: 64 * MiB,
  tmpFiles: 10_000,
  fileBytes: 64 * MiB,
};

export interface SandboxSpec {
  /** Host path of an image's rootfs, used read-only. */
  readonly root: string;
  readonly argv: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Bound read-only: files or trees. */
  readonly inputs?: readonly { host: string; guest: string }[];
  /** Copied into the work directory (guest: relative to it) before the start. */
  readonly work?: readonly { host: string; guest: string }[];
  readonly stdin?: Uint8Array;
  /** Descriptor 3 is a pipe whose bytes come back as `result`. */
  readonly result?: boolean;
  /** Open descriptors for the program, from number 4 on; they stay the caller's. */
  readonly descriptors?: readonly number[];
  /** Regular files under the work directory, read after the end. */
  readonly collect?: readonly { path: string; maxBytes: number }[];
  readonly limits?: Partial<SandboxLimits>;
}

export type SandboxEnd =
  | { readonly kind: 'exited'; readonly status: number }
  | { readonly kind: 'signaled'; readonly signal: string }
  | { readonly kind: 'killed'; readonly reason: 'cpu' | 'wall' | 'memory' | 'output' | 'cancelled' };

export interface SandboxReport {
  readonly end: SandboxEnd;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly result: Buffer;
  readonly files: readonly { path: string; data?: Buffer; error?: string }[];
  readonly usage: {
    readonly cpuMs: number;
    readonly wallMs: number;
    readonly peakMemoryBytes: number | null;
    readonly processes: number | null;
    readonly oomKills: number;
  };
}

export interface Sandboxes {
  /** Rejects with `helper_failed` if the runtime died: the run left nothing and can be repeated. */
  run(spec: SandboxSpec, options?: { signal?: AbortSignal }): Promise<SandboxReport>;
  close(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Inside: the user, and the directory that is its home. */
const guestId = 1000;
const workDirectory = '/work';
const path = '/usr/local/bin:/usr/bin:/bin';
/** Host ids for slots: far above users and subordinate ids; 256 for each instance, the count of its slots at most. */
const firstHostId = 0x7000_0000;
export const maxSlots = 256;
/** Of those that a run brings along; 3 is the result. */
const firstDescriptor = 4;
/** Processes of ours beside the program: the session, and process 1. */
const ownProcesses = 2;

interface Slot {
  readonly session: Session;
  readonly group: Group | undefined;
  readonly hostId: number;
  /** Operations that set the peaks of the run before to nothing. */
  readonly resets: readonly Operation[];
  /** Processes of ours that its group counts: process 1, and on v1 the session, which lives in the group. */
  readonly counted: number;
  current: GroupLimits;
  /** A run has left its figures in the group. */
  used: boolean;
}

function guestPath(text: string): string {
  const clean = posix.normalize(text);
  if (!clean.startsWith('/') || clean === '/' || clean.includes(':') || text.split('/').includes('..'))
    throw new CarrelError('validation_failed', `Invalid path in the sandbox: ${text}`, {
      hint: 'give an absolute path without "..", and without a colon',
    });
  return clean;
}

function workPath(text: string): string {
  if (text === '' || text.startsWith('/') || text.split('/').includes('..'))
    throw new CarrelError('validation_failed', `Invalid path in the work directory: ${text}`, {
      hint: 'give a path relative to the work directory, without ".."',
    });
  return posix.normalize(text);
}

/** Mount points the image lacks; links in the image count as lacking nothing: the runtime resolves them inside. */
function missingIn(root: string, wanted: readonly { path: string; directory: boolean }[]): typeof wanted {
  return wanted.filter((entry) => lstatSync(join(root, entry.path), { throwIfNoEntry: false }) === undefined);
}

function rootOperations(
  spec: SandboxSpec,
  inputs: readonly { host: string; guest: string }[],
): {
  first: Operation;
  overlay: boolean;
} {
  const standard = ['/proc', '/dev', '/tmp', workDirectory].map((directory) => ({
    path: directory,
    directory: true,
  }));
  const bound = inputs.map(({ host, guest }) => {
    const found = lstatSync(host, { throwIfNoEntry: false });
    if (!found) throw new CarrelError('internal', `An input of the sandbox does not exist: ${host}`);
    return { path: guest, directory: found.isDirectory() };
  });
  const missing = missingIn(spec.root, [...standard, ...bound]);
  return missing.length
    ? { first: op.overlayRoot(spec.root, missing), overlay: true }
    : { first: op.root(spec.root, ['ro', 'nosuid', 'nodev']), overlay: false };
}

/**
 * RLIMIT_CPU in seconds: for when nobody watches. The kernel counts for it by ticks (setrlimit(2), kernel/time/
 * posix-cpu-timers.c), which on a busy virtual host charge a program with much more than it had; where a control group
 * counts exactly, that must decide.
 */
function cpuBackstop({ cpuMs }: SandboxLimits, { group }: Slot): number {
  const seconds = Math.ceil(cpuMs / 1000) + 1;
  return group?.counters.some(({ name }) => name === 'cpu') ? 3 * seconds : seconds;
}

function sandboxPlan(spec: SandboxSpec, limits: SandboxLimits, slot: Slot): Operation[] {
  const inputs = (spec.inputs ?? []).map(({ host, guest }) => ({ host, guest: guestPath(guest) }));
  const copies = (spec.work ?? []).map(({ host, guest }) => op.copy(host, workPath(guest)));
  const collects = (spec.collect ?? []).map((file) => op.collect(workPath(file.path), file.maxBytes));
  const { first, overlay } = rootOperations(spec, inputs);
  const size = `size=${limits.tmpBytes},nr_inodes=${limits.tmpFiles}`;
  const environment = { PATH: path, HOME: workDirectory, TMPDIR: '/tmp', LANG: 'C.UTF-8', ...spec.env };
  return [
    op.limit('wall_ms', limits.wallMs),
    op.limit('cpu_ms', limits.cpuMs),
    op.limit('output_bytes', limits.outputBytes),
    ...(slot.group?.counters ?? []).map(op.counter),
    ...(slot.group?.v2Directory ? [op.cgroup(slot.group.v2Directory)] : []),
    op.oomAdjust(-1000, 1000),
    op.namespaces(['user', 'pid', 'mnt', 'uts', 'ipc', 'net', 'cgroup']),
    op.map('uid', guestId, slot.hostId, 1),
    op.map('gid', guestId, slot.hostId, 1),
    op.denySetgroups(),
    op.identity(guestId, guestId),
    op.hostname('sandbox'),
    op.linkUp('lo'),
    op.prepare(),
    spec.stdin === undefined ? op.stdio(0, 'null') : op.stdio(0, 'pipe'),
    op.stdio(1, 'pipe'),
    op.stdio(2, 'pipe'),
    ...(spec.result ? [op.stdio(3, 'pipe')] : []),
    ...(spec.descriptors ?? []).map((_, index) => op.descriptor(firstDescriptor + index, index)),
    first,
    op.mount('proc', '/proc', ['nosuid', 'nodev', 'noexec'], 'hidepid=invisible,subset=pid'),
    op.dev(['null', 'zero', 'full', 'random', 'urandom']),
    op.mkdir('/dev/shm', 0o1777),
    op.mount('tmpfs', '/dev/shm', ['nosuid', 'nodev', 'noexec'], 'mode=1777,size=16m,nr_inodes=1k'),
    op.remount('/dev', ['ro', 'nosuid', 'noexec']),
    op.mount('tmpfs', '/tmp', ['nosuid', 'nodev'], `mode=1777,${size}`),
    op.mount('tmpfs', workDirectory, ['nosuid', 'nodev'], `mode=700,${size}`),
    ...inputs.map(({ host, guest }) => op.bind(host, guest, ['ro', 'nosuid', 'nodev'])),
    op.pivot(),
    ...(overlay ? [op.remount('/', ['ro', 'nosuid', 'nodev'])] : []),
    ...(copies.length || collects.length ? [op.work(workDirectory), ...copies, ...collects] : []),
    op.init(),
    op.leader(),
    // Not 0: a core_pattern that is a pipe (core(5)) ignores every limit but 1, which the kernel takes as "none at all".
    op.rlimit('core', 1),
    op.rlimit('memlock', 0),
    op.rlimit('msgqueue', 0),
    op.rlimit('nofile', 1024),
    op.rlimit('fsize', limits.fileBytes),
    op.rlimit('cpu', cpuBackstop(limits, slot)),
    op.rlimit('nproc', limits.processes + ownProcesses),
    op.caps('none'),
    op.noNewPrivileges(),
    op.seccomp('sandbox'),
    ...Object.entries(environment).map(([name, value]) => op.env(name, value)),
    op.cwd(workDirectory),
    ...spec.argv.map(op.arg),
  ];
}

function endOf(report: Report, oomKills: number): SandboxEnd {
  if (report.killed === 'cancelled') return { kind: 'killed', reason: 'cancelled' };
  // an OOM kill anywhere counts: on v1 the kernel may have taken a child, and the program exits 0
  if (oomKills > 0) return { kind: 'killed', reason: 'memory' };
  if (report.killed === 'cpu' || report.killed === 'wall' || report.killed === 'output')
    return { kind: 'killed', reason: report.killed };
  if (report.signal === 'SIGXCPU') return { kind: 'killed', reason: 'cpu' };
  if (report.signal !== null) return { kind: 'signaled', signal: report.signal };
  return { kind: 'exited', status: report.exit ?? 0 };
}

function sandboxReport(
  { report, stdout, stderr, result, files }: RunResult,
  spec: SandboxSpec,
  counted: number,
): SandboxReport {
  const { cpu, memory, oom, processes } = report.counters;
  const oomKills = oom ? oom[1] - oom[0] : 0;
  return {
    end: endOf(report, oomKills),
    stdout,
    stderr,
    result,
    files: (spec.collect ?? []).map(({ path }, index) => Object.assign({ path }, files[index])),
    usage: {
      cpuMs: cpu ? (cpu[1] - cpu[0]) / 1e6 : report.cpu_ms,
      wallMs: report.wall_ms,
      peakMemoryBytes: memory && memory[1] >= 0 ? memory[1] : report.maxrss_kb * 1024,
      processes: processes && processes[1] >= 0 ? Math.max(0, processes[1] - counted) : null,
      oomKills,
    },
  };
}

export interface SandboxesOptions {
  readonly server: ForkServer;
  /** Eight hexadecimal digits that tell one data directory's groups and ids from another's. */
  readonly instance: string;
  /** Runs at the same time; the default is one more than there are processors. */
  readonly slots?: number;
  readonly layout?: CgroupLayout;
}

export async function openSandboxes({
  server,
  instance,
  slots = availableParallelism() + 1,
  layout = readCgroupLayout(),
}: SandboxesOptions): Promise<Sandboxes> {
  if (!/^[0-9a-f]{8}$/.test(instance) || slots < 1 || slots > maxSlots)
    throw new CarrelError('validation_failed', `Invalid sandbox pool: instance ${instance}, ${slots} slots`);
  const base = `${instanceGroup(instance)}/slots`;
  const firstId = firstHostId + (Number.parseInt(instance.slice(-4), 16) & 0xffff) * maxSlots;
  await sweepGroups(layout, base);

  const open = async (index: number): Promise<Slot> => {
    const group = createGroup(layout, `${base}/${index}`, { wanted: ['cpu', 'cpuacct', 'memory', 'pids'] });
    const session = await server.openSession();
    const slot: Slot = {
      session,
      group,
      hostId: firstId + index,
      resets: resettable(layout, group.counters).map((path) => op.write(path, '0')),
      counted: layout.where.pids?.version === 2 ? ownProcesses - 1 : ownProcesses,
      current: {},
      used: false,
    };
    await session.configure([...group.v1Procs.map(op.join), op.oomAdjust(-1000, 1000)]);
    return slot;
  };

  const limitsOperations = (slot: Slot, limits: SandboxLimits): Operation[] => {
    if (!slot.group) return [];
    const wanted = {
      memoryBytes: limits.memoryBytes,
      processes: limits.processes + slot.counted,
      diesTogether: true,
    };
    const writes = presentWrites(limitWrites(layout, slot.group.path, wanted, slot.current));
    slot.current = wanted;
    return [...writes.map(({ path, text }) => op.write(path, text)), ...slot.resets];
  };

  /** On v2 the figures of the run before go with its group. */
  const emptied = async (slot: Slot): Promise<void> => {
    if (slot.used && slot.group?.v2Directory !== undefined) {
      await slot.group.renew();
      slot.current = limitsOutside(layout, 2, slot.current);
    }
    slot.used = true;
  };

  const pool = createSlotPool<Slot>({
    size: slots,
    open,
    usable: (slot) => !slot.session.closed,
    close: async (slot) => {
      slot.session.close();
      await slot.group?.remove();
    },
  });

  const close = async (): Promise<void> => {
    await pool.close();
    await sweepGroups(layout, base);
  };
  return {
    run: async (spec, { signal } = {}) =>
      await pool.use(
        async (slot) => {
          const limits = { ...defaultSandboxLimits, ...spec.limits };
          const plan = sandboxPlan(spec, limits, slot);
          await emptied(slot);
          const run = [...limitsOperations(slot, limits), ...plan];
          try {
            const { stdin, descriptors: fds } = spec;
            const result = await slot.session.run(run, { stdin, signal, fds });
            return sandboxReport(result, spec, slot.counted);
          } catch (error) {
            slot.session.close(); // which limits were written is not known: the slot is made anew
            throw error;
          }
        },
        { signal },
      ),
    close,
    [Symbol.asyncDispose]: close,
  };
}
