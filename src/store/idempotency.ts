/**
 * Replayed requests: the same key with the same body gets the first answer again for 24 hours.
 * The key is claimed in the transaction that does the work, so a crash leaves both or neither.
 */
import { CarrelError } from '#base/errors.ts';
import { sql, type ColumnType, type Selectable } from 'kysely';
import { json, type CreatedAt, type Fact, type Nullable, type NullableJson } from './columns.ts';
import type { Db, Tx } from './schema.ts';

export interface IdempotencyTable {
  user_id: Fact<string>;
  key: Fact<string>;
  body_hash: Fact<string>;
  status: Nullable<number>;
  response: NullableJson<unknown>;
  job_id: Nullable<string>;
  expires_at: ColumnType<Date, Date | undefined, Date>;
  created_at: CreatedAt;
}
export type IdempotencyRow = Selectable<IdempotencyTable>;

/**
 * Claims the key for this transaction: undefined if it is new (do the work, then `finishIdempotency`), or the
 * first request's row. A parallel request with the same key waits here until the first has committed.
 * `idempotency_mismatch` if the key was used with another body.
 */
export async function claimIdempotency(
  tx: Tx,
  { userId, key, bodyHash }: { readonly userId: string; readonly key: string; readonly bodyHash: string },
): Promise<IdempotencyRow | undefined> {
  await tx
    .deleteFrom('idempotency')
    .where('user_id', '=', userId)
    .where('key', '=', key)
    .where('expires_at', '<=', sql<Date>`now()`)
    .execute();
  const fresh = await tx
    .insertInto('idempotency')
    .values({ user_id: userId, key, body_hash: bodyHash })
    .onConflict((oc) => oc.columns(['user_id', 'key']).doNothing())
    .returning('key')
    .executeTakeFirst();
  if (fresh) return undefined;
  const first = await tx
    .selectFrom('idempotency')
    .selectAll()
    .where('user_id', '=', userId)
    .where('key', '=', key)
    .executeTakeFirstOrThrow();
  if (first.body_hash !== bodyHash)
    throw new CarrelError('idempotency_mismatch', `Idempotency-Key "${key}" was used with another request`, {
      hint: 'use a new key for a new request',
    });
  return first;
}

/** Keeps the answer with the key, in the transaction that claimed it. */
export async function finishIdempotency(
  tx: Tx,
  { userId, key }: { readonly userId: string; readonly key: string },
  answer: { readonly status: number; readonly response: unknown; readonly jobId?: string },
): Promise<void> {
  await tx
    .updateTable('idempotency')
    .set({ status: answer.status, response: json(answer.response), job_id: answer.jobId ?? null })
    .where('user_id', '=', userId)
    .where('key', '=', key)
    .execute();
}

/** Deletes keys past their 24 hours; gives how many. */
export async function deleteExpiredIdempotency(db: Db): Promise<number> {
  const result = await db
    .deleteFrom('idempotency')
    .where('expires_at', '<=', sql<Date>`now()`)
    .executeTakeFirst();
  return Number(result.numDeletedRows);
}
