/**
 * A whole cloud for tests, without a host to disturb: a network namespace of its own, a database of its own,
 * the fork server, the fabric, the service and a worker. For a test file of its own process: the main thread
 * stays in the namespace.
 */
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Logger, silent } from '#base/log.ts';
import type { NewMachine } from '#contract/schemas/machines.ts';
import { newMachine } from '#contract/schemas/machines.ts';
import { type Fabric, openFabric } from '#fabric/fabric.ts';
import { openImages, type Images } from '#images/store.ts';
import { instanceGroup, sweepGroups } from '#isolate/cgroups/group.ts';
import { readCgroupLayout } from '#isolate/cgroups/layout.ts';
import { openSandboxes, type Sandboxes } from '#isolate/sandbox.ts';
import { type ForkServer, startForkServer } from '#isolate/server.ts';
import { waitForJob } from '#jobs/wait.ts';
import { createWorker, type Worker } from '#jobs/worker.ts';
import type { Store } from '#store/database.ts';
import type { Job } from '#store/jobs.ts';
import { startTestCluster, type TestCluster } from '#store/testing.ts';
import { insertUser } from '#store/users.ts';
import { enterNetns, makeNetns, type Netbed } from '#test/netbed.ts';
import type { Actor } from '#base/actor.ts';
import type { Accepted } from './requests.ts';
import { copyingDrivers } from './copying-driver.ts';
import type { UpkeepOptions } from './templates/upkeep.ts';
import { instanceOf, type Machines, openMachines } from './service.ts';

export interface Bed extends AsyncDisposable {
  readonly dataDirectory: string;
  readonly store: Awaited<ReturnType<TestCluster['freshStore']>>;
  readonly fabric: Fabric;
  readonly images: Images;
  readonly netns: Netbed;
  readonly cluster: TestCluster;
  /** The service as it is now: `resume` replaces it. */
  readonly machines: Machines;
  user(name: string, options?: { admin?: boolean }): Promise<Actor>;
  /** Closes service, worker and fork server; the machines go on. */
  suspend(): Promise<void>;
  /** Opens them again, as a daemon does that starts. */
  resume(options?: { templates?: Partial<UpkeepOptions> }): Promise<void>;
  /** Waits for the job and throws its error. */
  done(accepted: Accepted | Promise<Accepted>): Promise<Job>;
  /** Creates a machine and waits until it runs; gives its id. */
  make(actor: Actor, wanted?: Partial<NewMachine>): Promise<string>;
}

export interface ServiceParts extends AsyncDisposable {
  readonly server: ForkServer;
  readonly machines: Machines;
  readonly worker: Worker;
  close(): Promise<void>;
}

/** What a daemon opens, in its order. Closing leaves the machines running. */
export async function openService({
  store,
  fabric,
  images,
  dataDirectory,
  log = silent,
  leaseMs = 3000,
  reconciles = true,
  templates = { automatic: false },
}: {
  store: Pick<Store, 'db' | 'listen'>;
  fabric: Fabric;
  images: Images;
  dataDirectory: string;
  log?: Logger;
  leaseMs?: number;
  /** As the daemon does, and a worker does not. */
  reconciles?: boolean;
  templates?: Partial<UpkeepOptions>;
}): Promise<ServiceParts> {
  mkdirSync(join(dataDirectory, 'run'), { recursive: true });
  const server = await startForkServer({ socket: join(dataDirectory, 'run', 'isolate.sock'), logger: log });
  let opened: Promise<Sandboxes> | undefined;
  const machines = await openMachines({
    sandboxes: () => (opened ??= openSandboxes({ server, instance: instanceOf(dataDirectory) })),
    db: store.db,
    server,
    fabric,
    images,
    dataDirectory,
    log,
    reconciles,
    reconcileEveryMs: 500,
    templates,
    drivers: copyingDrivers,
  });
  const worker = createWorker({ store, jobs: machines.jobs, leaseMs, heartbeatMs: leaseMs / 3, log });
  const close = async (): Promise<void> => {
    await worker.stop();
    await machines.close();
    await (await opened)?.close();
    await server.close();
  };
  return { server, machines, worker, close, [Symbol.asyncDispose]: close };
}

/** A network's name server is the bed's own, and another process whenever a name has been taken back. */
export function exceptNameServers(left: readonly string[]): string[] {
  return left.filter((line) => !/^process: \d+ dnsmasq:/.test(line));
}

let counter = 0;

/** A creation request with small limits, for the small image. */
export function request(wanted: Partial<NewMachine> = {}): NewMachine {
  counter += 1;
  return {
    ...newMachine.parse({ name: `m${counter}`, image: 'busybox' }),
    limits: { cpus: 1, memoryBytes: 64 * 2 ** 20, processes: 64, diskBytes: 32 * 2 ** 20 },
    ...wanted,
  };
}

export async function startBed({
  log = silent,
  leaseMs = 3000,
  images: given,
}: { log?: Logger; leaseMs?: number; images?: Images } = {}): Promise<Bed> {
  await using stack = new AsyncDisposableStack();
  const dataDirectory = mkdtempSync(join(tmpdir(), 'carrel-machines-'));
  chmodSync(dataDirectory, 0o711); // name servers are nobody's, and have their files in it
  stack.defer(() => rmSync(dataDirectory, { recursive: true, force: true }));
  stack.defer(() => sweepGroups(readCgroupLayout(), instanceGroup(instanceOf(dataDirectory))));
  const cluster = stack.adopt(await startTestCluster(), (each) => each.close());
  const store = await cluster.freshStore();
  const images = given ?? (await openImages());
  if (!given) await images.ensure('busybox');
  const netns = stack.use(await makeNetns());
  enterNetns(netns.pid);
  const fabric = stack.use(await openFabric({ runDirectory: dataDirectory }));
  const open = (more: { templates?: Partial<UpkeepOptions> } = {}) =>
    openService({ store, fabric, images, dataDirectory, log, leaseMs, ...more });
  let service = await open();
  stack.defer(() => service.close());
  stack.defer(async () => {
    // whatever a test has left
    for (const { id } of await store.db
      .selectFrom('machines')
      .select('id')
      .where('deleted_at', 'is', null)
      .execute())
      await done(service.machines.remove(null, id)).catch(() => undefined);
  });

  const done: Bed['done'] = async (accepted) => {
    const { job } = await accepted;
    const ended = await waitForJob(store, job.id, { limitMs: 30_000, pollMs: 200 });
    if (ended.state !== 'done')
      throw new Error(`job ${ended.kind} ${ended.state}: ${JSON.stringify(ended.error)}`);
    return ended;
  };
  const resources = stack.move();
  return {
    dataDirectory,
    store,
    fabric,
    images,
    netns,
    cluster,
    get machines() {
      return service.machines;
    },
    async user(name, { admin = false } = {}) {
      const user = await insertUser(store.db, { name, admin });
      return { id: user.id, name, admin };
    },
    suspend: () => service.close(),
    async resume(options) {
      service = await open(options);
    },
    done,
    async make(actor, wanted) {
      const accepted = await service.machines.create(actor, request(wanted));
      await done(accepted);
      return accepted.machineId;
    },
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
