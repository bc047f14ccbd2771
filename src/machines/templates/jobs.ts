/**
 * The work at templates. Both jobs look first and then act, so a kill -9 at any point leaves what the next attempt
 * (or the next start of the daemon) removes by its row in vm_spares.
 */
import { join } from 'node:path';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { type DefinedJob, defineJob, isRetriable, type JobContext, storedError } from '#jobs/types.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import {
  claimSpare,
  deleteSpare,
  insertSpare,
  type Spare,
  selectTemplate,
  targetOf,
  type Template as Row,
} from '#store/templates.ts';
import type { Cloud } from '../cloud.ts';
import type { Driver } from '../driver.ts';
import type { EarlySpec } from './driver.ts';
import { fillJob, parkJob } from './kinds.ts';
import { limitsOfTemplate, templateDriver, templateDriverName } from './rows.ts';

/** Waiting copies of all templates together: each holds some ten MiB and a process. */
export const maxSpares = 32;

export function templateJobs(cloud: Cloud) {
  return [
    defineJob({ ...parkJob, run: (context, { templateId }) => park(cloud, context, templateId) }),
    defineJob({ ...fillJob, run: (context, { templateId }) => fill(cloud, context, templateId) }),
  ] satisfies DefinedJob<
    typeof parkJob.args | typeof fillJob.args,
    typeof parkJob.result | typeof fillJob.result
  >[];
}

function earlySpec(cloud: Cloud, row: Row, { id, uid_slot: uidSlot }: Spare): EarlySpec {
  return {
    id,
    directory: join(cloud.directory, id),
    image: row.image_hash,
    limits: limitsOfTemplate(row),
    uidSlot,
  };
}

type Discarding = Pick<Cloud, 'db' | 'locks'> & {
  readonly drivers: Partial<Record<typeof templateDriverName, Pick<Driver, 'sweep'>>>;
};

/**
 * Whatever there is of a machine that never got an owner; its row goes last. One that has got an owner since the caller
 * looked has no row here: it is a machine like any other, and is left alone.
 */
export async function discard({ db, locks, drivers }: Discarding, id: string): Promise<void> {
  using lock = await locks.take(id);
  if (!(await claimSpare(db, id))) return;
  await drivers[templateDriverName]?.sweep(id);
  await deleteSpare(db, id);
  lock.forget();
}

/** What earlier attempts at this template's park left behind. */
async function discardEarlier(cloud: Cloud, templateId: string, purpose: Spare['purpose']): Promise<void> {
  const rows = await cloud.db
    .selectFrom('vm_spares')
    .select('id')
    .where('template_id', '=', templateId)
    .where('purpose', '=', purpose)
    .where('state', '=', 'making')
    .execute();
  for (const { id } of rows) await discard(cloud, id);
}

async function park(cloud: Cloud, context: JobContext, templateId: string): Promise<{ bytes: number }> {
  const { db } = cloud;
  const driver = templateDriver(cloud);
  const row = await selectTemplate(db, templateId);
  if (row.state === 'ready') return { bytes: row.bytes ?? 0 };
  if (row.state !== 'making' || row.key === null)
    throw new CarrelError('cancelled', `template ${templateId} is not wanted any more`);
  const { key } = row;
  try {
    await discardEarlier(cloud, templateId, 'park');
    const place = await transaction(db, (tx) => insertSpare(tx, templateId, 'park'));
    try {
      const { bytes } = await driver.park(earlySpec(cloud, row, place), {
        signal: context.signal,
        step: context.step,
      });
      await finish(cloud, row, key, bytes);
      return { bytes };
    } finally {
      await discard(cloud, place.id);
    }
  } catch (error) {
    if (context.signal.aborted && !isCarrelError(context.signal.reason, 'cancelled')) throw error;
    const last =
      !(error instanceof CarrelError) ||
      !isRetriable(error.code) ||
      context.job.failures + 1 >= context.job.max_attempts;
    if (last) await fail(cloud, row, error);
    throw error;
  }
}

async function finish(cloud: Cloud, row: Row, key: string, bytes: number): Promise<void> {
  const moved = await transaction(cloud.db, async (tx) => {
    const { numUpdatedRows } = await tx
      .updateTable('vm_templates')
      .set({ state: 'ready', bytes, failure: null })
      .where('id', '=', row.id)
      .where('state', '=', 'making')
      .executeTakeFirst();
    if (numUpdatedRows === 0n) return false;
    await insertEvent(tx, {
      kind: 'template.ready',
      subject: row.id,
      ownerId: row.requested_by,
      payload: { image: row.image, bytes },
    });
    return true;
  });
  if (moved) return;
  await templateDriver(cloud).remove(key); // removed while it was being made
  throw new CarrelError('cancelled', `template ${row.id} is not wanted any more`);
}

async function fail(cloud: Cloud, row: Row, error: unknown): Promise<void> {
  const failure = storedError(error);
  cloud.log.warn('a template could not be made', { template: row.id, image: row.image, ...failure });
  await cloud.db
    .updateTable('vm_templates')
    .set({ state: 'failed', failure: json(failure) })
    .where('id', '=', row.id)
    .where('state', '=', 'making')
    .execute();
  await insertEvent(cloud.db, {
    kind: 'template.failed',
    subject: row.id,
    ownerId: row.requested_by,
    payload: { image: row.image, ...failure },
  });
}

async function fill(cloud: Cloud, context: JobContext, templateId: string): Promise<{ waiting: number }> {
  const driver = templateDriver(cloud);
  await discardEarlier(cloud, templateId, 'spare');
  for (;;) {
    context.signal.throwIfAborted();
    const row = await selectTemplate(cloud.db, templateId);
    const { of: waiting, all } = await countSpares(cloud, templateId);
    if (row.state !== 'ready' || waiting >= targetOf(row) || all >= maxSpares) return { waiting };
    const spare = await transaction(cloud.db, (tx) => insertSpare(tx, templateId, 'spare'));
    try {
      await driver.preload(earlySpec(cloud, row, spare));
      await cloud.db.updateTable('vm_spares').set({ state: 'ready' }).where('id', '=', spare.id).execute();
    } catch (error) {
      cloud.log.warn('a copy could not be loaded ahead of time', {
        template: templateId,
        error: messageOf(error),
      });
      await discard(cloud, spare.id);
      throw error;
    }
  }
}

async function countSpares(cloud: Cloud, templateId: string): Promise<{ of: number; all: number }> {
  const rows = await cloud.db
    .selectFrom('vm_spares')
    .select('template_id')
    .where('purpose', '=', 'spare')
    .execute();
  return { of: rows.filter(({ template_id: id }) => id === templateId).length, all: rows.length };
}
