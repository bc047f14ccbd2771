/**
 * Templates looked at now and then, by the daemon: rows and files made to agree, what is out of date or too much
 * removed, waiting copies replaced, and images that machines booted from parked for the next ones.
 */
import { join } from 'node:path';
import { sql } from 'kysely';
import { isCarrelError, messageOf } from '#base/errors.ts';
import { enqueue } from '#jobs/queue.ts';
import { json } from '#store/columns.ts';
import type { StoredError } from '#store/jobs.ts';
import {
  isWanted,
  selectSpares,
  selectTemplates,
  type Spare,
  targetOf,
  type Template as Row,
} from '#store/templates.ts';
import type { Cloud } from '../cloud.ts';
import { limitsOf, configOf } from '../rows.ts';
import { imageKindOf } from '../image-kinds.ts';
import type { RequireImage } from '../requests.ts';
import { excessOf, speaksFor } from './choice.ts';
import { discard } from './jobs.ts';
import { fillJob } from './kinds.ts';
import { keepPools, type Pool } from './pools.ts';
import { markStale, maxTemplates, requestPark } from './requests.ts';
import { retryFailed } from './retry.ts';
import { fillKey, limitsOfTemplate, parkKey, templateDriver, templateDriverName } from './rows.ts';

export interface UpkeepOptions {
  /** Park what machines boot from, unasked. */
  readonly automatic: boolean;
  /** Of all templates together on the host's disk. */
  readonly maxBytes: number;
  /** What the labs want to wait. */
  readonly pools: () => Promise<readonly Pool[]>;
}

/** Below the work that people wait for. */
const backgroundPriority = -10;

/** Whose job has not ended. */
async function atWork({ db }: Cloud, keys: readonly string[]): Promise<ReadonlySet<string>> {
  if (keys.length === 0) return new Set();
  const rows = await db
    .selectFrom('jobs')
    .select('dedupe_key')
    .where('dedupe_key', 'in', keys)
    .where('state', 'in', ['queued', 'running'])
    .execute();
  return new Set(rows.flatMap(({ dedupe_key: key }) => key ?? []));
}

/** One look at everything. `thorough` also looks at what changes seldom: QEMU, the image, the files. */
export async function keepTemplates(
  cloud: Cloud,
  requireImage: RequireImage,
  options: UpkeepOptions,
  { thorough }: { thorough: boolean },
): Promise<void> {
  const rows = await selectTemplates(cloud.db);
  const spares = await selectSpares(cloud.db);
  if (thorough) await findStale(cloud, requireImage, rows, options);
  await keepPools(cloud, requireImage, await options.pools());
  await endLost(cloud, rows, spares, { thorough });
  await retryFailed(cloud, requireImage, rows, {
    priority: backgroundPriority,
    keyNow: (row) => keyNow(cloud, requireImage, row),
  });
  const stale = rows.filter(({ state }) => state === 'stale');
  if (stale.length > 0 || thorough) await collect(cloud);
  await refill(cloud, await selectTemplates(cloud.db), spares);
  if (options.automatic) await parkBooted(cloud, requireImage, rows);
}

/** Files and rows of what is out of use go: first the copies that wait, then the files, then the row. */
export async function collect(cloud: Cloud): Promise<void> {
  const driver = templateDriver(cloud);
  const spares = await selectSpares(cloud.db);
  const rows = await selectTemplates(cloud.db);
  const known = new Set(rows.flatMap(({ key }) => key ?? []));
  for (const key of await driver.keys()) if (!known.has(key)) await driver.remove(key);
  for (const { id } of rows.filter(({ state }) => state === 'stale')) {
    for (const spare of spares)
      if (spare.template_id === id && spare.purpose === 'spare') await discard(cloud, spare.id);
    const busy = await atWork(cloud, [parkKey(id), fillKey(id)]);
    if (busy.size === 0) await cloud.db.deleteFrom('vm_templates').where('id', '=', id).execute();
  }
  await driver.sweep(new Set(spares.map(({ id }) => id)));
}

/** What cannot be started from any more, and what is too much. */
async function findStale(
  cloud: Cloud,
  requireImage: RequireImage,
  rows: readonly Row[],
  { maxBytes }: UpkeepOptions,
): Promise<void> {
  const driver = templateDriver(cloud);
  for (const row of rows) {
    if (row.state !== 'ready' || row.key === null) continue;
    const there = await driver.find(row.key);
    if (there && (await keyNow(cloud, requireImage, row)) === row.key) {
      await cloud.db
        .updateTable('vm_templates')
        .set({ last_used_at: there.lastUsedAt })
        .where('id', '=', row.id)
        .execute();
      continue;
    }
    await markStale(cloud.db, row.id);
    if (row.kept) await again(cloud, requireImage, row);
  }
  const ready = (await selectTemplates(cloud.db)).filter(({ state }) => state === 'ready');
  for (const { id } of excessOf(ready, maxBytes)) await markStale(cloud.db, id);
}

/**
 * The key of the template that a new machine of that image and size would be copied from; undefined when the image is
 * gone. New machines ask for their image by name, which may mean another one by now.
 */
async function keyNow(cloud: Cloud, requireImage: RequireImage, row: Row): Promise<string | undefined> {
  try {
    const { hash } = await requireImage(row.image, { kind: imageKindOf[templateDriverName] });
    return await templateDriver(cloud).keyOf(hash, limitsOfTemplate(row));
  } catch (error) {
    if (isCarrelError(error, 'not_found')) return undefined;
    throw error;
  }
}

/** A template that somebody asked for is made anew, of what its image's name means now. */
async function again(cloud: Cloud, requireImage: RequireImage, row: Row): Promise<void> {
  const { cpus, memoryBytes } = limitsOfTemplate(row);
  await requestPark(
    cloud,
    requireImage,
    null,
    { image: row.image, limits: { cpus, memoryBytes }, ready: row.ready_target },
    { kept: true, priority: backgroundPriority },
  ).catch((error: unknown) =>
    cloud.log.warn('a template could not be made anew', { image: row.image, error: messageOf(error) }),
  );
}

/** Rows at work whose job is gone, and copies whose process is. */
async function endLost(
  cloud: Cloud,
  rows: readonly Row[],
  spares: readonly Spare[],
  { thorough }: { thorough: boolean },
): Promise<void> {
  const busy = await atWork(
    cloud,
    rows.flatMap(({ id }) => [parkKey(id), fillKey(id)]),
  );
  const lost = rows.filter(({ id, state }) => state === 'making' && !busy.has(parkKey(id)));
  for (const { id } of lost)
    await cloud.db
      .updateTable('vm_templates')
      .set({
        state: 'failed',
        failure: json<StoredError>({ code: 'cancelled', message: 'it was given up before it was done' }),
      })
      .where('id', '=', id)
      .where('state', '=', 'making')
      .execute();
  const driver = templateDriver(cloud);
  for (const { id, template_id: template, state, purpose } of spares) {
    const atIt = busy.has(purpose === 'park' ? parkKey(template) : fillKey(template));
    if (atIt || cloud.locks.isBusy(id)) continue;
    if (
      state === 'making' ||
      (thorough && !(await driver.waits({ id, directory: join(cloud.directory, id) })))
    )
      await discard(cloud, id);
  }
}

async function refill(cloud: Cloud, rows: readonly Row[], spares: readonly Spare[]): Promise<void> {
  for (const row of rows) {
    const { id, state } = row;
    const target = targetOf(row);
    const waiting = spares.filter(({ template_id: of, purpose }) => of === id && purpose === 'spare');
    for (const { id: spare } of waiting.slice(target).filter((each) => each.state === 'ready'))
      await discard(cloud, spare);
    if (state === 'ready' && waiting.length < target)
      await enqueue(
        cloud.db,
        fillJob,
        { templateId: id },
        { priority: backgroundPriority, dedupeKey: fillKey(id) },
      );
  }
}

/** When a template of that key was asked for last, whatever became of it. */
async function askedFor({ db }: Cloud, key: string): Promise<Date | undefined> {
  const event = await db
    .selectFrom('events')
    .select('at')
    .where('kind', '=', 'template.making')
    .where(sql<string>`payload->>'key'`, '=', key)
    .orderBy('at', 'desc')
    .executeTakeFirst();
  return event?.at;
}

/** One at a time: what a machine has booted from and could have been copied. */
async function parkBooted(cloud: Cloud, requireImage: RequireImage, rows: readonly Row[]): Promise<void> {
  const fixed = rows.filter((row) => isWanted(row) && row.state !== 'stale');
  if (fixed.length >= maxTemplates || rows.some(({ state }) => state === 'making')) return;
  const machines = await cloud.db
    .selectFrom('machines')
    .select(['id', 'config', 'limits', 'runtime', 'created_at'])
    .where('driver', '=', templateDriverName)
    .where('state', '=', 'running')
    .where('activity', 'is', null)
    .where('deleted_at', 'is', null)
    .orderBy('created_at', 'desc') // the youngest speaks for its like
    .execute();
  const seen = new Set<string>();
  for (const row of machines) {
    if (row.runtime?.startedFrom !== 'image') continue;
    const { image: name, imageHash } = configOf(row);
    const { cpus, memoryBytes } = limitsOf(row);
    const combination = JSON.stringify([imageHash, Math.ceil(cpus), memoryBytes]);
    if (seen.has(combination)) continue;
    seen.add(combination);
    const image = await requireImage(name, { kind: 'disk' }).catch(() => undefined);
    if (image?.hash !== imageHash || image.disk?.agent !== true) continue;
    const key = await templateDriver(cloud).keyOf(imageHash, limitsOf(row));
    if (rows.some((each) => each.key === key) || !speaksFor(row, await askedFor(cloud, key))) continue;
    await requestPark(
      cloud,
      requireImage,
      null,
      { image: name, limits: { cpus, memoryBytes } },
      { kept: false, priority: backgroundPriority },
    );
    return;
  }
}
