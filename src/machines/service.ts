/**
 * Machines: the door of this floor. Opened once per process; what it knows is in the database and in the
 * keepers, so closing it (or killing it) changes nothing for the machines.
 *
 *   requests.ts   what is asked for: checks, one transaction, a job
 *   jobs.ts       the jobs; work.ts what they do to the world
 *   inside.ts     run, files, figures; execs.ts programs that stay, the console
 *   reconcile.ts  rows and reality made to agree
 *   fresh.ts      machines for one piece of work
 *   drivers/      the kinds of machines
 */
import { createHash } from 'node:crypto';
import { realpathSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep, within } from '#base/deadline.ts';
import { messageOf } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import type { Machine, NewMachine } from '#contract/schemas/machines.ts';
import type { NewClone } from '#contract/schemas/snapshots.ts';
import type { Fabric } from '#fabric/fabric.ts';
import type { Images } from '#images/store.ts';
import type { RunnableJob } from '#jobs/types.ts';
import type { Db } from '#store/schema.ts';
import { selectSpares } from '#store/templates.ts';
import type { Actor, RequestInfo } from '#base/actor.ts';
import { type Cloud, neighbourhoodOf, runningOf } from './cloud.ts';
import { requestClone } from './clones.ts';
import { noticeEnd, type ReconcileReport } from './confirm.ts';
import { createDrivers, type DriverHost, type Drivers } from './drivers/table.ts';
import { type Execs, openExecs } from './execs.ts';
import { type FreshMachine, type FreshOptions, withFresh } from './fresh.ts';
import { lookForIdle } from './idle.ts';
import { createIdleness } from './idleness.ts';
import { type Inside, openInside } from './inside.ts';
import { machineJobs } from './jobs.ts';
import { openViews, type Views } from './list.ts';
import { openLiving } from './living.ts';
import { openLocks } from './locks.ts';
import { type Networks, openNetworks } from './networks.ts';
import { reconcileAll, reconcileSome, removeOwnLeftOvers } from './reconcile.ts';
import {
  type Accepted,
  acceptPresent,
  type CreateOptions,
  requestCreate,
  requestVerb,
  type RequireImage,
  type VerbOptions,
} from './requests.ts';
import { openSnapshots, type Snapshots } from './snapshots.ts';
import { createLookForStalled } from './stalled.ts';
import { scriptJob } from './script-job.ts';
import { openScripts, type Scripts } from './scripts.ts';
import type { Verb } from './state.ts';
import { openTemplates, type Templates } from './templates/service.ts';
import type { UpkeepOptions } from './templates/upkeep.ts';
import { createWaiting } from './waiting.ts';

export interface MachinesOptions {
  readonly db: Db;
  readonly server: DriverHost['server'];
  readonly fabric: Fabric;
  readonly images: Images;
  /** See drivers/table.ts. */
  readonly sandboxes?: DriverHost['sandboxes'];
  /** The cloud's own directory; machines live in `machines/` below it. */
  readonly dataDirectory: string;
  /** Names this cloud's cgroups: see `instanceOf`. */
  readonly instance?: string;
  readonly log?: Logger;
  /** Adopt, correct and sweep, now and every few seconds: one process per cloud does, the daemon. */
  readonly reconciles?: boolean;
  readonly reconcileEveryMs?: number;
  /** Virtual machines that had to boot leave a template behind for the next ones, and some wait for labs, as told here. */
  readonly templates?: Partial<UpkeepOptions>;
  /** The kinds of machines; all there are unless given. */
  readonly drivers?: (host: DriverHost) => Drivers;
}

export interface Machines extends Inside, Execs, Views, Snapshots {
  /** For the worker that shall do the work. */
  readonly jobs: readonly RunnableJob[];
  readonly scripts: Scripts;
  readonly templates: Omit<Templates, 'jobs' | 'keep'>;
  readonly networks: Pick<Networks, 'create' | 'remove'>;
  create(actor: Actor, wanted: NewMachine, options?: CreateOptions): Promise<Accepted>;
  /** Another machine with a copy of this one's disk. */
  clone(actor: Actor, id: string, wanted: NewClone, options?: RequestInfo): Promise<Accepted>;
  verb(actor: Actor | null, id: string, verb: Verb, options?: VerbOptions): Promise<Accepted>;
  /** For whoever wants it to be there, as it is: done when it is made. */
  present(actor: Actor, id: string, options?: RequestInfo): Promise<Accepted>;
  start(actor: Actor | null, id: string, options?: VerbOptions): Promise<Accepted>;
  stop(actor: Actor | null, id: string, options?: VerbOptions): Promise<Accepted>;
  restart(actor: Actor | null, id: string, options?: VerbOptions): Promise<Accepted>;
  pause(actor: Actor | null, id: string, options?: VerbOptions): Promise<Accepted>;
  resume(actor: Actor | null, id: string, options?: VerbOptions): Promise<Accepted>;
  remove(actor: Actor | null, id: string, options?: VerbOptions): Promise<Accepted>;
  /** The machine as soon as its generation has moved past `gen`, or as it is after `ms`. */
  waitForGen(id: string, gen: number, ms: number): Promise<Machine>;
  withFreshMachine<T>(options: FreshOptions, work: (machine: FreshMachine) => Promise<T>): Promise<T>;
  reconcile(): Promise<ReconcileReport>;
  /** Lets go of everything; the machines go on. */
  close(): Promise<void>;
}

/** First 8 hex digits of the SHA-256 of the data directory's real path: one host may hold several clouds. */
export function instanceOf(dataDirectory: string): string {
  return createHash('sha256').update(realpathSync(dataDirectory)).digest('hex').slice(0, 8);
}

/** How long opening waits for the first pass; it goes on afterwards. */
const firstPassMs = 3000;
/** How long closing waits for machines of this process's own work to be removed. */
const lastPassMs = 5000;

export async function openMachines({
  db,
  server,
  fabric,
  images,
  sandboxes,
  dataDirectory,
  instance = instanceOf(dataDirectory),
  log = silent,
  reconciles = true,
  reconcileEveryMs = 3000,
  templates: upkeep = {},
  drivers = createDrivers,
}: MachinesOptions): Promise<Machines> {
  const directory = join(dataDirectory, 'machines');
  await mkdir(directory, { recursive: true, mode: 0o711 });
  const waiting = createWaiting();
  const cloud: Cloud = {
    db,
    directory,
    log,
    drivers: drivers({ server, fabric, images, directory, instance, log, sandboxes }),
    living: openLiving((id, report) => {
      log.warn('a machine has ended by itself', { machine: id, end: report.end });
      noticeEnd(cloud, id, report).catch((error: unknown) =>
        log.error('the end of a machine could not be recorded yet', { machine: id, error: messageOf(error) }),
      );
    }),
    locks: openLocks(join(dataDirectory, 'run', 'machine-locks')),
    networks: openNetworks(db, fabric),
    fabric,
    idleness: createIdleness(),
    sleepers: new Map(),
    changed: waiting.changed,
    interrupts: new Map(),
    fresh: new Set(),
    unreachable: new Map(),
  };
  const requireImage: RequireImage = (name, wanted) => images.require(name, wanted);
  const templates = openTemplates(cloud, requireImage, upkeep);
  const views = openViews(db);
  const execs = openExecs(cloud);
  const verb: Machines['verb'] = (actor, id, verb, options) => requestVerb(cloud, actor, id, verb, options);
  const as =
    (name: Verb): Machines['start'] =>
    (actor, id, options) =>
      verb(actor, id, name, options);

  const { signal, stop } = stopper();
  let passes: Promise<void> = Promise.resolve();
  if (reconciles) {
    await reconcileFabric(cloud, fabric);
    const first = reconcileAll(cloud).then(
      (report) => log.info('machines reconciled', { ...report }),
      (error: unknown) => log.error('machines could not be reconciled', { error: messageOf(error) }),
    );
    // one machine that hangs must not keep all the others from being used
    await Promise.race([first, sleep(firstPassMs, signal).catch(() => undefined)]);
    const lookForStalled = createLookForStalled({ ...cloud, running: (row) => runningOf(cloud, row) });
    passes = everyFew(reconcileEveryMs, signal, async () => {
      await first;
      await reconcileSome(cloud).catch((error: unknown) =>
        log.warn('machines could not be reconciled', { error: messageOf(error) }),
      );
      await lookForIdle(cloud).catch((error: unknown) =>
        log.warn('idle machines could not be looked for', { error: messageOf(error) }),
      );
      await lookForStalled().catch((error: unknown) =>
        log.warn('machines that wait for room on the disk could not be looked for', {
          error: messageOf(error),
        }),
      );
      await cloud.networks
        .announce()
        .catch((error: unknown) => log.warn('machines have no names', { error: messageOf(error) }));
      await templates.keep();
    });
  } else passes = everyFew(reconcileEveryMs, signal, () => removeLeftOvers(cloud));

  return {
    ...openInside(cloud),
    ...execs,
    ...openSnapshots(cloud),
    networks: cloud.networks,
    ...views,
    jobs: [...machineJobs(cloud), scriptJob(cloud), ...templates.jobs],
    templates,
    scripts: openScripts(cloud),
    create: (actor, wanted, options) => requestCreate(cloud, requireImage, actor, wanted, options),
    clone: (actor, id, wanted, options) => requestClone(cloud, actor, id, wanted, options),
    verb,
    present: (actor, id, options) => acceptPresent(cloud, actor, id, options),
    start: as('start'),
    stop: as('stop'),
    restart: as('restart'),
    pause: as('pause'),
    resume: as('resume'),
    remove: as('remove'),
    waitForGen: (id, gen, ms) =>
      waiting.until(
        id,
        ms,
        () => views.get(id),
        (machine) => machine.gen > gen,
      ),
    withFreshMachine: (options, work) => withFresh(cloud, requireImage, options, work),
    reconcile: () => reconcileAll(cloud),
    async close() {
      stop();
      await passes;
      await within(lastPassMs, 'the machines used for grading to be removed', removeLeftOvers(cloud)).catch(
        () => undefined, // the daemon's next reconciliation does it
      );
      for (const driver of Object.values(cloud.drivers)) await driver.close?.();
      execs.detachAll();
      for (const ear of cloud.sleepers.values()) ear[Symbol.dispose]();
      cloud.living.close();
    },
  };
}

/** Links and filter rules for what may have processes; the rest of them goes. */
async function reconcileFabric({ db, log, networks }: Cloud, fabric: Fabric): Promise<void> {
  await networks.reconcile();
  // before the machines: one that gets an owner meanwhile is found among those
  const loose = new Set((await selectSpares(db)).map(({ id }) => id));
  const rows = await db
    .selectFrom('machines')
    .innerJoin('networks', 'networks.id', 'machines.network_id')
    .select([
      'machines.id',
      'machines.owner_id',
      'machines.submission_id',
      'machines.address',
      'machines.mac',
      'networks.name as network',
    ])
    .where('deleted_at', 'is', null)
    .where((eb) => eb.or([eb('state', 'in', ['running', 'paused']), eb('activity', 'is not', null)]))
    .execute();
  const wires = rows.flatMap((row) =>
    row.address === null || row.mac === null
      ? []
      : [
          {
            machineId: row.id,
            network: row.network,
            address: row.address,
            mac: row.mac,
            owner: neighbourhoodOf(row),
          },
        ],
  );
  const { removed, missing } = await fabric.reconcile(wires, { loose });
  log.info('fabric reconciled', { wires: wires.length, removed: removed.length, missing: missing.length });
}

async function removeLeftOvers(cloud: Cloud): Promise<void> {
  await removeOwnLeftOvers(cloud).catch((error: unknown) =>
    cloud.log.warn('machines used for grading could not be removed yet', { error: messageOf(error) }),
  );
}

function stopper(): { signal: AbortSignal; stop: () => void } {
  const controller = new AbortController();
  return { signal: controller.signal, stop: () => controller.abort() };
}

async function everyFew(ms: number, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    await sleep(ms, signal).catch(() => undefined);
    if (!signal.aborted) await work();
  }
}
