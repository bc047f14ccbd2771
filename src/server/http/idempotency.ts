/**
 * `Idempotency-Key`: the same user, key and request get the first answer again for 24 hours.
 *
 * The key is claimed (committed) before the work and gets the answer after it. Between work and answer the daemon or
 * the database may die: the claim names the daemon's run and the request id, so whoever has the key next finds the
 * job that was made under that request id and answers with it, or does the work if there is none. An error is no
 * proof that nothing was made (the acknowledgement of the commit may be what was lost), so the key is given back
 * only after that look. A parallel request with the same key waits for the first.
 */
import { createHash } from 'node:crypto';
import { sleep } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { claimIdempotency, type IdempotencyRow } from '#store/idempotency.ts';
import type { Db } from '#store/schema.ts';
import { sql } from 'kysely';
import { z } from 'zod';

/** An answer as it is kept. */
export interface KeptAnswer {
  readonly status: number;
  readonly body: string;
  readonly location?: string | undefined;
  readonly etag?: string | undefined;
}

export interface IdempotentRequest {
  readonly userId: string;
  readonly key: string;
  readonly bodyHash: string;
  readonly requestId: string;
}

type Work = () => Promise<KeptAnswer>;
/** The answer of an earlier request whose work was done, found by its request id. */
type Recover = (requestId: string) => Promise<KeptAnswer | undefined>;

export interface Idempotency {
  /** Runs `work`, or gives the answer of the first request with this key. */
  once(
    request: IdempotentRequest,
    work: Work,
    recover: Recover,
  ): Promise<{ readonly answer: KeptAnswer; readonly replayed: boolean }>;
}

/** How long a second request waits for the first one before it is told to come back. */
const WAIT_MS = 20_000;

const keptAnswer = z.object({
  status: z.int(),
  body: z.string(),
  location: z.string().optional(),
  etag: z.string().optional(),
});
const claim = z.object({ run: z.string(), requestId: z.string() });

/** What must be equal for two requests to be the same: method, path, query, body. */
export function hashRequest(method: string, target: string, body: Uint8Array): string {
  return createHash('sha256').update(`${method} ${target}\n`).update(body).digest('hex');
}

/** Refuses keys that nobody would send in earnest. */
export function checkKey(key: string): string {
  if (/^[\x21-\x7e]{1,128}$/.test(key)) return key;
  throw new CarrelError('invalid_request', 'Idempotency-Key: 1 to 128 visible ASCII characters, please');
}

const idOf = ({ userId, key }: IdempotentRequest): string => `${userId} ${key}`;

export function createIdempotency({ db, run = newId('exec') }: { db: Db; run?: string }): Idempotency {
  const finish = async ({ userId, key }: IdempotentRequest, answer: KeptAnswer): Promise<void> => {
    await db
      .updateTable('idempotency')
      .set({ status: answer.status, response: json(answer) })
      .where('user_id', '=', userId)
      .where('key', '=', key)
      .execute();
  };

  /** Our claims of which we could not find out what became of them, because the database was away. */
  const doubtful = new Set<string>();

  const hold = (db: Db, { userId, key }: IdempotentRequest, requestId: string) =>
    db
      .updateTable('idempotency')
      .set({ response: json({ run, requestId }) })
      .where('user_id', '=', userId)
      .where('key', '=', key);

  /** Claims the key for this run; undefined if it is ours now. */
  const take = (request: IdempotentRequest): Promise<IdempotencyRow | undefined> =>
    transaction(db, async (tx) => {
      const first = await claimIdempotency(tx, request);
      if (!first) await hold(tx, request, request.requestId).execute();
      return first;
    });

  /** Takes over a claim that nobody works for any more; false if somebody else was faster. */
  const takeOver = async (request: IdempotentRequest, held: z.output<typeof claim>): Promise<boolean> => {
    if (held.run === run) return doubtful.delete(idOf(request));
    // The request id stays: until we have looked, it is the only way to what was made.
    const result = await hold(db, request, held.requestId)
      .where('status', 'is', null)
      .where(sql`response->>'run'`, '=', held.run)
      .executeTakeFirst();
    return result.numUpdatedRows > 0n;
  };

  const release = async ({ userId, key }: IdempotentRequest): Promise<void> => {
    await db.deleteFrom('idempotency').where('user_id', '=', userId).where('key', '=', key).execute();
  };

  /** Does what a claim of ours needs; where that fails, the next request with this key goes on from here. */
  const settle = async <T>(request: IdempotentRequest, work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      doubtful.add(idOf(request));
      throw error;
    }
  };

  const perform = async (request: IdempotentRequest, work: Work, recover: Recover): Promise<KeptAnswer> => {
    try {
      const answer = await work();
      await settle(request, () => finish(request, answer));
      return answer;
    } catch (error) {
      if (doubtful.has(idOf(request))) throw error;
      const made = await settle(request, () => recover(request.requestId)).catch(() => undefined);
      if (doubtful.has(idOf(request))) throw error;
      await settle(request, () => (made ? finish(request, made) : release(request)));
      if (made) return made;
      throw error;
    }
  };

  /** After `takeOver`: what was made is found by the old request id; else it is made now, under the new one. */
  const resume = async (
    request: IdempotentRequest,
    requestId: string,
    work: Work,
    recover: Recover,
  ): Promise<{ readonly answer: KeptAnswer; readonly replayed: boolean }> => {
    const made = await settle(request, async () => {
      const found = await recover(requestId);
      await (found ? finish(request, found) : hold(db, request, request.requestId).execute());
      return found;
    });
    if (made) return { answer: made, replayed: true };
    return { answer: await perform(request, work, recover), replayed: false };
  };

  return {
    async once(request, work, recover) {
      const end = performance.now() + WAIT_MS;
      for (let pause = 20; ; pause = Math.min(pause * 2, 500)) {
        const first = await take(request);
        if (!first) return { answer: await perform(request, work, recover), replayed: false };
        if (first.status !== null) return { answer: keptAnswer.parse(first.response), replayed: true };
        const held = claim.safeParse(first.response);
        if (held.success && (await takeOver(request, held.data)))
          return await resume(request, held.data.requestId, work, recover);
        if (performance.now() + pause > end)
          throw new CarrelError(
            'wrong_state',
            `the first request with this Idempotency-Key is still being done`,
            {
              hint: 'send it again in a while',
              details: { retryAfterSeconds: 5 },
            },
          );
        await sleep(pause);
      }
    },
  };
}
