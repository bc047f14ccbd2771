/**
 * What people ask for: everything that can be refused is refused now, and the rest is one transaction that
 * writes the wish, what it needs, and the job that will do it.
 */
import { CarrelError } from '#base/errors.ts';
import type { Activity, NewMachine } from '#contract/schemas/machines.ts';
import { macOf, parseAddress } from '#fabric/addresses.ts';
import type { Image } from '#images/layout.ts';
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
import type { Tx } from '#store/schema.ts';
import type { Actor, RequestInfo } from '#base/actor.ts';
import { type Cloud, driverFor, driverNamed } from './cloud.ts';
import { requireCapability } from './driver.ts';
import { eventOf, jobKey, jobKindOf } from './jobs.ts';
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

/** A row and what belongs to it, inside the caller's transaction. */
export async function insertWhole(
  tx: Tx,
  cloud: Cloud,
  {
    ownerId,
    wanted,
    image,
    courseId = null,
    labId = null,
    submissionId = null,
    ephemeral,
  }: {
    ownerId: string;
    wanted: NewMachine;
    image: Image;
    courseId?: string | null;
    labId?: string | null;
    submissionId?: string | null;
    ephemeral?: MachineConfig['ephemeral'];
  },
) {
  const network = await cloud.network();
  const imageRow = await selectOptionalImageByName(tx, image.name);
  const config = { image: wanted.image, imageHash: image.hash, start: wanted.start, sshKeys: [] };
  const row = await insertMachine(tx, {
    name: wanted.name,
    owner_id: ownerId,
    course_id: courseId,
    lab_id: labId,
    submission_id: submissionId,
    driver: wanted.driver,
    image_id: imageRow?.id ?? null,
    activity: 'creating' satisfies Activity,
    limits: json(limitsToStore(wanted.limits)),
    labels: json(wanted.labels),
    config: configJson(ephemeral ? { ...config, ephemeral } : config),
    network_id: network.id,
    expires_at: wanted.ttlSeconds === undefined ? null : new Date(Date.now() + wanted.ttlSeconds * 1000),
  });
  await allocateUidSlot(tx, row.id);
  const address = await allocateAddress(tx, network.id, row.id);
  return tx
    .updateTable('machines')
    .set({ address, mac: macOf(parseAddress(address)) })
    .where('id', '=', row.id)
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** Creates a machine: refused at once, or accepted with the job that makes it. */
export async function requestCreate(
  cloud: Cloud,
  requireImage: (name: string) => Promise<Image>,
  actor: Actor,
  wanted: NewMachine,
  { courseId = null, labId = null, requestId, alongside }: CreateOptions = {},
): Promise<Accepted> {
  const image = await requireImage(wanted.image);
  await driverNamed(cloud, wanted.driver).validate(wanted, image);
  const accepted = await transaction(cloud.db, async (tx) => {
    await requireQuota(tx, actor.id, wanted.limits);
    const row = await insertWhole(tx, cloud, { ownerId: actor.id, wanted, image, courseId, labId });
    if (wanted.starter) await insertStarter(tx, row.id, wanted.starter, actor.id);
    await alongside?.(tx, row.id);
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
    await insertEvent(tx, eventOf(row, 'machine.creating', { gen: row.gen, image: wanted.image }, actor.id));
    return { machineId: row.id, job };
  });
  cloud.changed(accepted.machineId);
  return accepted;
}

export interface VerbOptions extends RequestInfo {
  readonly graceMs?: number;
}

/** Any other verb. The caller has checked that the actor may use the machine; null is Carrel itself. */
export async function requestVerb(
  cloud: Cloud,
  actor: Actor | null,
  id: string,
  verb: Verb,
  { graceMs, requestId }: VerbOptions = {},
): Promise<Accepted> {
  const { job, began } = await transaction(cloud.db, async (tx) => {
    const row = await selectMachineForUpdate(tx, id);
    if (verb === 'pause' || verb === 'resume') requireCapability(driverFor(cloud, row), 'pause');
    const options = { requester: actor?.id ?? null, requestId: requestId ?? null, resources: [id] };
    const decision = decide({ state: row.state, activity: activityOf(row) }, verb);
    if (decision.kind === 'refused')
      throw new CarrelError('wrong_state', `machine ${row.name} cannot ${verb}: ${decision.reason}`, {
        hint: decision.hint,
        details: { state: row.state, activity: row.activity },
      });
    if (decision.kind === 'done') return { job: await doneAtOnce(tx, row, verb, options), began: false };
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
  if (began) {
    cloud.changed(id);
    if (verb === 'remove')
      cloud.interrupts.get(id)?.abort(new CarrelError('cancelled', 'the machine is being deleted'));
  }
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
async function jobAtWork(tx: Tx, { id, gen }: Row): Promise<Job | undefined> {
  return tx
    .selectFrom('jobs')
    .selectAll()
    .where('dedupe_key', '=', jobKey(id, gen))
    .where('state', 'in', ['queued', 'running'])
    .executeTakeFirst();
}
