import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { sql } from 'kysely';
import type { Actor } from '#base/actor.ts';
import { isCarrelError } from '#base/errors.ts';
import { machineOrder, type MachineOrder } from '#contract/schemas/machines.ts';
import { json } from '#store/columns.ts';
import { insertMachine } from '#store/machines.ts';
import { startTestCluster, type TestCluster } from '#store/testing.ts';
import { insertUser } from '#store/users.ts';
import { openViews, type Views } from './list.ts';

let cluster: TestCluster;
let views: Views;
let anna: Actor;

/** Names and instants of creation; two of these are the same to the millisecond, two altogether. */
const made: readonly (readonly [string, string])[] = [
  ['web-2', '2026-01-03T00:00:00.000002Z'],
  ['web', '2026-01-03T00:00:00.000001Z'],
  ['a-first', '2026-01-05T00:00:00Z'],
  ['z', '2026-01-01T00:00:00Z'],
  ['web-10', '2026-01-02T00:00:00Z'],
  ['db', '2026-01-02T00:00:00Z'],
  ['a1', '2026-02-01T00:00:00Z'],
];

before(async () => {
  cluster = await startTestCluster();
  const { db } = await cluster.freshStore();
  const user = await insertUser(db, { name: 'anna' });
  anna = { id: user.id, name: user.name, admin: false };
  for (const [name, created] of made) {
    const { id } = await insertMachine(db, {
      name,
      owner_id: anna.id,
      driver: 'container',
      limits: json({}),
      config: json({ image: 'busybox' }),
    });
    await sql`update machines set created_at = ${created}::timestamptz where id = ${id}`.execute(db);
  }
  views = openViews(db);
});
after(() => cluster.close());

/** Every name, read in pages of two. */
async function inPages(sort: MachineOrder | undefined): Promise<string[]> {
  const names: string[] = [];
  let cursor: string | undefined;
  do {
    const { items, next } = await views.list(anna, { sort, cursor, limit: 2 });
    names.push(...items.map(({ name }) => name));
    cursor = next ?? undefined;
  } while (cursor !== undefined && names.length < 50);
  return names;
}

const names = made.map(([name]) => name).toSorted();

test('a list comes whole and in its order, in pages of any size', async () => {
  assert.deepEqual((await inPages(undefined)).toSorted(), names);
  assert.deepEqual(await inPages('name'), names);
  assert.deepEqual(await inPages('-name'), names.toReversed());
  const byTime = await inPages('created');
  assert.deepEqual(byTime.with(1, '').with(2, ''), ['z', '', '', 'web', 'web-2', 'a-first', 'a1']);
  assert.deepEqual(byTime.slice(1, 3).toSorted(), ['db', 'web-10']);
  assert.deepEqual(await inPages('-created'), byTime.toReversed());
});

test('a cursor of another order, or of nobody’s making, is refused', async () => {
  for (const sort of machineOrder.options) {
    const { next } = await views.list(anna, { limit: 2 });
    for (const cursor of [next ?? '', 'nonsense', ''])
      await assert.rejects(
        async () => await views.list(anna, { sort, cursor }),
        (error) => isCarrelError(error, 'validation_failed'),
      );
  }
  await assert.rejects(
    async () => await views.list(anna, { cursor: 'nonsense' }),
    (error) => isCarrelError(error, 'validation_failed'),
  );
});
