/** Images by name. The content is in the cache under its hash, shared by all clouds of the host. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { Insertable, Selectable, Updateable } from 'kysely';
import type { CreatedAt, Defaulted, DefaultedJson, Fact, Nullable, NullableJson } from './columns.ts';
import { violatedConstraint } from './errors.ts';
import type { StoredError } from './jobs.ts';
import type { Db } from './schema.ts';

export interface ImageTable {
  id: Fact<string>;
  name: string;
  /** Content hash; null until it is built. */
  hash: Nullable<string>;
  kind: Fact<'rootfs' | 'disk'>;
  bytes: Nullable<number>;
  files: Nullable<number>;
  state: Defaulted<'building' | 'ready' | 'failed'>;
  failure: NullableJson<StoredError>;
  recipe_hash: Nullable<string>;
  /** Where it came from: a recipe, an import. */
  source: DefaultedJson<Readonly<Record<string, unknown>>>;
  created_at: CreatedAt;
}
export type Image = Selectable<ImageTable>;

export async function insertImage(db: Db, values: Omit<Insertable<ImageTable>, 'id'>): Promise<Image> {
  try {
    return await db
      .insertInto('images')
      .values({ id: newId('image'), ...values })
      .returningAll()
      .executeTakeFirstOrThrow();
  } catch (error) {
    if (violatedConstraint(error) !== 'images_name') throw error;
    throw new CarrelError('name_taken', `image "${values.name}" already exists`, { cause: error });
  }
}

export async function updateImage(db: Db, id: string, values: Updateable<ImageTable>): Promise<Image> {
  const image = await db
    .updateTable('images')
    .set(values)
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirst();
  if (!image) throw new CarrelError('not_found', `image ${id} does not exist`);
  return image;
}

export async function selectImage(db: Db, id: string): Promise<Image> {
  const image = await db.selectFrom('images').selectAll().where('id', '=', id).executeTakeFirst();
  if (!image) throw new CarrelError('not_found', `image ${id} does not exist`);
  return image;
}

export async function selectOptionalImageByName(db: Db, name: string): Promise<Image | undefined> {
  return db.selectFrom('images').selectAll().where('name', '=', name).executeTakeFirst();
}

export async function selectImages(db: Db): Promise<Image[]> {
  return db.selectFrom('images').selectAll().orderBy('name').execute();
}
