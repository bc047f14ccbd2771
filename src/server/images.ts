/**
 * Images as the API knows them: rows for what is in the cache. The cache is shared by all clouds of the host and
 * is the truth about content; a row gives it an id and a state, and is made when the image is first seen.
 */
import { z } from 'zod';
import { CarrelError, messageOf } from '#base/errors.ts';
import { isId, newId } from '#base/ids.ts';
import type { Image as View, ImageDetails } from '#contract/schemas/machines.ts';
import type { OnlineRunner } from '#images/disk/online.ts';
import type { ImageFormat } from '#images/import.ts';
import type { Image } from '#images/layout.ts';
import type { Images } from '#images/store.ts';
import { enqueue } from '#jobs/queue.ts';
import { defineJob, storedError, type RunnableJob } from '#jobs/types.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { selectOptionalImageByName, type Image as Row } from '#store/images.ts';
import type { StoredError } from '#store/jobs.ts';
import type { Db } from '#store/schema.ts';
import { sql } from 'kysely';
import type { Actor } from '#base/actor.ts';

export interface ImportOptions {
  readonly name: string;
  readonly format: ImageFormat;
  readonly sha256: string | undefined;
  readonly source: AsyncIterable<Uint8Array>;
  readonly signal: AbortSignal;
}

export interface ImageRegistry {
  readonly jobs: readonly RunnableJob[];
  list(): Promise<View[]>;
  /** By id or name. */
  get(reference: string): Promise<ImageDetails>;
  build(
    actor: Actor,
    recipe: string,
    requestId: string,
  ): Promise<{ readonly jobId: string; readonly id: string }>;
  import(actor: Actor, options: ImportOptions): Promise<View>;
  /** Its bytes, in a format of its kind. */
  export(reference: string, format: ImageFormat): Promise<AsyncIterable<Uint8Array>>;
  remove(actor: Actor, reference: string): Promise<void>;
}

const buildArgs = z.strictObject({ recipe: z.string(), imageId: z.string() });
const buildKind = {
  kind: 'image.build',
  args: buildArgs,
  result: z.strictObject({ hash: z.string() }),
  maxAttempts: 2,
};

export function openImageRegistry({
  db,
  images,
  online,
}: {
  readonly db: Db;
  readonly images: Images;
  /** For recipes with steps that run in the machine itself. */
  readonly online: OnlineRunner;
}): ImageRegistry {
  /** Writes what the cache has about an image into its row. */
  const register = async (image: Image): Promise<void> => {
    const values = {
      hash: image.hash,
      kind: image.kind,
      bytes: image.bytes,
      files: image.files,
      state: 'ready' as const,
      failure: null,
      source: json<Readonly<Record<string, unknown>>>({ description: image.description }),
    };
    await db
      .insertInto('images')
      .values({ id: newId('image'), name: image.name, ...values })
      .onConflict((oc) =>
        oc
          .column('name')
          .doUpdateSet(values)
          .where((eb) =>
            eb.or([eb('images.hash', 'is distinct from', image.hash), eb('images.state', '<>', 'ready')]),
          ),
      )
      .execute();
  };

  /** Rows and cache made to agree; cheap when they do already. */
  const sync = async (): Promise<Row[]> => {
    const newest = new Map<string, Image>();
    for (const image of await images.list()) if (!newest.has(image.name)) newest.set(image.name, image);
    const rows = new Map(
      (await db.selectFrom('images').selectAll().orderBy('name').execute()).map((row) => [row.name, row]),
    );
    let changed = false;
    for (const image of newest.values()) {
      const row = rows.get(image.name);
      if (row?.hash === image.hash && row.state === 'ready') continue;
      await register(image);
      changed = true;
    }
    changed = (await giveUp([...rows.values()].filter(({ state }) => state === 'building'))) || changed;
    for (const row of rows.values())
      if (row.state === 'ready' && !newest.has(row.name)) changed = (await forget(row)) || changed;
    return changed ? db.selectFrom('images').selectAll().orderBy('name').execute() : [...rows.values()];
  };

  /** A build whose job was called off before it began, or is gone, is no build. */
  const giveUp = async (building: readonly Row[]): Promise<boolean> => {
    if (building.length === 0) return false;
    const result = await db
      .updateTable('images')
      .set({
        state: 'failed',
        failure: json<StoredError>({ code: 'cancelled', message: 'the build was called off' }),
      })
      .where(
        'id',
        'in',
        building.map(({ id }) => id),
      )
      .where('state', '=', 'building')
      .where((eb) =>
        eb.not(
          eb.exists(
            eb
              .selectFrom('jobs')
              .select('jobs.id')
              .where('jobs.state', 'in', ['queued', 'running'])
              .where('jobs.dedupe_key', '=', sql<string>`'image ' || images.name`),
          ),
        ),
      )
      .executeTakeFirst();
    return result.numUpdatedRows > 0n;
  };

  /** Removes the row of an image that is gone from the cache. Deleted machines only remember its name. */
  const forget = (row: Row): Promise<boolean> =>
    transaction(db, async (tx) => {
      await tx
        .updateTable('machines')
        .set({ image_id: null })
        .where('image_id', '=', row.id)
        .where('deleted_at', 'is not', null)
        .execute();
      const result = await tx
        .deleteFrom('images')
        .where('id', '=', row.id)
        .where((eb) =>
          eb.not(eb.exists(eb.selectFrom('machines').select('id').where('image_id', '=', row.id))),
        )
        .executeTakeFirst();
      return result.numDeletedRows > 0n;
    });

  const outdatedHashes = async (): Promise<ReadonlySet<string>> =>
    new Set([...(await images.outdated(await images.list()))].map(({ hash }) => hash));

  const find = async (reference: string): Promise<Row> => {
    const rows = await sync();
    const row = rows.find((each) =>
      isId('image', reference) ? each.id === reference : each.name === reference,
    );
    if (row) return row;
    throw new CarrelError('not_found', `image "${reference.slice(0, 80)}" does not exist`, {
      hint: 'list images with: carrel image ls',
    });
  };

  const buildJob = defineJob({
    ...buildKind,
    async run({ signal, step, progress, log, job }, { recipe, imageId }) {
      try {
        const image = await images.build(recipe, {
          signal,
          online,
          onProgress: ({ step: done, of, what, detail }) => {
            step(what);
            progress(done, of, what);
            if (detail !== undefined) for (const line of detail.split('\n')) log(line);
          },
        });
        await register(image);
        await insertEvent(db, {
          kind: 'image.built',
          subject: imageId,
          ownerId: job.requester,
          payload: { name: image.name, hash: image.hash },
        });
        return { hash: image.hash };
      } catch (error) {
        // An image of that name that is there already stays usable.
        await db
          .updateTable('images')
          .set({ state: 'failed', failure: json(storedError(error)) })
          .where('id', '=', imageId)
          .where('state', '=', 'building')
          .execute();
        throw error;
      }
    },
  });

  return {
    jobs: [buildJob],
    async list() {
      const rows = await sync();
      const old = await outdatedHashes();
      return rows.map((row) => viewOf(row, old));
    },
    async get(reference) {
      const row = await find(reference);
      const image = row.hash === null ? undefined : await images.find(row.hash);
      return {
        ...viewOf(row, await outdatedHashes()),
        online: image ? await images.onlineRecord(image) : [],
      };
    },
    async build(actor, reference, requestId) {
      const recipe = await images.findRecipe(reference);
      if (!recipe)
        throw new CarrelError('not_found', `there is no recipe "${reference}"`, {
          hint: `recipes are: ${[...(await images.recipes()).keys()].join(', ')}`,
        });
      return transaction(db, async (tx) => {
        await tx
          .insertInto('images')
          .values({ id: newId('image'), name: recipe.name, kind: recipe.kind, state: 'building' })
          .onConflict((oc) =>
            oc
              .column('name')
              .doUpdateSet({ state: 'building', failure: null })
              .where('images.state', '=', 'failed'),
          )
          .execute();
        const row = await selectOptionalImageByName(tx, recipe.name);
        if (!row)
          throw new CarrelError('unavailable', `image "${recipe.name}" is being removed`, {
            hint: 'try again',
          });
        const job = await enqueue(
          tx,
          buildKind,
          { recipe: recipe.name, imageId: row.id },
          { requester: actor.id, requestId, resources: [row.id], dedupeKey: `image ${recipe.name}` },
        );
        await insertEvent(tx, {
          kind: 'image.building',
          subject: row.id,
          ownerId: actor.id,
          actor: actor.id,
          payload: { name: recipe.name },
        });
        return { jobId: job.id, id: row.id };
      });
    },
    async import(actor, { name, format, sha256, source, signal }) {
      if ((await images.recipes()).has(name))
        throw new CarrelError('name_taken', `"${name}" is the name of a recipe`, {
          hint: 'choose another name',
        });
      const known = await selectOptionalImageByName(db, name);
      if (known)
        throw new CarrelError('name_taken', `image "${name}" already exists`, {
          hint: 'choose another name, or remove it',
        });
      const image = await images.import({ name, format, sha256, source, signal });
      await register(image);
      const row = await find(name);
      await insertEvent(db, {
        kind: 'image.imported',
        subject: row.id,
        ownerId: actor.id,
        actor: actor.id,
        payload: { name, hash: image.hash },
      });
      return viewOf(row, none);
    },
    async export(reference, format) {
      const { name, hash, state } = await find(reference);
      if (hash === null || state === 'building')
        throw new CarrelError('wrong_state', `image ${name} is not there yet`, {
          hint: 'wait for its build',
        });
      return images.export(hash, format);
    },
    async remove(actor, reference) {
      const row = await find(reference);
      if (row.state === 'building')
        throw new CarrelError('wrong_state', `image ${row.name} is being built`, {
          hint: 'cancel the job first',
        });
      if (row.hash !== null && (await images.find(row.hash))) await images.remove(row.hash);
      if (!(await forget(row)))
        throw new CarrelError('wrong_state', `image ${row.name} is used by a machine`, {
          hint: 'delete it first',
        });
      await insertEvent(db, {
        kind: 'image.removed',
        subject: row.id,
        ownerId: actor.id,
        actor: actor.id,
        payload: { name: row.name },
      });
    },
  };
}

const none: ReadonlySet<string> = new Set();

/** `old`: hashes of images that are older than their recipes. */
function viewOf(row: Row, old: ReadonlySet<string>): View {
  const { description } = row.source;
  const failed =
    row.state === 'failed' && row.failure ? `failed: ${messageOf(row.failure.message)}` : undefined;
  const words = failed ?? (typeof description === 'string' ? description : '');
  return {
    id: row.id,
    name: row.name,
    kind: row.kind,
    hash: row.hash,
    state: row.state,
    bytes: row.bytes ?? 0,
    files: row.files ?? 0,
    description: oneLine(words) || row.name,
    outdated: row.hash !== null && old.has(row.hash),
    createdAt: row.created_at.toISOString(),
  };
}

/** Words of a recipe or of an error, as the contract's one line. */
function oneLine(text: string): string {
  return text
    .toWellFormed()
    .replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ')
    .trim()
    .slice(0, 500);
}
