/**
 * Events: what happened, to what, by whom. They are the audit trail and what listeners replay.
 *
 * `seq` is given at commit (see the migration), so a reader that pages by it never misses one. An event is
 * inserted in the transaction that makes it true.
 */
import type { ColumnType, Selectable } from 'kysely';
import { json, type DefaultedJson, type Fact } from './columns.ts';
import type { Db } from './schema.ts';

/** The channel on which new events are announced (a hint: read the table). */
export const eventsChannel = 'carrel_events';

/** Key of the advisory lock under which events get their numbers (see the migration). */
export const eventsLock = 1128354418;

export interface EventTable {
  id: ColumnType<number, never, never>;
  seq: ColumnType<number, never, never>;
  at: ColumnType<Date, Date | undefined, never>;
  /** For example `machine.started`. */
  kind: Fact<string>;
  /** The object's id. */
  subject: ColumnType<string | null, string | null | undefined, never>;
  course_id: ColumnType<string | null, string | null | undefined, never>;
  owner_id: ColumnType<string | null, string | null | undefined, never>;
  actor: ColumnType<string | null, string | null | undefined, never>;
  payload: DefaultedJson<Readonly<Record<string, unknown>>>;
}
export type EventRow = Selectable<EventTable>;

export interface NewEvent {
  readonly kind: string;
  readonly subject?: string | null;
  readonly courseId?: string | null;
  readonly ownerId?: string | null;
  readonly actor?: string | null;
  readonly payload?: Readonly<Record<string, unknown>>;
}

export async function insertEvent(db: Db, event: NewEvent): Promise<void> {
  await db
    .insertInto('events')
    .values({
      kind: event.kind,
      subject: event.subject ?? null,
      course_id: event.courseId ?? null,
      owner_id: event.ownerId ?? null,
      actor: event.actor ?? null,
      payload: json(event.payload ?? {}),
    })
    .execute();
}

/** Events after `afterSeq` in order; page by the last one's `seq`. */
export async function selectEventsAfter(
  db: Db,
  afterSeq: number,
  { limit = 500 }: { limit?: number } = {},
): Promise<EventRow[]> {
  return db
    .selectFrom('events')
    .selectAll()
    .where('seq', '>', afterSeq)
    .orderBy('seq')
    .limit(limit)
    .execute();
}

/** Deletes events older than `before`; gives how many. */
export async function deleteEventsBefore(db: Db, before: Date): Promise<number> {
  const result = await db.deleteFrom('events').where('at', '<', before).executeTakeFirst();
  return Number(result.numDeletedRows);
}
