/** What the isolation tests share: a small root file system, a server in a directory of its own, a leak check. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { until } from '#base/deadline.ts';
import { isLocked } from '#host/flock.ts';
import { readCgroupLayout } from './cgroups/layout.ts';
import { collect } from './live.ts';
import { keptPaths, releaseMachine } from './kept.ts';
import { startContainer, type ContainerSpec, type ExecSpec, type Keeper } from './machine.ts';
import { isolateBinary, startForkServer, type ForkServer } from './server.ts';

const busybox = '/bin/busybox';

/** Why these tests cannot run here; false if they can. */
export const skip: string | false =
  process.getuid?.() !== 0
    ? 'needs root'
    : !existsSync(isolateBinary)
      ? 'needs the native build'
      : !existsSync(busybox)
        ? 'needs busybox-static'
        : false;

/** A root file system of one static program and its names. */
export function makeRoot(directory: string, { mountPoints = true }: { mountPoints?: boolean } = {}): string {
  const root = join(directory, 'rootfs');
  mkdirSync(join(root, 'bin'), { recursive: true });
  copyFileSync(busybox, join(root, 'bin/busybox'));
  for (const name of execFileSync(busybox, ['--list'], { encoding: 'utf8' }).trim().split('\n'))
    if (name !== 'busybox') symlinkSync('busybox', join(root, 'bin', name));
  const extra = mountPoints ? ['proc', 'dev', 'tmp', 'work', 'sys', 'run', 'inputs'] : [];
  for (const name of extra) mkdirSync(join(root, name));
  return root;
}

export interface IsolationBed extends AsyncDisposable {
  readonly directory: string;
  readonly root: string;
  readonly instance: string;
  readonly server: ForkServer;
}

export async function makeBed({ binary = isolateBinary }: { binary?: string } = {}): Promise<IsolationBed> {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-isolate-'));
  const server = await startForkServer({ socket: join(directory, 'isolate.sock'), binary });
  const instance = randomBytes(4).toString('hex');
  return {
    directory,
    root: makeRoot(directory),
    instance,
    server,
    async [Symbol.asyncDispose]() {
      await server.close();
      await noTrace(instance);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** No control group of the instance is left. */
export async function noTrace(instance: string): Promise<void> {
  const { where } = readCgroupLayout();
  const mounts = new Set(Object.values(where).map(({ mount }) => mount));
  for (const mount of mounts) {
    const directory = join(mount, `carrel-${instance}`);
    if (existsSync(directory))
      assert.deepEqual(
        readdirSync(directory, { withFileTypes: true, recursive: true })
          .filter((entry) => entry.isDirectory())
          .map((entry) => entry.name)
          .filter((name) => name !== 'slots' && name !== 'machines'),
        [],
        directory,
      );
  }
}

/** Processes of the host whose command line contains the text. */
export function processesWith(text: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      if (pid === process.pid) return false;
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(text);
      } catch {
        return false;
      }
    });
}

export async function gone(text: string): Promise<void> {
  await until(5000, `processes with ${text} to end`, () => (processesWith(text).length ? undefined : true));
}

export interface Lab extends AsyncDisposable {
  readonly bed: IsolationBed;
  readonly directory: string;
  readonly keeper: Keeper;
  readonly spec: ContainerSpec;
}

/** A container of the small root file system, running. */
export async function makeLab(more: Partial<ContainerSpec> = {}): Promise<Lab> {
  const bed = await makeBed();
  const directory = join(bed.directory, 'm-test');
  mkdirSync(join(directory, 'storage'), { recursive: true, mode: 0o700 });
  const spec: ContainerSpec = {
    id: 'm-test',
    hostname: 'lab',
    directory,
    lower: bed.root,
    upper: { kind: 'directory', path: join(directory, 'storage') },
    uidBase: 0x6000_0000,
    init: [],
    limits: { cpus: 1, memoryBytes: 64 << 20, processes: 40 },
    ...more,
  };
  try {
    const keeper = await startContainer(bed.server, spec, { instance: bed.instance });
    return {
      bed,
      directory,
      keeper,
      spec,
      async [Symbol.asyncDispose]() {
        keeper.close();
        await releaseMachine(bed.instance, spec.id);
        // its keeper notices, writes the report into the directory, and only then lets go
        const { lock } = keptPaths(directory);
        await until(5000, 'the keeper to end', () => (isLocked(lock) ? undefined : true));
        await noTrace(bed.instance);
        await bed[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await bed[Symbol.asyncDispose]();
    throw error;
  }
}

/** Runs a shell script in the machine, to its end. */
export async function runIn(
  keeper: Keeper,
  script: string,
  more: Partial<ExecSpec> = {},
): Promise<{ out: string; err: string; exit: number | null }> {
  const { stdout, stderr, report } = await collect(
    await keeper.exec({ argv: ['sh', '-c', script], ...more }),
  );
  return { out: stdout.toString(), err: stderr.toString(), exit: report.exit };
}
