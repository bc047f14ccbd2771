/**
 * `Idempotency-Key`: the same user, key and request get the first answer again for 24 hours.
 *
 * The key is claimed (committed) before the work and gets the answer after it; an error gives it back, for then
 * nothing was made. Between work and answer the daemon may die: the claim names the daemon's run and the request
 * id, so the next daemon finds the job that was made under that request id and answers with it, or does the work
 * if there is none. A parallel request with the same key waits for the first.
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

export interface Idempotency {
  /** Runs `work`, or gives the answer of the first request with this key. */
  once(
    request: IdempotentRequest,
    work: () => Promise<KeptAnswer>,
    recover: (requestId: string) => Promise<KeptAnswer | undefined>,
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

export function createIdempotency({ db, run = newId('exec') }: { db: Db; run?: string }): Idempotency {
  const finish = async ({ userId, key }: IdempotentRequest, answer: KeptAnswer): Promise<void> => {
    await db
      .updateTable('idempotency')
      .set({ status: answer.status, response: json(answer) })
      .where('user_id', '=', userId)
      .where('key', '=', key)
      .execute();
  };

  /** Claims the key for this run; undefined if it is ours now. */
  const take = (request: IdempotentRequest): Promise<IdempotencyRow | undefined> =>
    transaction(db, async (tx) => {
      const first = await claimIdempotency(tx, request);
      if (first) return first;
      await tx
        .updateTable('idempotency')
        .set({ response: json({ run, requestId: request.requestId }) })
        .where('user_id', '=', request.userId)
        .where('key', '=', request.key)
        .execute();
      return undefined;
    });

  /** Takes over a claim whose daemon is dead; false if somebody else was faster. */
  const takeOver = async (request: IdempotentRequest, deadRun: string): Promise<boolean> => {
    const result = await db
      .updateTable('idempotency')
      .set({ response: json({ run, requestId: request.requestId }) })
      .where('user_id', '=', request.userId)
      .where('key', '=', request.key)
      .where('status', 'is', null)
      .where(sql`response->>'run'`, '=', deadRun)
      .executeTakeFirst();
    return result.numUpdatedRows > 0n;
  };

  const release = async ({ userId, key }: IdempotentRequest): Promise<void> => {
    await db.deleteFrom('idempotency').where('user_id', '=', userId).where('key', '=', key).execute();
  };

  const perform = async (
    request: IdempotentRequest,
    work: () => Promise<KeptAnswer>,
  ): Promise<KeptAnswer> => {
    let answer: KeptAnswer;
    try {
      answer = await work();
    } catch (error) {
      await release(request);
      throw error;
    }
    await finish(request, answer);
    return answer;
  };

  return {
    async once(request, work, recover) {
      const end = performance.now() + WAIT_MS;
      for (let pause = 20; ; pause = Math.min(pause * 2, 500)) {
        const first = await take(request);
        if (!first) return { answer: await perform(request, work), replayed: false };
        if (first.status !== null) return { answer: keptAnswer.parse(first.response), replayed: true };
        const held = claim.safeParse(first.response);
        if (held.success && held.data.run !== run && (await takeOver(request, held.data.run))) {
          const answer = await recover(held.data.requestId);
          if (answer) {
            await finish(request, answer);
            return { answer, replayed: true };
          }
          return { answer: await perform(request, work), replayed: false };
        }
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
