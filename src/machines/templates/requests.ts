/** What is asked of templates: the row first, with the job that makes it true. */
import { sql } from 'kysely';
import type { Actor, RequestInfo } from '#base/actor.ts';
import { CarrelError } from '#base/errors.ts';
import { limits as limitsSchema } from '#contract/schemas/machines.ts';
import type { NewTemplate } from '#contract/schemas/templates.ts';
import type { Image } from '#images/layout.ts';
import { enqueue } from '#jobs/queue.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import type { Job } from '#store/jobs.ts';
import type { Db } from '#store/schema.ts';
import { insertTemplate, isWanted, selectTemplate, type Template as Row } from '#store/templates.ts';
import { type Cloud, driverNamed } from '../cloud.ts';
import { imageKindOf } from '../image-kinds.ts';
import type { RequireImage } from '../requests.ts';
import { limitsToStore } from '../rows.ts';
import { parkJob } from './kinds.ts';
import { parkKey, templateDriver, templateDriverName } from './rows.ts';

export interface ParkAccepted {
  readonly templateId: string;
  readonly job: Job;
}

/** More would only fill the disk: each has the memory and the changes of one boot. */
export const maxTemplates = 16;

export interface ParkOptions extends RequestInfo {
  /** Somebody asked for it: it stays until it is removed. */
  readonly kept: boolean;
  /** Labs are made of it, and want so many to wait. */
  readonly pool?: number | undefined;
  readonly priority?: number;
}

/** Asks for a template; where there is one, only its number of waiting copies changes. null: Carrel itself. */
export async function requestPark(
  cloud: Cloud,
  requireImage: RequireImage,
  actor: Actor | null,
  {
    image: name,
    limits: { cpus, memoryBytes },
    ready,
  }: NewTemplate & { limits: { cpus: number; memoryBytes: number } },
  { kept, pool, priority = 0, requestId }: ParkOptions,
): Promise<ParkAccepted> {
  const image = await requireImage(name, { kind: imageKindOf[templateDriverName] });
  refuseWithoutAgent(image);
  const limits = limitsSchema.parse({ cpus, memoryBytes });
  await driverNamed(cloud, templateDriverName).validate(
    {
      name: 'template',
      limits: { ...limits, diskBytes: Math.max(limits.diskBytes, image.disk?.virtualBytes ?? 0) },
    },
    image,
  );
  const key = await templateDriver(cloud).keyOf(image.hash, limits);
  return transaction(cloud.db, async (tx) => {
    await sql`select pg_advisory_xact_lock(hashtextextended('vm templates', 0))`.execute(tx);
    const known = await tx.selectFrom('vm_templates').selectAll().where('key', '=', key).executeTakeFirst();
    if (!known) await refuseMore(tx);
    const row =
      known ??
      (await insertTemplate(tx, {
        key,
        driver: templateDriverName,
        image: image.name,
        image_hash: image.hash,
        limits: json(limitsToStore(limits)),
        requested_by: actor?.id ?? null,
      }));
    await tx
      .updateTable('vm_templates')
      .set({
        kept: row.kept || kept,
        ready_target: ready ?? row.ready_target,
        ...(pool !== undefined && { pool_target: pool }),
        ...(row.state === 'ready' ? {} : { state: 'making' as const, failure: null }),
      })
      .where('id', '=', row.id)
      .execute();
    const job = await enqueue(
      tx,
      parkJob,
      { templateId: row.id },
      {
        priority,
        requester: actor?.id ?? null,
        requestId: requestId ?? null,
        resources: [row.id],
        dedupeKey: parkKey(row.id),
      },
    );
    if (!known)
      await insertEvent(tx, {
        kind: 'template.making',
        subject: row.id,
        ownerId: actor?.id ?? null,
        actor: actor?.id ?? null,
        payload: { image: row.image, key },
      });
    return { templateId: row.id, job };
  });
}

function refuseWithoutAgent({ name, disk }: Image): void {
  if (disk?.agent === true) return;
  throw new CarrelError(
    'validation_failed',
    `image ${name} has no agent: a copy of it could get no name or keys`,
    {
      hint: 'machines of this image start by booting',
    },
  );
}

/** Room is made for a new one by the one that was not used for longest, unless somebody asked for all of them. */
async function refuseMore(db: Db): Promise<void> {
  const rows = await db
    .selectFrom('vm_templates')
    .select(['id', 'kept', 'pool_target', 'state'])
    .where('state', '<>', 'stale')
    .orderBy(sql`coalesce(last_used_at, created_at)`)
    .execute();
  if (rows.length < maxTemplates) return;
  const oldest = rows.find((row) => !isWanted(row) && row.state !== 'making');
  if (!oldest)
    throw new CarrelError('no_capacity', `there are ${rows.length} templates already`, {
      hint: 'remove one that is not needed: carrel template rm',
    });
  await markStale(db, oldest.id);
}

/** Nothing starts from it any more; its files go with the next look at all of them. */
export async function markStale(db: Db, id: string): Promise<void> {
  await db
    .updateTable('vm_templates')
    .set({ state: 'stale', key: null, ready_target: 0, pool_target: null })
    .where('id', '=', id)
    .execute();
}

/** Takes it away from new machines, and its job with it. The rest is done by `collect` (upkeep.ts). */
export async function requestRemoval(db: Db, actor: Actor, id: string): Promise<Row> {
  return transaction(db, async (tx) => {
    const row = await selectTemplate(tx, id);
    await markStale(tx, id);
    await insertEvent(tx, {
      kind: 'template.removed',
      subject: id,
      ownerId: actor.id,
      actor: actor.id,
      payload: { image: row.image },
    });
    return row;
  });
}
