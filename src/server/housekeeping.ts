/** What nobody asks for: old events, old jobs, expired keys and images new in the cache. Once an hour. */
import { messageOf } from '#base/errors.ts';
import type { Logger } from '#base/log.ts';
import { purgeJobs } from '#jobs/queue.ts';
import { deleteEventsBefore } from '#store/events.ts';
import { deleteExpiredIdempotency } from '#store/idempotency.ts';
import type { Db } from '#store/schema.ts';

const EVERY_MS = 3_600_000;
/** At least a day is promised (api: Last-Event-ID); a week is cheap and covers a weekend. */
const EVENTS_KEPT_MS = 7 * 86_400_000;

export function startHousekeeping(db: Db, log: Logger): { stop(): void } {
  const clean = async (): Promise<void> => {
    try {
      const events = await deleteEventsBefore(db, new Date(Date.now() - EVENTS_KEPT_MS));
      const keys = await deleteExpiredIdempotency(db);
      const jobs = await purgeJobs(db);
      if (events + keys + jobs > 0) log.info('old rows deleted', { events, keys, jobs });
    } catch (error) {
      log.warn('old rows could not be deleted', { error: messageOf(error) });
    }
  };
  const timer = setInterval(() => void clean(), EVERY_MS).unref();
  return { stop: () => clearInterval(timer) };
}
