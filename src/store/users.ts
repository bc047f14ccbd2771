/** Accounts. Names are unique whatever their case. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { sql, type Insertable, type Selectable } from 'kysely';
import type { CreatedAt, Defaulted, Fact, Nullable } from './columns.ts';
import { violatedConstraint } from './errors.ts';
import type { Db } from './schema.ts';

export interface UserTable {
  id: Fact<string>;
  name: string;
  admin: Defaulted<boolean>;
  disabled_at: Nullable<Date>;
  created_at: CreatedAt;
}
export type User = Selectable<UserTable>;

/** Makes an account; `name_taken` if the name exists in any case. */
export async function insertUser(db: Db, values: Omit<Insertable<UserTable>, 'id'>): Promise<User> {
  try {
    return await db
      .insertInto('users')
      .values({ id: newId('user'), ...values })
      .returningAll()
      .executeTakeFirstOrThrow();
  } catch (error) {
    if (violatedConstraint(error) !== 'users_name') throw error;
    throw new CarrelError('name_taken', `user "${values.name}" already exists`, {
      hint: 'choose another name; upper and lower case are the same',
      cause: error,
    });
  }
}

export async function selectOptionalUser(db: Db, id: string): Promise<User | undefined> {
  return db.selectFrom('users').selectAll().where('id', '=', id).executeTakeFirst();
}

export async function selectUser(db: Db, id: string): Promise<User> {
  const user = await selectOptionalUser(db, id);
  if (!user) throw new CarrelError('not_found', `user ${id} does not exist`);
  return user;
}

/** By name, whatever its case. */
export async function selectOptionalUserByName(db: Db, name: string): Promise<User | undefined> {
  return db
    .selectFrom('users')
    .selectAll()
    .where(sql<string>`lower(name)`, '=', sql<string>`lower(${name})`)
    .executeTakeFirst();
}
