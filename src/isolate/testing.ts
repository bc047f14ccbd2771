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
import { readCgroupLayout } from './cgroups/layout.ts';
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
