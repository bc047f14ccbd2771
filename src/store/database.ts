/** The store: queries through Kysely, transactions that survive a lost race, notifications. */
import { sleep } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import { Kysely, PostgresDialect, Transaction } from 'kysely';
import { isConnectionLoss, isTransactionConflict } from './errors.ts';
import { createListener, type Listener } from './listen.ts';
import { createPatientPool } from './pool.ts';
import type { Connection } from './postmaster.ts';
import type { Db, Schema, Tx } from './schema.ts';

export interface StoreOptions {
  readonly connection: Connection;
  /** Connections at most, one of them for notifications. */
  readonly maxConnections?: number;
  /** How long a query may wait for a connection, for instance while the server restarts. */
  readonly acquireMs?: number;
  readonly statementMs?: number;
  readonly lockMs?: number;
  readonly applicationName?: string;
  readonly log?: Logger;
}

export interface Store extends Pick<Listener, 'listen'> {
  readonly db: Db;
  close(): Promise<void>;
}

/** The database named by DATABASE_URL, if it is set: then the private cluster is not started. */
export function connectionFromEnvironment(
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Connection | undefined {
  const url = environment['DATABASE_URL'];
  return url === undefined || url === '' ? undefined : { connectionString: url };
}

/**
 * Opens the store; nothing is connected until it is used.
 *
 * @example
 * const store = openStore({ connection: cluster.connection });
 * await migrate(store.db);
 */
export function openStore({
  connection,
  maxConnections = 12,
  acquireMs = 10_000,
  statementMs = 30_000,
  lockMs = 10_000,
  applicationName = 'carrel',
  log = silent,
}: StoreOptions): Store {
  const config = {
    ...connection,
    application_name: applicationName,
    statement_timeout: statementMs,
    lock_timeout: lockMs,
    // A transaction that its program forgot would hold its locks for ever.
    idle_in_transaction_session_timeout: 60_000,
    // The server stops a statement in time; this is for a server that does not answer at all.
    query_timeout: statementMs + 5000,
    keepAlive: true,
  };
  const pool = createPatientPool({
    config: { ...config, max: Math.max(1, maxConnections - 1), idleTimeoutMillis: 60_000 },
    acquireMs,
  });
  const db = new Kysely<Schema>({ dialect: new PostgresDialect({ pool }) });
  const listener = createListener({ config: { ...config, connectionTimeoutMillis: acquireMs }, log });
  return {
    db,
    listen: (channel, onNotify) => listener.listen(channel, onNotify),
    async close() {
      await listener.close();
      await db.destroy();
    },
  };
}

/** Attempts of a transaction that loses races: serialization failures and deadlocks end quickly. */
const transactionAttempts = 5;

/**
 * Runs `work` in one transaction and gives its value. It is run again after a deadlock, a serialization failure,
 * or a connection lost before the commit was asked for (then nothing was done), so it must have no effect
 * outside the database. If the connection is lost during the commit, `unavailable` says that the outcome is not
 * known. Inside a transaction it is part of that one.
 *
 * Within `work` use `tx` alone: a query on the pool would wait for a second connection while holding the first.
 */
export async function transaction<T>(db: Db, work: (tx: Tx) => Promise<T>): Promise<T> {
  if (db instanceof Transaction) return work(db);
  for (let attempt = 1; ; attempt += 1) {
    let committing = false;
    try {
      return await db.transaction().execute(async (tx) => {
        const value = await work(tx);
        committing = true;
        return value;
      });
    } catch (error) {
      const lost = isConnectionLoss(error);
      if (lost && committing)
        throw new CarrelError('unavailable', 'the connection was lost while the change was being saved', {
          hint: 'look whether it was done, then try again',
          cause: error,
        });
      if (attempt >= transactionAttempts || !(lost || isTransactionConflict(error))) throw error;
      await sleep(Math.random() * 20 * attempt);
    }
  }
}
