/**
 * Machines for grading without a daemon: a network namespace of their own with a fabric in it, which nothing
 * leads out of, and one fresh container after the other.
 */
import { mkdir } from 'node:fs/promises';
import { openSync } from 'node:fs';
import { join } from 'node:path';
import { unlessAborted } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { Logger } from '#base/log.ts';
import { newLimits } from '#contract/schemas/machines.ts';
import { formatAddress, macOf } from '#fabric/addresses.ts';
import { openFabric } from '#fabric/fabric.ts';
import { ownFd } from '#host/fds.ts';
import { syscall, trySyscall } from '#host/syscalls.ts';
import type { Images } from '#images/store.ts';
import type { ForkServer } from '#isolate/server.ts';
import { createDrivers } from '#machines/drivers/table.ts';
import type { MachineSpec } from '#machines/driver.ts';
import { imageKindOf } from '#machines/image-kinds.ts';
import { limitsFor } from '#machines/requests.ts';
import type { GradingDriver } from './format/machine.ts';
import { createParking, freshMachine, startHeld } from './local-held.ts';
import type { WithFreshMachine } from './machine.ts';

const CLONE_NEWNET = 0x40000000;
/** Blocks of user ids: far above those that a daemon gives out, below those of the sandboxes. */
const firstUidSlot = 20_000;
const uidSlots = 4096;
/** Until its first answer: an emulated one boots for seconds, on a busy host for a minute. */
const readyMs: Readonly<Record<GradingDriver, number>> = { container: 20_000, qemu: 180_000 };

export interface LocalMachinesOptions {
  readonly server: ForkServer;
  readonly images: Images;
  /** A private directory: each machine gets one in it. */
  readonly directory: string;
  readonly instance: string;
  readonly log: Logger;
}

export interface LocalMachines extends AsyncDisposable {
  readonly withFreshMachine: WithFreshMachine;
}

/** The calling thread goes into a new network namespace; `leave` takes it back. */
function enterNewNetwork(): { leave(): void } {
  const home = ownFd(openSync('/proc/thread-self/ns/net', 'r'));
  syscall('unshare', CLONE_NEWNET);
  return {
    leave() {
      // going on in a namespace without a network would be worse than not going on
      if (trySyscall('setns', home.fd, CLONE_NEWNET) !== 0) process.abort();
      home.close();
    },
  };
}

/**
 * For a process of its own (a command, a test file): until this is closed, its main thread has no network but
 * the machines'. Needs root.
 */
export async function openLocalMachines(options: LocalMachinesOptions): Promise<LocalMachines> {
  if (process.geteuid?.() !== 0)
    throw new CarrelError('host_unsupported', 'machine labs can be checked by root only', {
      hint: 'run it as root, or import the lab into a running cloud',
    });
  await using opened = new AsyncDisposableStack();
  const network = enterNewNetwork();
  opened.defer(() => network.leave());
  const fabric = opened.use(await openFabric());
  const drivers = createDrivers({ ...options, fabric });
  const { prefix, base } = fabric.network;
  const park = createParking(options.log);
  let count = 0;
  const all = opened.move();
  return {
    async withFreshMachine(request, use) {
      const { signal } = request;
      signal.throwIfAborted();
      const driver = drivers[request.driver];
      if (!driver)
        throw new CarrelError('driver_unsupported', `there are no machines of kind ${request.driver}`);
      const image = await options.images.ensure(request.image, { kind: imageKindOf[request.driver] });
      const limits = limitsFor(newLimits.parse(request.limits), image);
      await driver.validate({ name: 'machine', limits }, image);
      count += 1;
      const id = newId('machine');
      const address = base + 2 + (count % 60_000);
      const spec: MachineSpec = {
        id,
        name: 'machine',
        // alone, or others would share its neighbourhood
        ownerId: newId('user'),
        directory: join(options.directory, id),
        image: image.hash,
        limits,
        uidSlot: firstUidSlot + ((Number.parseInt(options.instance.slice(-6), 16) + count) % uidSlots),
        network: {
          name: 'default',
          address: formatAddress(address),
          prefix,
          gateway: fabric.gateway,
          mac: macOf(address),
          bytesPerSecond: null,
        },
        sshKeys: [],
      };
      await mkdir(spec.directory, { recursive: true, mode: 0o711 });
      await using machine = new AsyncDisposableStack();
      machine.defer(() => driver.remove(spec));
      await park(driver, spec, signal);
      await driver.prepare(spec);
      const held = machine.use(await startHeld(driver, spec));
      const limitMs = readyMs[request.driver];
      await unlessAborted(signal, held.running()?.ready({ limitMs }) ?? Promise.resolve());
      return await use(freshMachine(driver, spec, held));
    },
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}
