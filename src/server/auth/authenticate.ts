/** From a token to an actor. Answers are remembered for a few seconds; a revoked token is forgotten at once. */
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import type { Store } from '#store/database.ts';
import type { Db } from '#store/schema.ts';
import { touchToken } from '#store/tokens.ts';
import type { Actor } from '#base/actor.ts';
import { hashSecret } from './secret.ts';

/** The channel on which ended tokens and closed accounts are announced; the payload is the user's id. */
export const authChannel = 'carrel_auth';

/** How long an answer is believed if no announcement comes: the worst case after a lost connection. */
const BELIEF_MS = 15_000;
/** "Last used" is to the minute. */
const TOUCH_MS = 60_000;
const MAX_REMEMBERED = 5000;

export interface Identity {
  readonly actor: Actor;
  readonly tokenId: string;
}

interface Entry extends Identity {
  readonly believedUntil: number;
  touchedAt: number;
}

export interface Authenticator {
  /** Who holds this secret, or `unauthenticated`. */
  identify(secret: string): Promise<Identity>;
  /** Forgets what is known of a user's tokens (all users' without an id). */
  forget(userId?: string): void;
  /** For connections that last: calls `end` when the secret stops being good, until the returned function is called. */
  hold(secret: string, userId: string, end: () => void): () => void;
}

interface Held {
  readonly secret: string;
  readonly userId: string;
  readonly end: () => void;
}

export function createAuthenticator({ db, log = silent }: { db: Db; log?: Logger }): Authenticator {
  const known = new Map<string, Entry>();
  const held = new Set<Held>();
  // A query that began before `forget` may bring an answer from before it: such an answer is not kept.
  let epoch = 0;

  const lookUp = async (key: string, hash: Buffer, now: number): Promise<Entry> => {
    const began = epoch;
    const row = await db
      .selectFrom('tokens')
      .innerJoin('users', 'users.id', 'tokens.user_id')
      .select(['tokens.id as tokenId', 'tokens.expires_at', 'users.id', 'users.name', 'users.admin'])
      .where('tokens.hash', '=', hash)
      .where('tokens.revoked_at', 'is', null)
      .where('users.disabled_at', 'is', null)
      .executeTakeFirst();
    if (!row || (row.expires_at && row.expires_at.getTime() <= Date.now())) throw unauthenticated();
    const { id, name, admin, tokenId } = row;
    const left = row.expires_at ? row.expires_at.getTime() - Date.now() : BELIEF_MS;
    const entry: Entry = {
      actor: Object.freeze({ id, name, admin }),
      tokenId,
      believedUntil: now + Math.min(left, BELIEF_MS),
      touchedAt: known.get(key)?.touchedAt ?? Number.NEGATIVE_INFINITY,
    };
    if (began === epoch) {
      known.set(key, entry);
      if (known.size > MAX_REMEMBERED) {
        const oldest = known.keys().next();
        if (!oldest.done) known.delete(oldest.value);
      }
    }
    return entry;
  };

  const touch = (entry: Entry, now: number): void => {
    if (now - entry.touchedAt < TOUCH_MS) return;
    entry.touchedAt = now;
    touchToken(db, entry.tokenId).catch((error: unknown) =>
      log.warn('the use of a token could not be noted', { token: entry.tokenId, error }),
    );
  };

  const identify = async (secret: string): Promise<Identity> => {
    const hash = hashSecret(secret);
    const key = hash.toString('base64');
    const now = performance.now();
    const remembered = known.get(key);
    const entry = remembered && now < remembered.believedUntil ? remembered : await lookUp(key, hash, now);
    touch(entry, now);
    return entry;
  };

  /** Ends the held connections whose secret is no longer good. If that cannot be found out now, they stay. */
  const review = async (userId: string | undefined): Promise<void> => {
    for (const one of held)
      if (userId === undefined || one.userId === userId)
        await identify(one.secret).catch((error: unknown) => {
          if (isCarrelError(error, 'unauthenticated') && held.delete(one)) one.end();
        });
  };

  return {
    identify,
    forget(userId) {
      epoch += 1;
      for (const [key, entry] of known)
        if (userId === undefined || entry.actor.id === userId) known.delete(key);
      void review(userId);
    },
    hold(secret, userId, end) {
      const one = { secret, userId, end };
      held.add(one);
      return () => void held.delete(one);
    },
  };
}

/** One that hears of tokens that end and accounts that are closed, whichever process ends them. */
export async function openAuthenticator(
  { db, listen }: Pick<Store, 'db' | 'listen'>,
  log?: Logger,
): Promise<Authenticator> {
  const authenticator = createAuthenticator({ db, ...(log && { log }) });
  await listen(authChannel, (userId) => authenticator.forget(userId === '' ? undefined : userId));
  return authenticator;
}

export function unauthenticated(): CarrelError {
  return new CarrelError('unauthenticated', 'no valid token came with the request', {
    hint: 'send it as: Authorization: Bearer carrel_...; make one with: carrel token new',
  });
}
