/**
 * What people ask for: everything that can be refused is refused now, and the rest is one transaction that
 * writes the wish, what it needs, and the job that will do it.
 */
import { CarrelError, isCarrelError } from '#base/errors.ts';
import {
  type Activity,
  type DriverName,
  type Limits,
  limits as limitsSchema,
  type NewMachine,
} from '#contract/schemas/machines.ts';
import { macOf, parseAddress } from '#fabric/addresses.ts';
import type { Image } from '#images/layout.ts';
import type { ImageKind } from '#images/recipe.ts';
import { enqueue, type EnqueueOptions } from '#jobs/queue.ts';
import { allocateAddress } from '#store/addresses.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { selectOptionalImageByName } from '#store/images.ts';
import type { Job } from '#store/jobs.ts';
import {
  allocateUidSlot,
  insertMachine,
  type Machine as Row,
  selectMachineForUpdate,
} from '#store/machines.ts';
import { selectNetworkByName } from '#store/networks.ts';
import { takeSpare } from '#store/templates.ts';
import type { Tx } from '#store/schema.ts';
import type { Actor, RequestInfo } from '#base/actor.ts';
import { type Cloud, driverFor, driverNamed } from './cloud.ts';
import { requireCapability } from './driver.ts';
import { eventOf } from './events.ts';
import { jobKey, jobKindOf } from './jobs.ts';
import { wake } from './idle.ts';
import { imageKindOf } from './image-kinds.ts';
import { requireQuota } from './quota.ts';
import { activityOf, changeMachine, configJson, limitsToStore, type MachineConfig } from './rows.ts';
import { insertStarter } from './scripts.ts';
import { activityOfVerb, decide, type Verb } from './state.ts';

export interface Accepted {
  readonly machineId: string;
  readonly job: Job;
}

export interface CreateOptions extends RequestInfo {
  /** Already checked by the caller: the actor may make machines there. */
  readonly courseId?: string | null;
  readonly labId?: string | null;
  /** What else is to be written in the transaction that makes the row; the owner's row is locked in it. */
  readonly alongside?: (tx: Tx, machineId: string) => Promise<void>;
}

/** A machine that is to be: everything is decided. */
export interface Plan {
  readonly name: string;
  readonly ownerId: string;
  readonly driver: DriverName;
  readonly imageId: string | null;
  readonly limits: Limits;
  readonly labels: Readonly<Record<string, string>>;
  readonly networkId: string;
  /** In the routed layout. */
  readonly networkNumber?: number | undefined;
  readonly bytesPerSecond: number | null;
  readonly idleFreezeMs: number | null;
  readonly config: MachineConfig;
  readonly expiresAt?: Date | null;
  readonly courseId?: string | null;
  readonly labId?: string | null;
  readonly submissionId?: string | null;
  /** A template's key: if a copy of it waits, that one becomes the machine. */
  readonly spareOf?: string | undefined;
}

/** A row and what belongs to it, inside the caller's transaction. */
export async function insertWhole(tx: Tx, plan: Plan): Promise<Row> {
  const { networkId } = plan;
  const spare = plan.spareOf === undefined ? undefined : await takeSpare(tx, plan.spareOf);
  const row = await insertMachine(tx, {
    ...(spare && { id: spare.id, uid_slot: spare.uid_slot }),
    name: plan.name,
    owner_id: plan.ownerId,
    course_id: plan.courseId ?? null,
    lab_id: plan.labId ?? null,
    submission_id: plan.submissionId ?? null,
    driver: plan.driver,
    image_id: plan.imageId,
    activity: 'creating' satisfies Activity,
    limits: json(limitsToStore(plan.limits)),
    labels: json(plan.labels),
    config: configJson(plan.config),
    network_id: networkId,
    bytes_per_second: plan.bytesPerSecond,
    idle_freeze_ms: plan.idleFreezeMs,
    expires_at: plan.expiresAt ?? null,
  });
  await allocateUidSlot(tx, row.id);
  const address = await allocateAddress(tx, networkId, row.id, { number: plan.networkNumber });
  return (
    tx
      .updateTable('machines')
      // addresses are unique in a cloud, whatever the network (store/networks.ts), and so is what is made of them
      .set({ address, mac: macOf(parseAddress(address)) })
      .where('id', '=', row.id)
      .returningAll()
      .executeTakeFirstOrThrow()
  );
}

export type RequireImage = (name: string, wanted: { readonly kind: ImageKind }) => Promise<Image>;

/** The image of a machine. A micro-machine may also be made of a root file system, with which its guests are compiled. */
export async function requireImageFor(
  requireImage: RequireImage,
  name: string,
  driver: DriverName,
): Promise<Image> {
  if (driver !== 'micro') return requireImage(name, { kind: imageKindOf[driver] });
  try {
    return await requireImage(name, { kind: 'guest' });
  } catch (error) {
    if (!isCarrelError(error, 'not_found')) throw error;
    return await requireImage(name, { kind: 'rootfs' });
  }
}

/** The limits with the one filled in that depends on the image: the disk is at least as large as the image's own. */
export function limitsFor({ diskBytes, ...limits }: NewMachine['limits'], image: Image): Limits {
  return {
    ...limits,
    diskBytes: diskBytes ?? Math.max(limitsSchema.parse({}).diskBytes, image.disk?.virtualBytes ?? 0),
  };
}

/** Creates a machine: refused at once, or accepted with the job that makes it. */
export async function requestCreate(
  cloud: Cloud,
  requireImage: RequireImage,
  actor: Actor,
  wanted: NewMachine,
  { courseId = null, labId = null, requestId, alongside }: CreateOptions = {},
): Promise<Accepted> {
  const { name, driver: driverName, sshKeys, starter } = wanted;
  const driver = driverNamed(cloud, driverName);
  const network = await selectNetworkByName(cloud.db, wanted.network);
  if (starter) requireCapability(driver, 'exec');
  const image = await requireImageFor(requireImage, wanted.image, driverName);
  const limits = limitsFor(wanted.limits, image);
  await driver.validate({ name, limits }, image);
  const start = wanted.start && (driver.runByStart?.hasOwn(image) ?? true);
  const templates = start && network.layout === 'bridge' ? driver.templates : undefined;
  const spareOf = image.disk?.agent === true ? await templates?.keyOf(image.hash, limits) : undefined;
  const accepted = await transaction(cloud.db, async (tx) => {
    await requireQuota(tx, actor.id, limits);
    const row = await insertWhole(tx, {
      name,
      ownerId: actor.id,
      driver: driverName,
      imageId: (await selectOptionalImageByName(tx, image.name))?.id ?? null,
      limits,
      labels: wanted.labels,
      networkId: network.id,
      networkNumber: wanted.networkNumber,
      bytesPerSecond: wanted.bytesPerSecond,
      idleFreezeMs: wanted.idleFreezeSeconds === null ? null : wanted.idleFreezeSeconds * 1000,
      config: { image: wanted.image, imageHash: image.hash, start, sshKeys },
      expiresAt: wanted.ttlSeconds === undefined ? null : new Date(Date.now() + wanted.ttlSeconds * 1000),
      courseId,
      labId,
      spareOf,
    });
    if (starter) await insertStarter(tx, row.id, starter, actor.id);
    await alongside?.(tx, row.id);
    return acceptCreation(tx, row, actor, { requestId, image: wanted.image });
  });
  cloud.changed(accepted.machineId);
  return accepted;
}

/** The job that makes the machine of a row, and the news of it. */
export async function acceptCreation(
  tx: Tx,
  row: Row,
  actor: Actor,
  { requestId, ...facts }: RequestInfo & { readonly image: string; readonly source?: string },
): Promise<Accepted> {
  const job = await enqueue(
    tx,
    jobKindOf('creating'),
    { machineId: row.id, gen: row.gen },
    {
      requester: actor.id,
      requestId: requestId ?? null,
      resources: [row.id],
      dedupeKey: jobKey(row.id, row.gen),
    },
  );
  await insertEvent(tx, eventOf(row, 'machine.creating', { gen: row.gen, ...facts }, actor.id));
  return { machineId: row.id, job };
}

export interface VerbOptions extends RequestInfo {
  readonly graceMs?: number;
  /** Throws if the generation of the locked row is not the one that the caller saw. */
  readonly allow?: (gen: number) => void;
}

/** Any other verb. The caller has checked that the actor may use the machine; null is Carrel itself. */
export async function requestVerb(
  cloud: Cloud,
  actor: Actor | null,
  id: string,
  verb: Verb,
  { graceMs, requestId, allow }: VerbOptions = {},
): Promise<Accepted> {
  const { job, began } = await transaction(cloud.db, async (tx) => {
    const row = await selectMachineForUpdate(tx, id);
    allow?.(row.gen);
    if (verb === 'pause' || verb === 'resume') requireCapability(driverFor(cloud, row), 'pause');
    const options = { requester: actor?.id ?? null, requestId: requestId ?? null, resources: [id] };
    const decision = decide({ state: row.state, activity: activityOf(row) }, verb);
    if (decision.kind === 'refused')
      throw new CarrelError('wrong_state', `machine ${row.name} cannot ${verb}: ${decision.reason}`, {
        hint: decision.hint,
        details: { state: row.state, activity: row.activity },
      });
    if (decision.kind === 'done') {
      if (verb === 'pause') await keepPaused(tx, row, actor);
      return { job: await doneAtOnce(tx, row, verb, options), began: false };
    }
    if (decision.kind === 'join') {
      const job = await jobAtWork(tx, row);
      if (job) return { job, began: false };
      // else its job was given up: begin anew
    }
    const activity = activityOfVerb[verb];
    const gen = await changeMachine(tx, row, { activity });
    if (gen === undefined) throw new CarrelError('internal', `machine ${id} changed under its lock`);
    const args = { machineId: id, gen, ...(graceMs === undefined ? {} : { graceMs }) };
    const job = await enqueue(tx, jobKindOf(activity), args, { ...options, dedupeKey: jobKey(id, gen) });
    await insertEvent(tx, eventOf(row, `machine.${activity}`, { gen }, actor?.id ?? null));
    return { job, began: true };
  });
  if (!began && (verb === 'start' || verb === 'resume')) await wake(cloud, id);
  cloud.changed(id);
  if (began) {
    if (verb === 'remove')
      cloud.interrupts.get(id)?.abort(new CarrelError('cancelled', 'the machine is being deleted'));
  }
  return { machineId: id, job };
}

/** A machine that waits for room on the host's disk goes on by itself (stalled.ts), unless somebody wants it paused. */
async function keepPaused(tx: Tx, row: Row, actor: Actor | null): Promise<void> {
  if (row.failure?.code !== 'disk_full') return;
  const gen = await changeMachine(tx, row, { failure: null });
  await insertEvent(tx, eventOf(row, 'machine.paused', { gen }, actor?.id ?? null));
}

/** Accepts a machine as it is: for whoever wants it to be there, and nothing done to it. */
export async function acceptPresent(
  cloud: Cloud,
  actor: Actor,
  id: string,
  { requestId }: RequestInfo = {},
): Promise<Accepted> {
  const job = await transaction(cloud.db, async (tx) => {
    const row = await selectMachineForUpdate(tx, id);
    const options = { requester: actor.id, requestId: requestId ?? null, resources: [id] };
    return (await jobAtWork(tx, row)) ?? (await doneAtOnce(tx, row, 'start', options));
  });
  return { machineId: id, job };
}

/** A job for the record only: what was asked for is so already. */
async function doneAtOnce(tx: Tx, row: Row, verb: Verb, options: EnqueueOptions): Promise<Job> {
  const { id } = await enqueue(
    tx,
    jobKindOf(activityOfVerb[verb]),
    { machineId: row.id, gen: row.gen },
    options,
  );
  const now = new Date();
  return tx
    .updateTable('jobs')
    .set({
      state: 'done',
      result: json<unknown>({ machineId: row.id, state: row.state }),
      started_at: now,
      ended_at: now,
    })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** The unfinished job of the present activity. */
export async function jobAtWork(tx: Tx, { id, gen }: Row): Promise<Job | undefined> {
  return tx
    .selectFrom('jobs')
    .selectAll()
    .where('dedupe_key', '=', jobKey(id, gen))
    .where('state', 'in', ['queued', 'running'])
    .executeTakeFirst();
}
