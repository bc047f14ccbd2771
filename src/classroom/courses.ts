/**
 * Courses and their members, as the API shows them.
 *
 * Who may call what is decided before (the route's `access`); here it only matters whose courses a list holds
 * and which role is shown.
 */
import type { Actor } from '#base/actor.ts';
import { CarrelError } from '#base/errors.ts';
import type { Course, Member, Role } from '#contract/schemas/people.ts';
import { insertCourse } from '#store/courses.ts';
import { insertEvent } from '#store/events.ts';
import { deleteMember, selectOptionalMember, upsertMember } from '#store/members.ts';
import type { Db } from '#store/schema.ts';
import { selectOptionalUserByName } from '#store/users.ts';
import { sql } from 'kysely';

export interface Page {
  readonly cursor?: string | undefined;
  readonly limit: number;
}

export interface Listed<T> {
  readonly items: T[];
  readonly next: string | null;
}

/** Cuts a list that was read with one item too many into a page; `cursorOf` gives the key to go on from. */
export function pageOf<Row, Item>(
  rows: readonly Row[],
  limit: number,
  cursorOf: (row: Row) => string,
  show: (row: Row) => Item,
): Listed<Item> {
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  return { items: shown.map(show), next: rows.length > limit && last ? cursorOf(last) : null };
}

function coursesSeenBy(db: Db, actor: Actor) {
  return db
    .selectFrom('courses')
    .leftJoin('members', (join) =>
      join.onRef('members.course_id', '=', 'courses.id').on('members.user_id', '=', actor.id),
    )
    .select((eb) => [
      'courses.id',
      'courses.name',
      'courses.title',
      'courses.etag',
      'courses.created_at',
      'members.role',
      eb
        .selectFrom('members as all')
        .select(sql<number>`count(*)::int`.as('n'))
        .whereRef('all.course_id', '=', 'courses.id')
        .as('members'),
      eb
        .selectFrom('labs')
        .select(sql<number>`count(*)::int`.as('n'))
        .whereRef('labs.course_id', '=', 'courses.id')
        .as('labs'),
    ]);
}

type Seen = Awaited<ReturnType<ReturnType<typeof coursesSeenBy>['execute']>>[number];

function show(row: Seen): Course {
  return {
    id: row.id,
    name: row.name,
    title: row.title,
    role: row.role,
    members: row.members ?? 0,
    labs: row.labs ?? 0,
    createdAt: row.created_at.toISOString(),
  };
}

/** The actor's courses (all of them for an administrator), by name. */
export async function listCourses(db: Db, actor: Actor, { cursor, limit }: Page): Promise<Listed<Course>> {
  let query = coursesSeenBy(db, actor);
  if (!actor.admin) query = query.where('members.user_id', 'is not', null);
  if (cursor !== undefined) query = query.where('courses.name', '>', cursor);
  const rows = await query
    .orderBy('courses.name')
    .limit(limit + 1)
    .execute();
  return pageOf(rows, limit, (row) => row.name, show);
}

/** One course and its ETag. */
export async function getCourse(
  db: Db,
  actor: Actor,
  courseId: string,
): Promise<{ readonly course: Course; readonly etag: number }> {
  const row = await coursesSeenBy(db, actor).where('courses.id', '=', courseId).executeTakeFirst();
  if (!row) throw new CarrelError('not_found', `course ${courseId} does not exist`);
  return { course: show(row), etag: row.etag };
}

/** Makes a course whose instructor is the actor. */
export async function createCourse(
  db: Db,
  actor: Actor,
  { name, title }: { readonly name: string; readonly title: string },
): Promise<Course> {
  const id = await db.transaction().execute(async (tx) => {
    const course = await insertCourse(tx, { name, title, created_by: actor.id });
    await upsertMember(tx, { course_id: course.id, user_id: actor.id, role: 'instructor' });
    await insertEvent(tx, {
      kind: 'course.created',
      subject: course.id,
      courseId: course.id,
      actor: actor.id,
    });
    return course.id;
  });
  return (await getCourse(db, actor, id)).course;
}

/** Changes the title; `etag` is what the caller last saw, if he said so. */
export async function changeCourse(
  db: Db,
  actor: Actor,
  courseId: string,
  { title }: { readonly title: string },
  etag?: number,
): Promise<{ readonly course: Course; readonly etag: number }> {
  await db.transaction().execute(async (tx) => {
    let query = tx
      .updateTable('courses')
      .set({ title, etag: sql<number>`etag + 1` })
      .where('id', '=', courseId);
    if (etag !== undefined) query = query.where('etag', '=', etag);
    if (!(await query.returning('id').executeTakeFirst())) throw staleEtag('course', courseId);
    await insertEvent(tx, { kind: 'course.changed', subject: courseId, courseId, actor: actor.id });
  });
  return getCourse(db, actor, courseId);
}

/** The error for a write that someone else's write came before. */
export function staleEtag(what: string, id: string): CarrelError {
  return new CarrelError('etag_mismatch', `${what} ${id} has changed since you read it`, {
    hint: 'read it again and repeat your change',
  });
}

const rank = sql<number>`case members.role when 'instructor' then 0 when 'ta' then 1 else 2 end`;

/** Instructors, then TAs, then students, each by name. */
export async function listMembers(
  db: Db,
  courseId: string,
  { cursor, limit }: Page,
): Promise<Listed<Member>> {
  let query = db
    .selectFrom('members')
    .innerJoin('users', 'users.id', 'members.user_id')
    .select([
      'users.id',
      'users.name',
      'members.role',
      'members.section',
      'members.created_at',
      rank.as('rank'),
    ])
    .where('members.course_id', '=', courseId);
  const from = /^([012]):(.+)$/.exec(cursor ?? '');
  if (from) query = query.where(sql<boolean>`(${rank}, users.name) > (${Number(from[1])}, ${from[2]})`);
  const rows = await query
    .orderBy('rank')
    .orderBy('users.name')
    .limit(limit + 1)
    .execute();
  return pageOf(
    rows,
    limit,
    (row) => `${row.rank}:${row.name}`,
    (row) => ({
      userId: row.id,
      name: row.name,
      role: row.role,
      section: row.section,
      joinedAt: row.created_at.toISOString(),
    }),
  );
}

async function selectUserByName(db: Db, name: string): Promise<{ id: string; name: string }> {
  const user = await selectOptionalUserByName(db, name);
  if (!user)
    throw new CarrelError('not_found', `there is no account "${name}"`, {
      hint: `an administrator makes it with: carrel user add ${name}`,
    });
  return user;
}

/** Adds someone, or changes their role; the last instructor stays one. */
export async function setMember(
  db: Db,
  actor: Actor,
  courseId: string,
  userName: string,
  { role, section }: { readonly role: Role; readonly section: string | null },
): Promise<Member> {
  return db.transaction().execute(async (tx) => {
    const user = await selectUserByName(tx, userName);
    if (role !== 'instructor') await refuseLastInstructor(tx, courseId, user.id);
    const row = await upsertMember(tx, { course_id: courseId, user_id: user.id, role, section });
    await insertEvent(tx, {
      kind: 'course.member_set',
      subject: user.id,
      courseId,
      ownerId: user.id,
      actor: actor.id,
      payload: { name: user.name, role, section },
    });
    return { userId: user.id, name: user.name, role, section, joinedAt: row.created_at.toISOString() };
  });
}

/** Removes someone; what they handed in stays. */
export async function removeMember(db: Db, actor: Actor, courseId: string, userName: string): Promise<void> {
  await db.transaction().execute(async (tx) => {
    const user = await selectUserByName(tx, userName);
    await refuseLastInstructor(tx, courseId, user.id);
    await deleteMember(tx, courseId, user.id);
    await insertEvent(tx, {
      kind: 'course.member_removed',
      subject: user.id,
      courseId,
      ownerId: user.id,
      actor: actor.id,
      payload: { name: user.name },
    });
  });
}

/** A course without an instructor could be managed by nobody. The course row is the lock against two at once. */
async function refuseLastInstructor(db: Db, courseId: string, userId: string): Promise<void> {
  await db.selectFrom('courses').select('id').where('id', '=', courseId).forUpdate().execute();
  if ((await selectOptionalMember(db, courseId, userId))?.role !== 'instructor') return;
  const others = await db
    .selectFrom('members')
    .select('user_id')
    .where('course_id', '=', courseId)
    .where('role', '=', 'instructor')
    .where('user_id', '<>', userId)
    .limit(1)
    .execute();
  if (others.length === 0)
    throw new CarrelError('wrong_state', 'this is the only instructor of the course', {
      hint: 'make someone else an instructor first',
    });
}
