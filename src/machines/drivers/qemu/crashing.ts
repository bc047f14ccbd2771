/**
 * A process for the crash test of virtual machines: takes machines through their lives as a worker does, and waits to
 * be killed. Argument: what the parent knows of the host, as JSON (the image is found by name).
 */
import { z } from 'zod';
import { silent } from '#base/log.ts';
import { openFabric } from '#fabric/fabric.ts';
import { openImages } from '#images/store.ts';
import { startForkServer } from '#isolate/server.ts';
import type { MachineSpec } from '../../driver.ts';
import { createQemuDriver } from './driver.ts';

const limits = z.strictObject({
  cpus: z.number(),
  memoryBytes: z.number(),
  processes: z.number(),
  diskBytes: z.number(),
});
const network = z.strictObject({
  name: z.string(),
  address: z.string(),
  prefix: z.number(),
  gateway: z.string(),
  mac: z.string(),
  bytesPerSecond: z.number().nullable(),
});
const argument = z.strictObject({
  directory: z.string(),
  instance: z.string(),
  socket: z.string(),
  specs: z.array(
    z.strictObject({
      id: z.string(),
      name: z.string(),
      ownerId: z.string(),
      directory: z.string(),
      image: z.string(),
      limits,
      uidSlot: z.number(),
      network,
      sshKeys: z.array(z.string()),
    }),
  ),
});

/** Should nobody kill it. */
const lifeMs = 60_000;
setTimeout(() => process.exit(3), lifeMs);

const { directory, instance, socket, specs } = argument.parse(JSON.parse(process.argv[2] ?? ''));
const driver = createQemuDriver({
  directory,
  instance,
  server: await startForkServer({ socket }),
  fabric: await openFabric(),
  images: await openImages(),
  log: silent,
});
const [first, second] = specs;
if (!first || !second) throw new Error('two machines are needed');

const step = (name: string): void => void process.stdout.write(`${name}\n`);

/** One life of the first machine, and of its copy; each step is one that a job would do again after a crash. */
async function live(spec: MachineSpec, copy: MachineSpec): Promise<void> {
  step('prepare');
  await driver.prepare(spec);
  step('start');
  const machine = await driver.start(spec);
  step('snapshot');
  await driver.snapshot(spec, 's-live', machine);
  step('pause');
  await machine.pause();
  await machine.resume();
  step('clone');
  await driver.prepare({ ...copy, source: { id: spec.id, directory: spec.directory, snapshot: null } });
  step('stop');
  await machine.stop({ graceMs: 0 });
  machine.release();
  await driver.tidy(spec);
  step('restore');
  await driver.snapshot(spec, 's-still', undefined);
  await driver.restore(spec, 's-live');
  step('drop');
  await driver.dropSnapshot(spec, 's-live', undefined);
  await driver.dropSnapshot(spec, 's-still', undefined);
  step('remove');
  await driver.remove(copy);
  await driver.remove(spec);
}

for (;;) await live(first, second);
