/** Rows that tests of several tables begin with. */
import { insertCourse } from './courses.ts';
import { transaction } from './database.ts';
import { insertLab } from './labs.ts';
import type { Db } from './schema.ts';
import { insertUser, type User } from './users.ts';

/** A course with a lab, and who made them. */
export async function makeLab(db: Db): Promise<{ user: User; labId: string; courseId: string }> {
  const user = await insertUser(db, { name: 'Ada' });
  const course = await insertCourse(db, { name: 'os', title: 'Operating systems', created_by: user.id });
  const content = { title: 'First', spec: { checks: [] }, treeHash: 'aa', createdBy: user.id };
  const lab = await transaction(db, (tx) =>
    insertLab(tx, { courseId: course.id, name: 'first', ...content }),
  );
  return { user, labId: lab.id, courseId: course.id };
}
