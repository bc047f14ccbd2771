/** Commands run in machines. They outlive the connection that asked for them; their exit can be read later. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { Insertable, Selectable, Updateable } from 'kysely';
import type { CreatedAt, Defaulted, Fact, Json, Nullable, NullableJson } from './columns.ts';
import type { Db } from './schema.ts';

/** How a command ended: a status, or the signal that ended it, and whether a limit did. */
export interface ExecExit {
  readonly status: number | null;
  readonly signal: string | null;
  readonly reason?: string;
  readonly [more: string]: unknown;
}

export interface ExecTable {
  id: Fact<string>;
  machine_id: Fact<string>;
  argv: Json<readonly string[]>;
  tty: Defaulted<boolean>;
  requested_by: Nullable<string>;
  started_at: Nullable<Date>;
  ended_at: Nullable<Date>;
  exit: NullableJson<ExecExit>;
  created_at: CreatedAt;
}
export type Exec = Selectable<ExecTable>;

export async function insertExec(db: Db, values: Omit<Insertable<ExecTable>, 'id'>): Promise<Exec> {
  return db
    .insertInto('execs')
    .values({ id: newId('exec'), ...values })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function updateExec(db: Db, id: string, values: Updateable<ExecTable>): Promise<void> {
  await db.updateTable('execs').set(values).where('id', '=', id).execute();
}

export async function selectExec(db: Db, id: string): Promise<Exec> {
  const exec = await db.selectFrom('execs').selectAll().where('id', '=', id).executeTakeFirst();
  if (!exec) throw new CarrelError('not_found', `exec ${id} does not exist`);
  return exec;
}
