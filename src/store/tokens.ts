/** Access tokens. The secret is shown once; only its SHA-256 is stored. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { sql, type Insertable, type Selectable } from 'kysely';
import type { CreatedAt, Defaulted, Fact, Nullable } from './columns.ts';
import type { Db } from './schema.ts';
import type { User } from './users.ts';

export interface TokenTable {
  id: Fact<string>;
  user_id: Fact<string>;
  /** SHA-256 of the secret, 32 bytes. */
  hash: Fact<Buffer>;
  label: Defaulted<string>;
  expires_at: Nullable<Date>;
  last_used_at: Nullable<Date>;
  revoked_at: Nullable<Date>;
  created_at: CreatedAt;
}
export type Token = Selectable<TokenTable>;

export async function insertToken(db: Db, values: Omit<Insertable<TokenTable>, 'id'>): Promise<Token> {
  return db
    .insertInto('tokens')
    .values({ id: newId('token'), ...values })
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** The user behind a token's hash: undefined if the token is unknown, expired or revoked, or the user disabled. */
export async function selectOptionalUserByTokenHash(
  db: Db,
  hash: Buffer,
): Promise<{ readonly tokenId: string; readonly user: User } | undefined> {
  const row = await db
    .selectFrom('tokens')
    .innerJoin('users', 'users.id', 'tokens.user_id')
    .selectAll('users')
    .select('tokens.id as token_id')
    .where('tokens.hash', '=', hash)
    .where('tokens.revoked_at', 'is', null)
    .where('users.disabled_at', 'is', null)
    .where((eb) =>
      eb.or([eb('tokens.expires_at', 'is', null), eb('tokens.expires_at', '>', sql<Date>`now()`)]),
    )
    .executeTakeFirst();
  if (!row) return undefined;
  const { token_id: tokenId, ...user } = row;
  return { tokenId, user };
}

/** Notes the use of a token, at most once a minute so that reading stays cheap. */
export async function touchToken(db: Db, id: string): Promise<void> {
  await db
    .updateTable('tokens')
    .set({ last_used_at: sql<Date>`now()` })
    .where('id', '=', id)
    .where((eb) =>
      eb.or([
        eb('last_used_at', 'is', null),
        eb('last_used_at', '<', sql<Date>`now() - interval '1 minute'`),
      ]),
    )
    .execute();
}

/** Revokes the token if it is the user's; again is harmless. */
export async function revokeToken(db: Db, userId: string, id: string): Promise<void> {
  const row = await db
    .updateTable('tokens')
    .set({ revoked_at: sql<Date>`coalesce(revoked_at, now())` })
    .where('id', '=', id)
    .where('user_id', '=', userId)
    .returning('id')
    .executeTakeFirst();
  if (!row) throw new CarrelError('not_found', `token ${id} does not exist`);
}
