/** Throws away what has outlived its use: ended jobs after 7 days, answers to replayed requests after 24 hours. */
import { sleep } from '#base/deadline.ts';
import { messageOf } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import { deleteEventsBefore } from '#store/events.ts';
import { deleteExpiredIdempotency } from '#store/idempotency.ts';
import type { Db } from '#store/schema.ts';
import { purgeJobs } from './queue.ts';

const hour = 3_600_000;
/** Events are the audit trail: a little more than a year, so that a course can be looked at until the next one. */
const eventsKeptMs = 400 * 24 * hour;
const batch = 1000;

export interface UpkeepOptions {
  readonly db: Db;
  readonly log?: Logger;
  readonly everyMs?: number;
}

/** Does it now and then every hour; `stop` waits for the round that is going on. Any number of processes may. */
export function startUpkeep({ db, log = silent, everyMs = hour }: UpkeepOptions): { stop(): Promise<void> } {
  const stopping = new AbortController();
  const round = async (): Promise<void> => {
    // In pieces, so that no statement holds many rows for long.
    while ((await purgeJobs(db, { limit: batch })) === batch) await sleep(10);
    await deleteExpiredIdempotency(db);
    await deleteEventsBefore(db, new Date(Date.now() - eventsKeptMs));
  };
  const loop = async (): Promise<void> => {
    do {
      await round().catch((error: unknown) => log.warn('the upkeep failed', { error: messageOf(error) }));
      await sleep(everyMs, stopping.signal).catch(() => undefined);
    } while (!stopping.signal.aborted);
  };
  const running = loop();
  return {
    async stop() {
      stopping.abort();
      await running;
    },
  };
}
