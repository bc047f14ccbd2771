/**
 * Templates of virtual machines, and the machines that exist ahead of their owners: the one that boots to be
 * parked, and spare clones. A row comes before its files and processes, and goes after them.
 */
import { sql, type Insertable, type Selectable } from 'kysely';
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { CreatedAt, Defaulted, Fact, Json, Nullable, NullableJson } from './columns.ts';
import type { StoredError } from './jobs.ts';
import { lowestFreeUidSlot, type MachineLimits } from './machines.ts';
import type { Db, Tx } from './schema.ts';

/** `stale`: QEMU, the host or the image has changed since; it is of no use any more. */
export type TemplateState = 'making' | 'ready' | 'failed' | 'stale';

export interface TemplateTable {
  id: Fact<string>;
  key: Nullable<string>;
  driver: Fact<string>;
  /** Name of the image when it was asked for. */
  image: Fact<string>;
  image_hash: Defaulted<string>;
  limits: Json<MachineLimits>;
  kept: Defaulted<boolean>;
  state: Defaulted<TemplateState>;
  failure: NullableJson<StoredError>;
  bytes: Nullable<number>;
  /** Copies that shall wait because somebody asked for them. */
  ready_target: Defaulted<number>;
  /** And because labs are made of it; null: none is. */
  pool_target: Nullable<number>;
  requested_by: Nullable<string>;
  last_used_at: Nullable<Date>;
  created_at: CreatedAt;
}
export type Template = Selectable<TemplateTable>;

/** How many copies shall wait, as far as the host has room. */
export const targetOf = ({
  ready_target: asked,
  pool_target: pool,
}: Pick<Template, 'ready_target' | 'pool_target'>): number => asked + (pool ?? 0);

/** Somebody wants it: it makes no room for others. */
export const isWanted = ({ kept, pool_target: pool }: Pick<Template, 'kept' | 'pool_target'>): boolean =>
  kept || pool !== null;

export interface SpareTable {
  id: Fact<string>;
  template_id: Fact<string>;
  purpose: Fact<'park' | 'spare'>;
  state: Defaulted<'making' | 'ready'>;
  uid_slot: Fact<number>;
  created_at: CreatedAt;
}
export type Spare = Selectable<SpareTable>;

export async function insertTemplate(
  db: Db,
  values: Omit<Insertable<TemplateTable>, 'id'>,
): Promise<Template> {
  return db
    .insertInto('vm_templates')
    .values({ id: newId('template'), ...values })
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** The newest first. */
export async function selectTemplates(db: Db): Promise<Template[]> {
  return db.selectFrom('vm_templates').selectAll().orderBy('created_at', 'desc').orderBy('id').execute();
}

export async function selectTemplate(db: Db, id: string): Promise<Template> {
  const template = await db.selectFrom('vm_templates').selectAll().where('id', '=', id).executeTakeFirst();
  if (!template) throw new CarrelError('not_found', `template ${id.slice(0, 80)} does not exist`);
  return template;
}

/** Makes the row of a machine that exists ahead of its owner, with an id and user ids of its own. */
export async function insertSpare(tx: Tx, templateId: string, purpose: Spare['purpose']): Promise<Spare> {
  return tx
    .insertInto('vm_spares')
    .values({
      id: newId('machine'),
      template_id: templateId,
      purpose,
      uid_slot: await lowestFreeUidSlot(tx),
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

/**
 * Takes a spare clone of the template away for a machine that is being made in this transaction; undefined when
 * none is ready. Two who ask at the same time get different ones.
 */
export async function takeSpare(tx: Tx, key: string): Promise<Spare | undefined> {
  const { rows } = await sql<Spare>`
    delete from vm_spares where id = (
      select s.id from vm_spares s join vm_templates t on t.id = s.template_id
      where t.key = ${key} and t.state = 'ready' and s.purpose = 'spare' and s.state = 'ready'
      order by s.created_at limit 1 for update of s skip locked)
    returning *`.execute(tx);
  return rows[0];
}

export async function selectSpares(db: Db): Promise<Spare[]> {
  return db.selectFrom('vm_spares').selectAll().orderBy('created_at').execute();
}

/** Nobody gets it as a machine from now on; false: somebody has, or it is gone. */
export async function claimSpare(db: Db, id: string): Promise<boolean> {
  const { numUpdatedRows } = await db
    .updateTable('vm_spares')
    .set({ state: 'making' })
    .where('id', '=', id)
    .executeTakeFirst();
  return numUpdatedRows > 0n;
}

/** Once nothing of it is left on the host: its user ids may be another's at once. */
export async function deleteSpare(db: Db, id: string): Promise<void> {
  await db.deleteFrom('vm_spares').where('id', '=', id).execute();
}
