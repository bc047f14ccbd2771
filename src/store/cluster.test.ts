import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { until } from '#base/deadline.ts';
import { sql } from 'kysely';
import { prepareDirectories } from './cluster-files.ts';
import { clusterConnection, startCluster, stopCluster } from './cluster.ts';
import { connectionFromEnvironment, openStore, transaction, type Store } from './database.ts';
import { findPostmaster } from './postmaster.ts';
import { testDatabaseUser } from './testing.ts';

const dataDir = mkdtempSync(join(tmpdir(), 'carrel-pg-'));
chmodSync(dataDir, 0o711);
const user = testDatabaseUser();
after(async () => {
  await stopCluster({ dataDir, limitMs: 5000 });
  rmSync(dataDir, { recursive: true, force: true });
});

/** The cluster, adopted or started, and a store on it; afterwards it runs on, unwatched. */
async function openCluster() {
  const cluster = await startCluster({ dataDir, user });
  const store = openStore({ connection: cluster.connection });
  return {
    cluster,
    store,
    async [Symbol.asyncDispose]() {
      cluster.leave();
      await store.close();
    },
  };
}

async function query(store: Store, text: string): Promise<unknown[]> {
  return (await sql.raw(text).execute(store.db)).rows;
}

async function dies(pid: number): Promise<void> {
  await until(5000, 'the server to die', () => (existsSync(`/proc/${pid}/exe`) ? undefined : true));
}

test('the cluster is private: own user, 0700, one socket, no network', async () => {
  await using open = await openCluster();
  const { cluster, store } = open;
  assert.equal(cluster.adopted, false);
  for (const directory of ['pg', 'run/pg']) {
    const { mode, uid } = statSync(join(dataDir, directory));
    assert.deepEqual([mode & 0o777, uid], [0o700, user.uid]);
  }
  const status = readFileSync(`/proc/${cluster.pid}/status`, 'utf8');
  assert.match(status, new RegExp(`^Uid:\\t${user.uid}\\t${user.uid}\\t`, 'm'));
  assert.match(status, new RegExp(`^Groups:\\s*(${user.gid})?\\s*$`, 'm'));
  assert.deepEqual(await query(store, 'show listen_addresses'), [{ listen_addresses: '' }]);
  assert.deepEqual(await query(store, 'show fsync'), [{ fsync: 'on' }]);
});

test('a surviving server is adopted with its pid, also by two at once', async () => {
  const pid = findPostmaster(join(dataDir, 'pg'))?.pid;
  const [one, two] = await Promise.all([startCluster({ dataDir, user }), startCluster({ dataDir, user })]);
  assert.deepEqual([one.adopted, two.adopted, one.pid, two.pid], [true, true, pid, pid]);
  one.leave();
  two.leave();
});

test('kill -9 of the server during writes: it is started again, the pool recovers, nothing acknowledged is lost', async () => {
  await using open = await openCluster();
  const { cluster, store } = open;
  await query(store, 'create table written (id integer primary key)');
  const acknowledged = new Set<number>();
  let next = 0;
  let unknown = 0;
  const enough = new AbortController();
  const writer = async (): Promise<void> => {
    while (!enough.signal.aborted) {
      const id = (next += 1);
      try {
        await sql`insert into written values (${id})`.execute(store.db);
        acknowledged.add(id);
      } catch (error) {
        assert.equal(error instanceof Error && 'code' in error && error.code, 'unavailable');
        unknown += 1;
      }
    }
  };
  const writers = [1, 2, 3, 4].map(writer);
  for (let round = 0; round < 3; round += 1) {
    const { pid } = cluster;
    const before = acknowledged.size;
    await until(10_000, 'some writes', () => (acknowledged.size > before + 50 ? true : undefined));
    process.kill(pid, 'SIGKILL');
    await until(20_000, 'another server', () => (cluster.pid === pid ? undefined : true));
  }
  const before = acknowledged.size;
  await until(10_000, 'writes after the last round', () => (acknowledged.size > before ? true : undefined));
  enough.abort();
  await Promise.all(writers);
  const { rows } = await sql<{ id: number }>`select id from written`.execute(store.db);
  const found = new Set(rows.map((row) => row.id));
  assert.deepEqual(
    [...acknowledged].filter((id) => !found.has(id)),
    [],
  );
  assert.ok(unknown < 40, `${unknown} writes without an answer`);
});

test('notifications are heard again after the server was killed, and every listener is called once for the gap', async () => {
  await using open = await openCluster();
  const { cluster, store } = open;
  const heard: string[] = [];
  const unlisten = await store.listen('carrel_test', (payload) => heard.push(payload));
  await sql`select pg_notify('carrel_test', 'one')`.execute(store.db);
  await until(5000, 'the first', () => (heard.includes('one') ? true : undefined));
  process.kill(cluster.pid, 'SIGKILL');
  await until(20_000, 'the gap to be told', () => (heard.includes('') ? true : undefined));
  await sql`select pg_notify('carrel_test', 'two')`.execute(store.db);
  await until(5000, 'the second', () => (heard.includes('two') ? true : undefined));
  unlisten();
  assert.deepEqual(heard, ['one', '', 'two']);
});

test('a read waits for a server that is away; a transaction that was not being committed is run again', async () => {
  await using open = await openCluster();
  const { cluster, store } = open;
  await query(store, 'select 1');
  const { pid } = cluster;
  process.kill(pid, 'SIGKILL');
  assert.deepEqual(await query(store, 'select 1 as one'), [{ one: 1 }]);
  await until(20_000, 'another server', () => (cluster.pid === pid ? undefined : true));
  let runs = 0;
  const value = await transaction(store.db, async (tx) => {
    runs += 1;
    await sql`insert into written values (-${runs}::integer)`.execute(tx);
    if (runs === 1) {
      process.kill(cluster.pid, 'SIGKILL');
      await dies(cluster.pid);
      // The backend ends when it next looks up from its work; a query of ours makes it.
      for (let i = 0; i < 100; i += 1) await sql`select pg_sleep(0.05)`.execute(tx);
    }
    return runs;
  });
  assert.equal(value, 2);
  const { rows } = await sql<{ id: number }>`select id from written where id < 0`.execute(store.db);
  assert.deepEqual(rows, [{ id: -2 }]);
});

// PostgreSQL takes a living pid of its own user for a server, and rightly does not start: then only a dead one is stale.
const stranger = process.getuid?.() === 0;
test(`a stale postmaster.pid${stranger ? ', its pid now another process,' : ''} does not stop the start`, async () => {
  await stopCluster({ dataDir });
  const other = spawn('/bin/sleep', ['60'], { stdio: 'ignore' });
  const ended = new Promise((resolve) => other.once('exit', resolve));
  if (!stranger) other.kill('SIGKILL');
  if (!stranger) await ended;
  const pg = join(dataDir, 'pg');
  writeFileSync(join(pg, 'postmaster.pid'), `${other.pid}\n${pg}\n1\n5432\n\n\n\nready\n`);
  try {
    const cluster = await startCluster({ dataDir, user });
    assert.equal(cluster.adopted, false);
    cluster.leave();
  } finally {
    other.kill('SIGKILL');
  }
  await ended;
});

test('a server that is just ending is waited for', async () => {
  const pid = findPostmaster(join(dataDir, 'pg'))?.pid;
  assert.ok(pid !== undefined);
  process.kill(pid, 'SIGTERM');
  await using open = await openCluster();
  const { cluster, store } = open;
  assert.deepEqual(await query(store, 'select 1 as one'), [{ one: 1 }]);
  await store.close();
  await cluster.stop();
  assert.equal(findPostmaster(join(dataDir, 'pg')), undefined);
  assert.equal(await stopCluster({ dataDir }), false);
});

test('a URL names a database as well, and only a set one does', async () => {
  const cluster = await startCluster({ dataDir, user });
  const url = `postgresql://carrel@${encodeURIComponent(cluster.connection.host)}/carrel`;
  const connection = connectionFromEnvironment({ DATABASE_URL: url });
  assert.ok(connection);
  assert.equal(connectionFromEnvironment({}), undefined);
  const store = openStore({ connection });
  assert.deepEqual(await query(store, 'select 1 as one'), [{ one: 1 }]);
  await store.close();
  assert.deepEqual(clusterConnection(dataDir), cluster.connection);
  cluster.leave();
});

test('a transaction inside a transaction is part of it', async () => {
  await using open = await openCluster();
  const { store } = open;
  const outer = transaction(store.db, async (tx) => {
    await transaction(tx, (inner) => sql`insert into written values (1000000)`.execute(inner));
    throw new Error('changed my mind');
  });
  await assert.rejects(outer, /changed my mind/);
  assert.deepEqual(await query(store, 'select id from written where id = 1000000'), []);
});

test('stop ends a server that has connections open', async () => {
  const cluster = await startCluster({ dataDir, user });
  const store = openStore({ connection: cluster.connection, acquireMs: 100 });
  await query(store, 'select 1');
  await cluster.stop();
  await assert.rejects(query(store, 'select 1'), { code: 'unavailable' });
  await store.close();
});

test('places where it could not live are refused with a reason, and nothing is made', () => {
  const long = join(dataDir, 'x'.repeat(100));
  assert.throws(() => prepareDirectories(long, user), { code: 'invalid_request', message: /too long/ });
  if (process.getuid?.() !== 0) return;
  const closed = join(dataDir, 'closed');
  mkdirSync(closed, { mode: 0o700 });
  const inside = join(closed, 'data');
  assert.throws(() => prepareDirectories(inside, { uid: 65_533, gid: 65_533 }), { code: 'host_unsupported' });
});
