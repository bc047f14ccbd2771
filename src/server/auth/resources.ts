/** From what a job works on (`/v1/machines/m-...`, or bare ids) to the course that it belongs to. */
import { isId } from '#base/ids.ts';
import type { Role } from '#contract/schemas/people.ts';
import type { Db } from '#store/schema.ts';
import type { Actor } from '#base/actor.ts';

/** The ids in a job's resources. */
export function resourceIds(resources: readonly string[]): string[] {
  return resources.map((resource) => resource.slice(resource.lastIndexOf('/') + 1));
}

async function courseIdOf(db: Db, id: string): Promise<string | null> {
  if (isId('course', id)) return id;
  if (isId('lab', id)) {
    const row = await db.selectFrom('labs').select('course_id').where('id', '=', id).executeTakeFirst();
    return row?.course_id ?? null;
  }
  if (isId('machine', id)) {
    const row = await db.selectFrom('machines').select('course_id').where('id', '=', id).executeTakeFirst();
    return row?.course_id ?? null;
  }
  if (isId('submission', id)) {
    const row = await db
      .selectFrom('submissions')
      .innerJoin('labs', 'labs.id', 'submissions.lab_id')
      .select('labs.course_id')
      .where('submissions.id', '=', id)
      .executeTakeFirst();
    return row?.course_id ?? null;
  }
  return null;
}

/**
 * The course of the resources and the actor's role in it. All that lead to a course must lead to the same
 * one: a job that touches two is for administrators.
 */
export async function courseOfResources(
  db: Db,
  actor: Actor,
  resources: readonly string[],
): Promise<{ readonly courseId: string | null; readonly role: Role | null }> {
  const found = new Set<string>();
  for (const id of resourceIds(resources).slice(0, 20)) {
    const courseId = await courseIdOf(db, id);
    if (courseId !== null) found.add(courseId);
  }
  const [courseId] = found;
  if (courseId === undefined || found.size > 1) return { courseId: null, role: null };
  const member = await db
    .selectFrom('members')
    .select('role')
    .where('course_id', '=', courseId)
    .where('user_id', '=', actor.id)
    .executeTakeFirst();
  return { courseId, role: member?.role ?? null };
}
