/** Who may see an event: its owner, whoever caused it, the staff of its course, administrators. */
import { sql } from 'kysely';
import type { Event } from '#contract/schemas/jobs.ts';
import { transaction } from '#store/database.ts';
import { eventsLock } from '#store/events.ts';
import type { Db } from '#store/schema.ts';
import type { Actor } from '#base/actor.ts';

export interface EventFilter {
  readonly actor: Actor;
  readonly kind?: string | undefined;
}

/** An event with what is needed to decide who may see it. */
export interface SeenEvent {
  readonly event: Event;
  readonly ownerId: string | null;
  readonly courseId: string | null;
  readonly actorId: string | null;
}

function rowsOf(db: Db) {
  return db
    .selectFrom('events')
    .leftJoin('users', 'users.id', 'events.actor')
    .select([
      'events.seq',
      'events.at',
      'events.kind',
      'events.subject',
      'events.payload',
      'events.owner_id',
      'events.course_id',
      'events.actor',
      'users.name as actorName',
    ])
    .orderBy('events.seq');
}

type Row = Awaited<ReturnType<ReturnType<typeof rowsOf>['execute']>>[number];

function seen(row: Row): SeenEvent {
  return {
    event: {
      seq: row.seq,
      at: row.at.toISOString(),
      kind: row.kind,
      subject: row.subject ?? '',
      actor: row.actorName,
      payload: { ...row.payload },
    },
    ownerId: row.owner_id,
    courseId: row.course_id,
    actorId: row.actor,
  };
}

/** All events after `after`, for the feed. */
export async function selectAllAfter(db: Db, after: number, limit: number): Promise<SeenEvent[]> {
  return (await rowsOf(db).where('events.seq', '>', after).limit(limit).execute()).map(seen);
}

/** The events after `after` that the actor may see, from the table. */
export async function selectVisibleAfter(
  db: Db,
  { actor, kind }: EventFilter,
  after: number,
  limit: number,
): Promise<Event[]> {
  let rows = rowsOf(db).where('events.seq', '>', after).limit(limit);
  if (kind !== undefined) rows = rows.where('events.kind', '=', kind);
  if (!actor.admin)
    rows = rows.where((eb) =>
      eb.or([
        eb('events.owner_id', '=', actor.id),
        eb('events.actor', '=', actor.id),
        eb('events.course_id', 'in', staffedCourses(db, actor)),
      ]),
    );
  return (await rows.execute()).map((row) => seen(row).event);
}

function staffedCourses(db: Db, actor: Actor) {
  return db
    .selectFrom('members')
    .select('course_id')
    .where('user_id', '=', actor.id)
    .where('role', 'in', ['instructor', 'ta']);
}

/** The courses whose events the actor sees. */
export async function selectStaffedCourses(db: Db, actor: Actor): Promise<ReadonlySet<string>> {
  return new Set((await staffedCourses(db, actor).execute()).map((row) => row.course_id));
}

/** The same decision for an event in memory. */
export function isVisible(
  { event, ownerId, courseId, actorId }: SeenEvent,
  { actor, kind }: EventFilter,
  staffed: ReadonlySet<string>,
): boolean {
  if (kind !== undefined && event.kind !== kind) return false;
  return (
    actor.admin ||
    ownerId === actor.id ||
    actorId === actor.id ||
    (courseId !== null && staffed.has(courseId))
  );
}

/**
 * The newest sequence number whose event can be read, and the oldest that can still be replayed (one more than the
 * newest if none). The sequence itself runs ahead of that: its number is taken before the event is committed. It is
 * asked only when no event is left, under the lock that who takes a number holds until his commit is done.
 */
export async function selectKeptRange(db: Db): Promise<{ readonly first: number; readonly last: number }> {
  const kept = await selectEnds(db);
  if (kept) return kept;
  return await transaction(db, async (tx) => {
    await sql`select pg_advisory_xact_lock_shared(${eventsLock})`.execute(tx);
    const { rows } = await sql<{ last: number }>`
      select case when is_called then last_value else 0 end as last from events_next`.execute(tx);
    const last = rows[0]?.last ?? 0;
    return (await selectEnds(tx)) ?? { first: last + 1, last };
  });
}

async function selectEnds(db: Db): Promise<{ readonly first: number; readonly last: number } | undefined> {
  const { rows } = await sql<{ first: number | null; last: number | null }>`
    select min(seq) as first, max(seq) as last from events`.execute(db);
  const { first, last } = rows[0] ?? { first: null, last: null };
  return first === null || last === null ? undefined : { first, last };
}
