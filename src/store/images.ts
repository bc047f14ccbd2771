/** Images by name. The content is in the cache under its hash, shared by all clouds of the host. */
import type { Selectable } from 'kysely';
import type { CreatedAt, Defaulted, DefaultedJson, Fact, Nullable, NullableJson } from './columns.ts';
import type { StoredError } from './jobs.ts';
import type { Db } from './schema.ts';

export interface ImageTable {
  id: Fact<string>;
  name: string;
  /** Content hash; null until it is built. */
  hash: Nullable<string>;
  kind: Fact<'rootfs' | 'disk' | 'guest'>;
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

export async function selectOptionalImageByName(db: Db, name: string): Promise<Image | undefined> {
  return db.selectFrom('images').selectAll().where('name', '=', name).executeTakeFirst();
}
