/** What is told of machines, and to whom. */
import type { Machine as Row } from '#store/machines.ts';

/** An event about a machine, seen by its owner and its course. */
export function eventOf(
  row: Pick<Row, 'id' | 'name' | 'owner_id' | 'course_id'>,
  kind: string,
  payload: Readonly<Record<string, unknown>> = {},
  actor: string | null = null,
) {
  return {
    kind,
    subject: row.id,
    ownerId: row.owner_id,
    courseId: row.course_id,
    actor,
    payload: { name: row.name, ...payload },
  };
}
