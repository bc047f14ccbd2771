/** For tests: what the rows of machines say. */
import assert from 'node:assert/strict';
import type { ProcessIdentity } from '#host/processes.ts';
import type { Db } from '#store/schema.ts';

/** The process that is the machine's first, as its row has it. */
export async function keeperOf(db: Db, id: string): Promise<ProcessIdentity> {
  const { keeper } = await db
    .selectFrom('machines')
    .select('keeper')
    .where('id', '=', id)
    .executeTakeFirstOrThrow();
  assert.ok(keeper, `the row of ${id} has no keeper`);
  return keeper;
}
