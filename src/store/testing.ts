/**
 * A real cluster for tests: one server per test file in a directory of its own, a fresh database per test,
 * nothing left afterwards.
 */
import { chmodSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { databaseUserName, findSystemUser, type DatabaseUser } from './cluster-user.ts';
import { startCluster, type Cluster } from './cluster.ts';
import { openStore, type Store, type StoreOptions } from './database.ts';
import { migrate } from './migrate.ts';
import type { Connection } from './postmaster.ts';

/** `carrel-db` where the set-up has made it; a test makes no users, so else nobody. */
export function testDatabaseUser(): DatabaseUser {
  const uid = process.getuid?.() ?? 0;
  if (uid !== 0) return { uid, gid: process.getgid?.() ?? uid };
  return findSystemUser(databaseUserName) ?? { uid: 65_534, gid: 65_534 };
}

export interface TestCluster {
  readonly dataDir: string;
  readonly cluster: Cluster;
  /** A database with all tables; `store.close()` is yours, or comes with `close()`. */
  freshStore(options?: Partial<StoreOptions>): Promise<Store & { readonly connection: Connection }>;
  /** A database with nothing in it. */
  emptyStore(options?: Partial<StoreOptions>): Promise<Store & { readonly connection: Connection }>;
  /** Ends everything and removes the directory. */
  close(): Promise<void>;
}

/** For a test process that ends before its time: what it started would outlive it, as it is made to. */
function endAbruptly(dataDir: string): void {
  const tick = new Int32Array(new SharedArrayBuffer(4));
  for (let waits = 0; waits < 300; waits += 1) {
    const pids = workingIn(dataDir);
    if (pids.length === 0) break;
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has just ended.
      }
    }
    Atomics.wait(tick, 0, 0, 10);
  }
  rmSync(dataDir, { recursive: true, force: true });
}

/** Servers, their children and initdb of this directory, whose name is ours alone. */
function workingIn(dataDir: string): number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && (isServing(pid, dataDir) || worksIn(pid, dataDir)));
}

function isServing(pid: number, dataDir: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`\0${join(dataDir, 'pg')}`);
  } catch {
    return false;
  }
}

/** A server's child has another command line, but the directory is where it works. */
function worksIn(pid: number, dataDir: string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/cwd`).startsWith(`${dataDir}/`);
  } catch {
    return false;
  }
}

/**
 * @example
 * const pg = await startTestCluster();
 * after(() => pg.close());
 * test('...', async () => { const { db } = await pg.freshStore(); });
 */
export async function startTestCluster(): Promise<TestCluster> {
  const dataDir = mkdtempSync(join(tmpdir(), 'carrel-pg-'));
  chmodSync(dataDir, 0o711);
  const stores: Store[] = [];
  process.once('exit', () => endAbruptly(dataDir));
  // Not once: a second signal must not end the process while it cleans up.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1));
  let count = 0;
  let cluster: Cluster;
  try {
    cluster = await startCluster({ dataDir, user: testDatabaseUser() });
  } catch (error) {
    rmSync(dataDir, { recursive: true, force: true });
    throw error;
  }

  const create = async (template: string): Promise<Connection> => {
    count += 1;
    const database = `test_${count}`;
    const client = new Client({ ...cluster.connection, database: 'postgres' });
    await client.connect();
    try {
      await client.query(`create database ${database} template ${template}`);
    } finally {
      await client.end();
    }
    return { ...cluster.connection, database };
  };
  const open = (connection: Connection, options: Partial<StoreOptions> = {}) => {
    const store = { ...openStore({ connection, ...options }), connection };
    stores.push(store);
    return store;
  };
  let template: Promise<void> | undefined;
  const migrateTemplate = async (): Promise<void> => {
    const store = openStore({ connection: cluster.connection });
    await migrate(store.db);
    await store.close();
  };

  return {
    dataDir,
    cluster,
    async freshStore(options) {
      template ??= migrateTemplate();
      await template;
      return open(await create(cluster.connection.database), options);
    },
    emptyStore: async (options) => open(await create('template0'), options),
    async close() {
      await Promise.allSettled(stores.map((store) => store.close()));
      await cluster.stop({ limitMs: 5000 });
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}
