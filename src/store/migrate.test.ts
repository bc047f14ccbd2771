import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { sql } from 'kysely';
import { migrate } from './migrate.ts';
import { selectNetworkByName } from './networks.ts';
import type { Db } from './schema.ts';
import { startTestCluster } from './testing.ts';

const pg = await startTestCluster();
after(() => pg.close());

/** Everything a schema consists of, as text. */
async function describe(db: Db): Promise<string> {
  const { rows } = await sql<{ line: string }>`
    select format('%s.%s %s %s %s', table_name, column_name, data_type, is_nullable, column_default) as line
      from information_schema.columns where table_schema = 'public' and table_name not like 'kysely%'
    union all select indexdef from pg_indexes where schemaname = 'public' and tablename not like 'kysely%'
    union all select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
      where connamespace = 'public'::regnamespace and conrelid::regclass::text not like 'kysely%'
    union all select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
    union all select proname from pg_proc where pronamespace = 'public'::regnamespace
    union all select sequencename from pg_sequences where schemaname = 'public'
    order by 1`.execute(db);
  return rows.map((row) => row.line).join('\n');
}

test('every migration goes up, down to nothing, and up again to the same schema', async () => {
  const { db } = await pg.emptyStore();
  const names = await migrate(db);
  const full = await describe(db);
  assert.ok(names.length >= 5);
  assert.deepEqual(await migrate(db), []);
  for (let version = names.length - 1; version >= 0; version -= 1) await migrate(db, version);
  assert.equal(await describe(db), '');
  for (let version = 1; version <= names.length; version += 1) await migrate(db, version);
  assert.equal(await describe(db), full);
});

test('processes that migrate at the same time do it once', async () => {
  const first = await pg.emptyStore();
  const ran = await Promise.all([1, 2, 3, 4].map(() => migrate(first.db)));
  assert.deepEqual(ran.flat().sort(), [...new Set(ran.flat())]);
  assert.ok(ran.flat().length >= 5);
});

test('a version that does not exist is refused', async () => {
  const { db } = await pg.emptyStore();
  await assert.rejects(migrate(db, 99), { code: 'invalid_request' });
});

test('the default network is there from the start', async () => {
  const { db } = await pg.freshStore();
  const network = await selectNetworkByName(db);
  assert.deepEqual(
    [network.cidr, network.gateway, network.bridge, network.nat],
    ['192.168.0.0/16', '192.168.0.1', 'br0', true],
  );
});
