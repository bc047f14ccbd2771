/** What templates and their clones ask of QEMU beyond a machine that boots: its argument list as a name, and state. */
import { open } from 'node:fs/promises';
import { createServer } from 'node:net';
import { cpus } from 'node:os';
import { chmodSync, rmSync } from 'node:fs';
import { z } from 'zod';
import { until } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import type { Limits } from '#contract/schemas/machines.ts';
import { qemuArguments } from '../argv.ts';
import { nothing, type Qmp, runState } from '../qmp.ts';
import { vcpusOf } from '../spec.ts';
import { qemuProgram } from '../installed.ts';
import { type DiskImage, wholePages } from '../start.ts';
import type { Acceleration } from '../accelerator.ts';
import { templateKey } from './key.ts';

/** The descriptor of the memory in QEMU (see `numbers` in start.ts), as the file that it opens. */
export const memoryInJail = '/proc/self/fd/6';
/** The descriptor after it: the parked state. */
export const stateFd = 7;
/** Where a QEMU that is being parked finds the one who takes its state. */
export const stateSocketInJail = '/machine/state.sock';

/** Changes when a machine that was booted by an older Carrel would not do for a template any more. */
const seedVersion = 4;

/** Devices and processors of some 400 KiB; a guest's virtio queues may add to them, but never this much. */
const maxStateBytes = 64 * 2 ** 20;
const migrationMs = 60_000;
const pollMs = 2;

/** The key of the template for an image and limits on this host: one QEMU, one way to run it, one set of devices. */
export async function keyOfMachine(
  image: DiskImage,
  limits: Pick<Limits, 'cpus' | 'memoryBytes'>,
  { accelerator }: Pick<Acceleration, 'accelerator'>,
): Promise<string> {
  const { boot } = image.disk;
  const processor = cpus()[0]?.model ?? '';
  const argv = qemuArguments({
    name: 'template',
    accelerator,
    tscKhz: null, // measured anew by each process; a parked kernel keeps what it was told, see `processor`
    vcpus: vcpusOf(limits),
    memoryBytes: wholePages(limits.memoryBytes),
    memory: { path: memoryInJail, share: true },
    boot: boot && { kernel: 'kernel', initrd: 'initrd', append: boot.append },
    disk: [{ node: 'disk', path: 'disk' }],
    cloudInit: null,
    network: { kind: 'tap', fd: 3 },
    mac: 'mac',
    qmpFd: 4,
    agentFd: 5,
    incoming: false,
  });
  return templateKey({ program: qemuProgram, argv, image: image.hash, processor, seed: seedVersion });
}

const migration = z.object({ status: z.string().max(100).optional(), 'error-desc': z.string().optional() });

/** The memory is a file of ours already: state without it. */
async function ignoreShared(qmp: Qmp): Promise<void> {
  const capabilities = [{ capability: 'x-ignore-shared', state: true }];
  await qmp.execute('migrate-set-capabilities', { capabilities }, nothing);
}

/** Makes the stopped machine send its state to the socket that `stateSocketInJail` leads to. */
export async function sendState(qmp: Qmp): Promise<void> {
  await ignoreShared(qmp);
  await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 }, nothing);
  await qmp.execute('migrate', { uri: `unix:${stateSocketInJail}` }, nothing);
  await until(
    migrationMs,
    'QEMU to write its state',
    async () => {
      const { status, 'error-desc': why } = await qmp.execute('query-migrate', {}, migration);
      if (status === 'failed' || status === 'cancelled')
        throw new CarrelError(
          'helper_failed',
          `QEMU could not write its state: ${(why ?? status).slice(0, 500)}`,
        );
      return status === 'completed' ? true : undefined;
    },
    { everyMs: pollMs },
  );
}

/** Loads state from the descriptor `stateFd`; the machine is stopped afterwards, as it was when it was parked. */
export async function loadState(qmp: Qmp): Promise<void> {
  await ignoreShared(qmp);
  // Nobody has ever heard of it elsewhere: once is enough. Not 0: QEMU 7.2 then has no timer for it, and the reset of the
  // network card (a guest that shuts down or reboots) ends it with SIGSEGV (hw/net/virtio-net.c, virtio_net_reset).
  await qmp.execute('migrate-set-parameters', { 'announce-rounds': 1 }, nothing);
  await qmp.execute('migrate-incoming', { uri: `fd:${stateFd}` }, nothing);
  await until(
    migrationMs,
    'QEMU to read the parked state',
    async () => {
      const { status } = await qmp.execute('query-status', {}, runState);
      if (status === 'inmigrate') return undefined;
      if (status !== 'paused')
        throw new CarrelError('helper_failed', `QEMU is ${status} after it read the parked state`);
      return true;
    },
    { everyMs: pollMs },
  );
}

export interface StateTaker extends AsyncDisposable {
  /** Resolves when all of it has been written to the file. */
  readonly taken: Promise<void>;
}

/** Listens at `socket` for one who brings state, and writes it to `file`. QEMU, under any id, may connect. */
export async function takeState(socket: string, file: string): Promise<StateTaker> {
  const taken = Promise.withResolvers<void>();
  taken.promise.catch(() => undefined);
  rmSync(socket, { force: true });
  const server = createServer({ pauseOnConnect: false }, (connection) => {
    server.close(); // one is enough
    const write = async (): Promise<void> => {
      await using target = await open(file, 'wx', 0o600);
      let bytes = 0;
      for await (const chunk of connection) {
        if (!Buffer.isBuffer(chunk)) continue;
        bytes += chunk.length;
        if (bytes > maxStateBytes) throw new CarrelError('too_large', 'the state of the machine has no end');
        await target.write(chunk);
      }
      if (bytes === 0) throw new CarrelError('helper_failed', 'QEMU brought no state');
    };
    write().then(taken.resolve, (error: unknown) => {
      connection.destroy();
      taken.reject(error);
    });
  });
  server.on('error', taken.reject);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socket, resolve);
  });
  chmodSync(socket, 0o666);
  return {
    taken: taken.promise,
    async [Symbol.asyncDispose]() {
      server.close();
      rmSync(socket, { force: true });
    },
  };
}
