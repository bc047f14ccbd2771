/** What the tests of virtual machines share: the driver on this host, in a network namespace of its own, with the image `tiny`. */
import { randomBytes, randomInt } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silent } from '#base/log.ts';
import { type Fabric, openFabric } from '#fabric/fabric.ts';
import { macOf, parseAddress } from '#fabric/addresses.ts';
import type { Image } from '#images/layout.ts';
import { openImages } from '#images/store.ts';
import { instanceGroup, sweepGroups } from '#isolate/cgroups/group.ts';
import { readCgroupLayout } from '#isolate/cgroups/layout.ts';
import { isolateBinary, startForkServer } from '#isolate/server.ts';
import { enterNetns, makeNetns } from '#test/netbed.ts';
import type { Driver, MachineSpec, RunningMachine } from '../../driver.ts';
import type { DriverHost } from '../table.ts';
import { createQemuDriver } from './driver.ts';
import { qemuProgram } from './installed.ts';

/** Why these tests cannot run here; false if they can. */
export const skip: string | false =
  process.getuid?.() !== 0
    ? 'needs root'
    : !existsSync(isolateBinary)
      ? 'needs the native build'
      : !existsSync(qemuProgram)
        ? 'needs qemu-system-x86'
        : false;

/** A busy host without KVM takes long. */
export const bootMs = 120_000;

export interface VmBed extends AsyncDisposable {
  readonly host: DriverHost;
  readonly driver: Driver;
  readonly fabric: Fabric;
  readonly image: Image;
  /** Another driver over the same host, as a daemon has that starts again. */
  again(): Driver;
  /** Prepares and starts it, and waits until a command answers. */
  boot(spec: MachineSpec): Promise<RunningMachine>;
  /** Facts of a machine; each has its own id, address and user ids. */
  spec(more?: Partial<MachineSpec>): MachineSpec;
}

/** The same content with other words about it, in another cache. */
function copyImage({ directory, hash }: Image, words: Pick<Image, 'disk'>, to: string): void {
  cpSync(directory, join(to, hash), { recursive: true });
  const path = join(to, hash, 'image.json');
  const record: unknown = JSON.parse(readFileSync(path, 'utf8'));
  writeFileSync(path, JSON.stringify({ ...(typeof record === 'object' ? record : {}), ...words }));
}

/**
 * For a test file of its own process: the main thread stays in the namespace. `changed` gives an image of the same
 * content of which something else is known.
 */
export async function makeVmBed(
  changed?: (disk: NonNullable<Image['disk']>) => Image['disk'],
): Promise<VmBed> {
  await using stack = new AsyncDisposableStack();
  const directory = mkdtempSync(join(tmpdir(), 'carrel-vm-'));
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const instance = randomBytes(4).toString('hex');
  stack.defer(() => sweepGroups(readCgroupLayout(), instanceGroup(instance)));
  const tiny = await (await openImages()).ensure('tiny');
  const images = await openImages(changed ? { cache: join(directory, 'cache') } : {});
  if (changed && tiny.disk) copyImage(tiny, { disk: changed(tiny.disk) }, images.layout.images);
  const image = await images.require('tiny');
  const netns = stack.use(await makeNetns());
  enterNetns(netns.pid);
  const fabric = stack.use(await openFabric());
  const server = stack.adopt(await startForkServer({ socket: join(directory, 'isolate.sock') }), (each) =>
    each.close(),
  );
  const machines = join(directory, 'machines');
  mkdirSync(machines, { mode: 0o700 });
  const host: DriverHost = { server, fabric, images, directory: machines, instance, log: silent };
  const driver = createQemuDriver(host);
  stack.defer(async () => {
    for (const id of await driver.traces()) await driver.sweep(id);
    await driver.close?.();
  });
  // others may be testing on this host at the same time: each has users of its own
  const firstSlot = randomInt(10_000, 60_000);
  let made = 0;
  const resources = stack.move();
  return {
    host,
    driver,
    fabric,
    image,
    again: () => createQemuDriver(host),
    async boot(spec) {
      await driver.prepare(spec);
      const machine = await driver.start(spec);
      await machine.ready({ limitMs: bootMs });
      return machine;
    },
    spec(more = {}) {
      made += 1;
      const id = `m-${randomBytes(6).toString('hex')}`;
      const address = `192.168.0.${10 + made}`;
      return {
        id,
        name: `vm${made}`,
        ownerId: 'u-test',
        directory: join(machines, id),
        image: image.hash,
        limits: { cpus: 1, memoryBytes: 128 * 2 ** 20, processes: 64, diskBytes: 512 * 2 ** 20 },
        uidSlot: firstSlot + made,
        network: {
          name: 'default',
          address,
          prefix: 16,
          gateway: '192.168.0.1',
          mac: macOf(parseAddress(address)),
          bytesPerSecond: null,
        },
        sshKeys: [],
        ...more,
      };
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
