/**
 * The event feed: one reader of the table for all listeners of this process.
 *
 * A notification says that there is something to read; while anybody listens, the table is also looked at now
 * and then. The newest events stay in a short list in memory that every listener reads at his own position; who
 * falls off its end reads the table instead. Listeners have no queues, so a slow one costs nothing; his own
 * connection decides when he is too slow (stream.ts).
 */
import { messageOf } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import type { Event } from '#contract/schemas/jobs.ts';
import type { Store } from '#store/database.ts';
import { eventsChannel } from '#store/events.ts';
import {
  isVisible,
  selectAllAfter,
  selectKeptRange,
  selectStaffedCourses,
  selectVisibleAfter,
  type EventFilter,
  type SeenEvent,
} from './visible.ts';

export interface FeedPage {
  readonly events: readonly Event[];
  /** Where to go on: everything up to here has been looked at. */
  readonly next: number;
}

export interface EventFeed {
  /** A listener's turn: what there is after `after` for him, perhaps nothing. */
  read(filter: EventFilter, after: number, limit?: number): Promise<FeedPage>;
  /** Calls back when there may be new events, until the returned function is called. */
  watch(wake: () => void): () => void;
  close(): void;
}

/** A lost notification costs at most this long. */
const POLL_MS = 5000;
/** Events that come together are read together. */
const GATHER_MS = 10;
const KEPT = 2000;
/** Roles change rarely; a listener's are looked up again after this long. */
const ROLES_MS = 10_000;

export function openEventFeed({ db, listen }: Pick<Store, 'db' | 'listen'>, log: Logger = silent): EventFeed {
  const watchers = new Set<() => void>();
  const staffed = new Map<
    string,
    { readonly courses: Promise<ReadonlySet<string>>; readonly until: number }
  >();
  let recent: SeenEvent[] = [];
  /** `recent` holds everything after this number, up to `position`. */
  let floor = -1;
  let position = -1;
  let unlisten: Promise<() => void> | undefined;
  let timer: NodeJS.Timeout | undefined;
  /** When the timer ends, on the clock of `performance.now`. */
  let due = Infinity;
  let reading = false;

  const cancel = (): void => {
    clearTimeout(timer);
    due = Infinity;
  };
  /** Never later than what is scheduled already: announcements that keep coming put nothing off. */
  const schedule = (ms: number): void => {
    const at = performance.now() + ms;
    if (watchers.size === 0 || at >= due) return;
    clearTimeout(timer);
    due = at;
    timer = setTimeout(() => void advance(), ms);
  };

  const advance = async (): Promise<void> => {
    due = Infinity;
    if (reading) return schedule(GATHER_MS);
    reading = true;
    let again = false;
    try {
      if (position < 0) floor = position = (await selectKeptRange(db)).last;
      const rows = await selectAllAfter(db, position, 500);
      again = rows.length === 500;
      position = rows.at(-1)?.event.seq ?? position;
      recent.push(...rows);
      if (recent.length > KEPT) {
        recent = recent.slice(-KEPT / 2);
        floor = (recent[0]?.event.seq ?? position + 1) - 1;
      }
      for (const wake of watchers) wake();
    } catch (error) {
      log.warn('events could not be read', { error: messageOf(error) });
    } finally {
      reading = false;
      schedule(again ? 0 : POLL_MS);
    }
  };

  const coursesOf = (actor: EventFilter['actor']): Promise<ReadonlySet<string>> => {
    const now = performance.now();
    const known = staffed.get(actor.id);
    if (known && now < known.until) return known.courses;
    const courses = selectStaffedCourses(db, actor);
    courses.catch(() => staffed.delete(actor.id));
    if (staffed.size > 1000) staffed.clear();
    staffed.set(actor.id, { courses, until: now + ROLES_MS });
    return courses;
  };

  return {
    async read(filter, after, limit = 200) {
      if (floor >= 0 && after >= floor) {
        const upTo = position;
        const courses = filter.actor.admin ? new Set<string>() : await coursesOf(filter.actor);
        const fresh = recent.filter(({ event }) => event.seq > after && event.seq <= upTo);
        return {
          events: fresh.filter((row) => isVisible(row, filter, courses)).map(({ event }) => event),
          next: Math.max(after, upTo),
        };
      }
      const { last } = await selectKeptRange(db);
      const events = await selectVisibleAfter(db, filter, after, limit);
      const full = events.length === limit;
      return {
        events,
        next: Math.max(after, full ? (events.at(-1)?.seq ?? last) : last, events.at(-1)?.seq ?? 0),
      };
    },
    watch(wake) {
      watchers.add(wake);
      unlisten ??= listen(eventsChannel, () => schedule(GATHER_MS));
      if (watchers.size === 1) schedule(0);
      return () => {
        watchers.delete(wake);
        if (watchers.size > 0) return;
        // Nobody listens: nothing is read, and the next listener starts afresh.
        cancel();
        recent = [];
        floor = position = -1;
      };
    },
    close() {
      cancel();
      watchers.clear();
      void unlisten?.then((stop) => stop());
    },
  };
}
