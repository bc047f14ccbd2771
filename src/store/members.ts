/** Who is in a course, and as what. */
import { CarrelError } from '#base/errors.ts';
import type { Insertable, Selectable } from 'kysely';
import type { CreatedAt, Fact, Nullable } from './columns.ts';
import type { Db } from './schema.ts';

export type Role = 'instructor' | 'ta' | 'student';

export interface MemberTable {
  course_id: Fact<string>;
  user_id: Fact<string>;
  role: Role;
  section: Nullable<string>;
  created_at: CreatedAt;
}
export type Member = Selectable<MemberTable>;

/** Adds a member, or changes the role and section of one. */
export async function upsertMember(db: Db, values: Insertable<MemberTable>): Promise<Member> {
  return db
    .insertInto('members')
    .values(values)
    .onConflict((oc) =>
      oc
        .columns(['course_id', 'user_id'])
        .doUpdateSet({ role: values.role, section: values.section ?? null }),
    )
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function selectOptionalMember(
  db: Db,
  courseId: string,
  userId: string,
): Promise<Member | undefined> {
  return db
    .selectFrom('members')
    .selectAll()
    .where('course_id', '=', courseId)
    .where('user_id', '=', userId)
    .executeTakeFirst();
}

export async function deleteMember(db: Db, courseId: string, userId: string): Promise<void> {
  const row = await db
    .deleteFrom('members')
    .where('course_id', '=', courseId)
    .where('user_id', '=', userId)
    .returning('user_id')
    .executeTakeFirst();
  if (!row) throw new CarrelError('not_found', `user ${userId} is not a member of course ${courseId}`);
}
