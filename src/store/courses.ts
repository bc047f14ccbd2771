/** Courses. `etag` grows with every change of the row. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { Insertable, Selectable } from 'kysely';
import type { CreatedAt, Defaulted, Fact } from './columns.ts';
import { violatedConstraint } from './errors.ts';
import type { Db } from './schema.ts';

export interface CourseTable {
  id: Fact<string>;
  name: string;
  title: string;
  created_by: Fact<string>;
  etag: Defaulted<number>;
  created_at: CreatedAt;
}
export type Course = Selectable<CourseTable>;

export async function insertCourse(
  db: Db,
  values: Omit<Insertable<CourseTable>, 'id' | 'etag'>,
): Promise<Course> {
  try {
    return await db
      .insertInto('courses')
      .values({ id: newId('course'), ...values })
      .returningAll()
      .executeTakeFirstOrThrow();
  } catch (error) {
    if (violatedConstraint(error) !== 'courses_name') throw error;
    throw new CarrelError('name_taken', `course "${values.name}" already exists`, { cause: error });
  }
}
