/**
 * What does the work: isolation, images, machines, grading, and the workers that run their jobs. The daemon and
 * `carrel worker` open the same engine; only the daemon reconciles.
 *
 * Parts are imported when they are opened: one that cannot even be loaded degrades the cloud and no more.
 * Three workers rather than one, so that a long queue of submissions does not hold up the start of a machine.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { Logger } from '#base/log.ts';
import { openLabFolders, type LabFolders } from '#classroom/folders.ts';
import { labPools } from '#classroom/lab-machines.ts';
import { defineRegradeJob } from '#classroom/regrades.ts';
import { fabricEnvironment } from '#fabric/environment.ts';
import { freshContainer } from '#grading/fresh-container.ts';
import { freshVm } from '#grading/fresh-vm.ts';
import { imageOfLab, refuseImpossible } from '#grading/image.ts';
import type { WithFreshMachine } from '#grading/machine.ts';
import { openBlobs, type BlobStore } from '#images/blobs.ts';
import type { OnlineRunner } from '#images/disk/online.ts';
import { openImages } from '#images/store.ts';
import { startForkServer, type ForkServer } from '#isolate/server.ts';
import { createWorker } from '#jobs/worker.ts';
import type { Machines } from '#machines/service.ts';
import type { Store } from '#store/database.ts';
import type { Db } from '#store/schema.ts';
import { openImageRegistry, type ImageRegistry } from './images.ts';
import { startPart, type Part } from './part.ts';

export interface EngineOptions {
  readonly dataDirectory: string;
  readonly cache?: string | undefined;
  readonly store: Store;
  /** Started before everything else, while the process is small. */
  readonly isolation: Part<ForkServer>;
  /** Names the control groups of sandboxes. */
  readonly instance: string;
  /** Names the control groups of machines: the cloud's. */
  readonly cloud: string;
  readonly reconciles: boolean;
  readonly log: Logger;
}

export interface Engine {
  readonly registry: ImageRegistry;
  /** What a virtual machine may start from, by name; `not_found` if there is no such disk. */
  readonly template: (name: string) => Promise<{ readonly image: string; readonly minimumBytes: number }>;
  readonly blobs: BlobStore;
  readonly folders: LabFolders;
  readonly machines: Part<Machines>;
  readonly grading: Part<unknown>;
  /** Gives running jobs back, lets go of machines, ends sandboxes. */
  close(): Promise<void>;
}

/** Jobs get this long to stop when the process ends; the rest is left to their leases. */
const GIVE_BACK_MS = 3000;
const MACHINE_SLOTS = 8;
/** New jobs are announced; this is for an announcement that was lost. */
const POLL_MS = 5000;

/** The fork server as a part; `socket` must be this process's own. */
export function startIsolation(socket: string, log: Logger): Part<ForkServer> {
  return startPart({
    name: 'isolation',
    log,
    open: () => startForkServer({ socket, logger: log }),
    close: (server) => server.close(),
  });
}

export async function openEngine(options: EngineOptions): Promise<Engine> {
  const { dataDirectory, cache, store, isolation, instance, cloud, reconciles, log } = options;
  const { db } = store;
  const images = await openImages(cache === undefined ? {} : { cache });
  // the machines' own part knows when their directory is there, and swept
  const online: OnlineRunner = async (request) => {
    const [server, { createOnlineRunner }] = await Promise.all([
      isolation.soon(),
      import('#machines/drivers/qemu/online.ts'),
      machines.soon(),
    ]);
    const host = { server, directory: join(dataDirectory, 'machines'), instance: cloud };
    return createOnlineRunner(host)(request);
  };
  const registry = openImageRegistry({ db, images, online });
  const blobs = await openBlobs(join(dataDirectory, 'blobs'));
  const folders = await openLabFolders({
    directory: join(dataDirectory, 'labs'),
    blobs,
    accept: (lab) => refuseImpossible(images, lab),
  });
  const general = createWorker({
    store,
    jobs: [...registry.jobs, defineRegradeJob({ db })],
    slots: 2,
    pollMs: POLL_MS,
    log,
  });

  const machines = startPart({
    name: 'machines',
    log,
    async open() {
      const server = await isolation.opened;
      const environment = fabricEnvironment();
      if (!environment)
        throw new CarrelError('host_unsupported', 'this process was not started inside the fabric', {
          hint: 'start the cloud with: carrel up',
        });
      const [{ openFabric }, { openMachines }] = await Promise.all([
        import('#fabric/fabric.ts'),
        import('#machines/service.ts'),
      ]);
      const { netns, hostAddresses, resolver } = environment;
      const fabric = await openFabric({
        netns,
        hostAddresses,
        resolver,
        // not its `run`, which is closed to others: name servers are nobody's
        runDirectory: dataDirectory,
        log,
      });
      const service = await openMachines({
        db,
        server,
        fabric,
        images,
        sandboxes: async () => (await grading.soon()).sandboxes,
        dataDirectory,
        instance: cloud,
        log,
        reconciles,
        templates: {
          automatic: process.env['CARREL_AUTOPARK'] !== 'no',
          pools: () => labPools(db),
        },
      });
      const worker = createWorker({ store, jobs: service.jobs, slots: MACHINE_SLOTS, pollMs: POLL_MS, log });
      return { service, worker, fabric };
    },
    async close({ service, worker, fabric }) {
      await worker.stop({ limitMs: GIVE_BACK_MS });
      await service.close();
      fabric.close();
    },
  });

  const grading = startPart({
    name: 'grading',
    log,
    async open() {
      const server = await isolation.opened;
      const [{ openSandboxes }, { openWorkplace }, { defineGradeJob }, { openRegexGuard }] =
        await Promise.all([
          import('#isolate/sandbox.ts'),
          import('#classroom/workplace.ts'),
          import('#classroom/grade.ts'),
          import('#grading/judge/regex.ts'),
        ]);
      const sandboxes = await openSandboxes({ server, instance });
      const workplace = await openWorkplace({ base: join(dataDirectory, 'run', 'grading'), blobs });
      const guard = openRegexGuard();
      const job = defineGradeJob({
        db,
        folders,
        workplace,
        grader: {
          sandboxes,
          guard,
          imageOf: (lab) => imageOfLab(images, lab),
          withFreshMachine: freshMachines(db, async () => (await machines.soon()).service),
        },
      });
      const worker = createWorker({
        store,
        jobs: [job],
        slots: availableParallelism() + 1,
        pollMs: POLL_MS,
        log,
      });
      return { sandboxes, workplace, guard, worker };
    },
    async close({ sandboxes, workplace, guard, worker }) {
      await worker.stop({ limitMs: GIVE_BACK_MS });
      await sandboxes.close();
      await workplace.close();
      await guard.close();
    },
  });

  return {
    registry,
    async template(name) {
      const image = await images.require(name, { kind: 'disk' });
      return { image: image.name, minimumBytes: image.disk?.virtualBytes ?? 0 };
    },
    blobs,
    folders,
    machines: serviceOf(machines),
    grading,
    async close() {
      await Promise.all([general.stop({ limitMs: GIVE_BACK_MS }), grading.close(), machines.close()]);
    },
  };
}

/** The part without its worker. */
function serviceOf(part: Part<{ readonly service: Machines }>): Part<Machines> {
  const opened = part.opened.then(({ service }) => service);
  opened.catch(() => undefined);
  return {
    name: part.name,
    get up() {
      return part.up;
    },
    get: () => part.get().service,
    soon: async (ms) => (await part.soon(ms)).service,
    opened,
    close: () => part.close(),
  };
}

/** Machines for grading: made for the author of the submission, in the course of its lab. */
function freshMachines(db: Db, machines: () => Promise<Machines>): WithFreshMachine {
  return async ({ submissionId, ...wanted }, use) => {
    const owner = await db
      .selectFrom('submissions')
      .innerJoin('labs', 'labs.id', 'submissions.lab_id')
      .select(['submissions.user_id as ownerId', 'labs.course_id as courseId', 'labs.id as labId'])
      .where('submissions.id', '=', submissionId)
      .executeTakeFirstOrThrow();
    const service = await machines();
    return service.withFreshMachine({ ...wanted, submissionId, ...owner }, (machine) => {
      const address = machine.address === '' ? null : machine.address;
      if (wanted.driver === 'qemu')
        return use(freshVm({ ...machine, address, console: () => machine.record() }));
      return use(freshContainer({ ...machine, address }));
    });
  };
}
