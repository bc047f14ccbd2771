/** Accounts and tokens. */
import { CarrelError } from '#base/errors.ts';
import { isId } from '#base/ids.ts';
import type { peopleRoutes } from '#contract/routes/people.ts';
import type { Token, User } from '#contract/schemas/people.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import type { Db } from '#store/schema.ts';
import { insertToken, type Token as TokenRow } from '#store/tokens.ts';
import { insertUser, selectOptionalUserByName, selectUser, type User as UserRow } from '#store/users.ts';
import { sql } from 'kysely';
import { authChannel, type Authenticator } from '../auth/authenticate.ts';
import { hashSecret, newSecret } from '../auth/secret.ts';
import type { HandlersFor } from '../handlers.ts';
import { decodeCursor, pageOf } from '#contract/page.ts';

function userView(row: UserRow): User {
  return {
    id: row.id,
    name: row.name,
    admin: row.admin,
    disabled: row.disabled_at !== null,
    createdAt: row.created_at.toISOString(),
  };
}

function tokenView(row: Omit<TokenRow, 'hash'>): Token {
  return {
    id: row.id,
    userId: row.user_id,
    label: row.label === '' ? 'token' : row.label,
    createdAt: row.created_at.toISOString(),
    expiresAt: row.expires_at?.toISOString() ?? null,
    lastUsedAt: row.last_used_at?.toISOString() ?? null,
  };
}

const DAY_MS = 86_400_000;
/** Against a script that makes a token per run. */
const MAX_TOKENS = 100;

/** By id or name. */
async function findUser(db: Db, key: string): Promise<UserRow> {
  const user = isId('user', key) ? await selectUser(db, key) : await selectOptionalUserByName(db, key);
  if (!user) throw new CarrelError('not_found', `user "${key.slice(0, 80)}" does not exist`);
  return user;
}

export function peopleHandlers({
  db,
  authenticator,
}: {
  readonly db: Db;
  readonly authenticator: Authenticator;
}): HandlersFor<typeof peopleRoutes> {
  /** Tells every process that answers requests, this one at once. */
  const announce = async (userId: string): Promise<void> => {
    authenticator.forget(userId);
    await sql`select pg_notify(${authChannel}, ${userId})`.execute(db);
  };

  return {
    async getMe(_, { actor }) {
      return userView(await selectUser(db, actor.id));
    },

    async listUsers({ query: { cursor, limit } }) {
      let rows = db
        .selectFrom('users')
        .selectAll()
        .orderBy('name')
        .limit(limit + 1);
      if (cursor !== undefined) rows = rows.where('name', '>', decodeCursor(cursor, 1)[0] ?? '');
      return pageOf(await rows.execute(), limit, userView, (row) => [row.name]);
    },

    async createUser({ body }, { actor }) {
      return transaction(db, async (tx) => {
        const user = await insertUser(tx, body);
        await insertEvent(tx, { kind: 'user.created', subject: user.id, ownerId: user.id, actor: actor.id });
        return userView(user);
      });
    },

    async disableUser({ params }, { actor }) {
      const user = await findUser(db, params.user);
      if (user.id === actor.id)
        throw new CarrelError('wrong_state', 'this is your own account', {
          hint: 'ask another administrator',
        });
      await transaction(db, async (tx) => {
        await tx
          .updateTable('users')
          .set({ disabled_at: sql<Date>`coalesce(disabled_at, now())` })
          .where('id', '=', user.id)
          .execute();
        await tx
          .updateTable('tokens')
          .set({ revoked_at: sql<Date>`coalesce(revoked_at, now())` })
          .where('user_id', '=', user.id)
          .execute();
        await insertEvent(tx, { kind: 'user.disabled', subject: user.id, ownerId: user.id, actor: actor.id });
      });
      await announce(user.id);
      return undefined;
    },

    async listTokens({ query: { cursor, limit } }, { actor }) {
      let rows = db
        .selectFrom('tokens')
        .select(['id', 'user_id', 'label', 'expires_at', 'last_used_at', 'revoked_at', 'created_at'])
        .where('user_id', '=', actor.id)
        .where('revoked_at', 'is', null)
        .orderBy('id')
        .limit(limit + 1);
      if (cursor !== undefined) rows = rows.where('id', '>', decodeCursor(cursor, 1)[0] ?? '');
      return pageOf(await rows.execute(), limit, tokenView, (row) => [row.id]);
    },

    async createToken({ body }, { actor }) {
      if (body.user !== undefined && body.user !== actor.name && !actor.admin)
        throw new CarrelError('forbidden', 'only administrators make tokens for others');
      const secret = newSecret();
      const token = await transaction(db, async (tx) => {
        const owner =
          body.user === undefined ? await selectUser(tx, actor.id) : await findUser(tx, body.user);
        if (owner.disabled_at)
          throw new CarrelError('wrong_state', `the account "${owner.name}" is closed`, {
            hint: 'a closed account stays closed; make a new one',
          });
        await requireRoom(tx, owner);
        const row = await insertToken(tx, {
          user_id: owner.id,
          hash: hashSecret(secret),
          label: body.label,
          expires_at: body.days === 0 ? null : new Date(Date.now() + body.days * DAY_MS),
        });
        await insertEvent(tx, { kind: 'token.created', subject: row.id, ownerId: owner.id, actor: actor.id });
        return row;
      });
      return { token: tokenView(token), secret };
    },

    async revokeToken({ params }, { actor }) {
      const owner = await transaction(db, async (tx) => {
        const row = await tx
          .updateTable('tokens')
          .set({ revoked_at: sql<Date>`coalesce(revoked_at, now())` })
          .where('id', '=', params.token)
          .returning('user_id')
          .executeTakeFirst();
        if (!row) throw new CarrelError('not_found', `token "${params.token.slice(0, 80)}" does not exist`);
        await insertEvent(tx, {
          kind: 'token.revoked',
          subject: params.token,
          ownerId: row.user_id,
          actor: actor.id,
        });
        return row.user_id;
      });
      await announce(owner);
      return undefined;
    },
  };
}

/** Counts under a lock of the owner's row, so that parallel requests cannot overshoot. */
async function requireRoom(tx: Db, owner: UserRow): Promise<void> {
  await tx.selectFrom('users').select('id').where('id', '=', owner.id).forUpdate().execute();
  const { count } = await tx
    .selectFrom('tokens')
    .select(({ fn }) => fn.countAll<number>().as('count'))
    .where('user_id', '=', owner.id)
    .where('revoked_at', 'is', null)
    .where((eb) => eb.or([eb('expires_at', 'is', null), eb('expires_at', '>', new Date())]))
    .executeTakeFirstOrThrow();
  if (count >= MAX_TOKENS)
    throw new CarrelError('quota_exceeded', `${owner.name} has ${MAX_TOKENS} tokens already`, {
      hint: 'revoke some: carrel token ls',
      details: { limit: MAX_TOKENS },
    });
}
