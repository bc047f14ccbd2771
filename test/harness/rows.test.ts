import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { sql } from 'kysely';
import { allocateAddress } from '#store/addresses.ts';
import { json } from '#store/columns.ts';
import { transaction, type Store } from '#store/database.ts';
import { insertMachine } from '#store/machines.ts';
import { selectNetworkByName } from '#store/networks.ts';
import { startTestCluster, type TestCluster } from '#store/testing.ts';
import { insertUser } from '#store/users.ts';
import { danglingRecords } from './rows.ts';

let cluster: TestCluster;
let store: Store;
before(async () => {
  cluster = await startTestCluster();
  store = await cluster.freshStore();
});
after(() => cluster.close());

test('a machine with its address and directory dangles nowhere; what is left of one that is gone does', async () => {
  const { db } = store;
  const directory = join(cluster.dataDir, 'data');
  mkdirSync(join(directory, 'machines'), { recursive: true });
  const owner = await insertUser(db, { name: 'anna' });
  const network = await selectNetworkByName(db);
  const { id } = await insertMachine(db, {
    name: 'web',
    owner_id: owner.id,
    driver: 'container',
    limits: json({}),
    config: json({}),
  });
  const address = await transaction(db, (tx) => allocateAddress(tx, network.id, id));
  mkdirSync(join(directory, 'machines', id));
  assert.deepEqual(await danglingRecords(store, directory), []);

  await sql`update machines set activity = 'starting' where id = ${id}`.execute(db);
  assert.deepEqual(await danglingRecords(store, directory), [`machine: ${id} (web) is starting for ever`]);
  await sql`insert into jobs (id, kind, args) values ('j-1', 'machine.start', ${JSON.stringify({ machineId: id })})`.execute(
    db,
  );
  assert.deepEqual(await danglingRecords(store, directory), [], 'a job will end it');
  await sql`update jobs set state = 'running', owner = 'x', lease_until = now()`.execute(db);
  assert.deepEqual(await danglingRecords(store, directory), [
    'job: j-1 (machine.start) is nobody’s, and running',
  ]);
  await sql`update jobs set state = 'done', owner = null, lease_until = null, ended_at = now()`.execute(db);
  await sql`update machines set activity = null, deleted_at = now() where id = ${id}`.execute(db);
  assert.deepEqual(await danglingRecords(store, directory), [
    `address: ${address}, of a machine that is gone`,
    `files: machines/${id}, of a machine that is gone`,
  ]);
});
