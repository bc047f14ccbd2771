/**
 * Courses and their members, as the API shows them.
 *
 * Who may call what is decided before (the route's `access`); here it only matters whose courses a list holds
 * and which role is shown.
 */
import { createHash } from 'node:crypto';
import type { Actor } from '#base/actor.ts';
import { CarrelError } from '#base/errors.ts';
import { decodeCursor, pageOf, type Listed, type Page } from '#contract/page.ts';
import type { Course, Member, Role } from '#contract/schemas/people.ts';
import { insertCourse } from '#store/courses.ts';
import { insertEvent } from '#store/events.ts';
import { deleteMember, selectOptionalMember, upsertMember } from '#store/members.ts';
import type { Db } from '#store/schema.ts';
import { selectOptionalUserByName } from '#store/users.ts';
import { sql } from 'kysely';

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
  if (cursor !== undefined) query = query.where('courses.name', '>', decodeCursor(cursor, 1)[0] ?? '');
  const rows = await query
    .orderBy('courses.name')
    .limit(limit + 1)
    .execute();
  return pageOf(rows, limit, show, (row) => [row.name]);
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

/** Changes the title; `allow` throws if the version of the locked row is not the one that the caller saw. */
export async function changeCourse(
  db: Db,
  actor: Actor,
  courseId: string,
  { title }: { readonly title: string },
  allow: (etag: number) => void = () => undefined,
): Promise<{ readonly course: Course; readonly etag: number }> {
  await db.transaction().execute(async (tx) => {
    const row = await tx
      .selectFrom('courses')
      .select('etag')
      .where('id', '=', courseId)
      .forUpdate()
      .executeTakeFirst();
    if (!row) throw new CarrelError('not_found', `course ${courseId} does not exist`);
    allow(row.etag);
    await tx
      .updateTable('courses')
      .set({ title, etag: row.etag + 1 })
      .where('id', '=', courseId)
      .execute();
    await insertEvent(tx, { kind: 'course.changed', subject: courseId, courseId, actor: actor.id });
  });
  return getCourse(db, actor, courseId);
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
  if (cursor !== undefined) {
    const [after, name] = decodeCursor(cursor, 2);
    query = query.where(sql<boolean>`(${rank}, users.name) > (${Number(after)}, ${name})`);
  }
  const rows = await query
    .orderBy('rank')
    .orderBy('users.name')
    .limit(limit + 1)
    .execute();
  return pageOf(
    rows,
    limit,
    (row): Member => ({
      userId: row.id,
      name: row.name,
      role: row.role,
      section: row.section,
      joinedAt: row.created_at.toISOString(),
    }),
    (row) => [row.rank, row.name],
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

export interface TaggedMember {
  readonly member: Member;
  readonly etag: string;
}

/** Throws if what somebody is now (`etagOf`) is not what the caller saw. */
type AllowMember = (etag: string) => void;

/** All that can change of a membership; of none at all it is `none`, which no member has. */
function etagOf(member: { readonly role: Role; readonly section: string | null } | undefined): string {
  if (!member) return 'none';
  return createHash('sha256')
    .update(JSON.stringify([member.role, member.section]))
    .digest('hex')
    .slice(0, 16);
}

/** The membership as it is, its row locked where there is one. */
async function allowMember(tx: Db, courseId: string, userId: string, allow: AllowMember): Promise<void> {
  const row = await tx
    .selectFrom('members')
    .select(['role', 'section'])
    .where('course_id', '=', courseId)
    .where('user_id', '=', userId)
    .forUpdate()
    .executeTakeFirst();
  allow(etagOf(row));
}

function tagged(
  user: { readonly id: string; readonly name: string },
  row: { readonly role: Role; readonly section: string | null; readonly created_at: Date },
): TaggedMember {
  const { role, section } = row;
  return {
    member: { userId: user.id, name: user.name, role, section, joinedAt: row.created_at.toISOString() },
    etag: etagOf(row),
  };
}

/** One member, by name. */
export async function getMember(db: Db, courseId: string, userName: string): Promise<TaggedMember> {
  const user = await selectOptionalUserByName(db, userName);
  const row = user && (await selectOptionalMember(db, courseId, user.id));
  if (!row) throw new CarrelError('not_found', `"${userName.slice(0, 80)}" is not in this course`);
  return tagged(user, row);
}

/** Adds someone, or changes their role; the last instructor stays one. */
export async function setMember(
  db: Db,
  actor: Actor,
  courseId: string,
  userName: string,
  { role, section }: { readonly role: Role; readonly section: string | null },
  allow: AllowMember = () => undefined,
): Promise<TaggedMember> {
  return db.transaction().execute(async (tx) => {
    const user = await selectUserByName(tx, userName);
    await allowMember(tx, courseId, user.id, allow);
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
    return tagged(user, row);
  });
}

/** Removes someone; what they handed in stays. */
export async function removeMember(
  db: Db,
  actor: Actor,
  courseId: string,
  userName: string,
  allow: AllowMember = () => undefined,
): Promise<void> {
  await db.transaction().execute(async (tx) => {
    const user = await selectUserByName(tx, userName);
    await allowMember(tx, courseId, user.id, allow);
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
