/**
 * The pool as Kysely sees it: connections that are taken with patience, errors in our own words.
 *
 * The server may be gone for a moment (it is restarted in 60 ms). Taking a connection waits for it; a plain
 * read outside a transaction is done again, since that changes nothing; everything else is reported as
 * `unavailable`, because nobody can know whether it was done.
 */
import { sleep } from '#base/deadline.ts';
import type { PostgresPool, PostgresPoolClient, PostgresQueryResult } from 'kysely';
import { Pool, TypeOverrides, type PoolClient, type PoolConfig } from 'pg';
import { isConnectionLoss, translateDatabaseError } from './errors.ts';

const int8 = 20;
const numeric = 1700;

/** Counts and sequence numbers as numbers; one that a number cannot hold is an error, never a rounded value. */
function exactNumber(text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && !Number.isSafeInteger(value))
    throw new RangeError(`${text} does not fit a number`);
  return value;
}

/** How values of the database become values of the program; for every connection of ours. */
export function valueTypes(): TypeOverrides {
  const types = new TypeOverrides();
  types.setTypeParser(int8, exactNumber);
  types.setTypeParser(numeric, exactNumber);
  return types;
}

export interface PatientPoolOptions {
  readonly config: PoolConfig;
  /** How long taking a connection may wait, for the server to come back or for others to finish. */
  readonly acquireMs: number;
}

/**
 * Texts worth a prepared statement: a bound, so that lists of varying length cannot fill the server's memory.
 * After five executions the plan may no longer know the parameters: conditions that must match a partial index
 * (`on conflict ... where`) are to be written out, and lists are better passed as one array: `= any(...)`.
 */
const preparedLimit = 400;
const prepared = new Map<string, string>();

/** A read that took longer than this before it was lost is not done again: its caller has waited enough. */
const repeatWithinMs = 5000;

function statementName(text: string): string | undefined {
  let name = prepared.get(text);
  if (name === undefined && prepared.size < preparedLimit) {
    name = `s${prepared.size}`;
    prepared.set(text, name);
  }
  return name;
}

/** A pool for Kysely's PostgresDialect. */
export function createPatientPool({ config, acquireMs }: PatientPoolOptions): PostgresPool {
  const pool = new Pool({ ...config, types: valueTypes(), connectionTimeoutMillis: acquireMs });
  // Without listeners a connection that dies while nobody uses it would end the process.
  pool.on('error', () => undefined);
  pool.on('connect', (client) => client.on('error', () => undefined));

  const take = async (): Promise<PoolClient> => {
    const end = performance.now() + acquireMs;
    for (let pause = 20; ; pause = Math.min(pause * 2, 250)) {
      try {
        return await pool.connect();
      } catch (error) {
        if (!isConnectionLoss(error) || performance.now() + pause > end) throw translateDatabaseError(error);
        await sleep(pause);
      }
    }
  };

  return {
    options: {},
    end: () => pool.end(),
    connect: async () => new Reserved(await take(), take),
  };
}

/** One connection while Kysely holds it. */
class Reserved implements PostgresPoolClient {
  #client: PoolClient;
  readonly #take: () => Promise<PoolClient>;
  #inTransaction = false;
  #broken = false;

  constructor(client: PoolClient, take: () => Promise<PoolClient>) {
    this.#client = client;
    this.#take = take;
  }

  query<R>(sql: string, parameters: readonly unknown[]): Promise<PostgresQueryResult<R>>;
  query(cursor: never): never;
  async query(sql: string, parameters: readonly unknown[] = []): Promise<unknown> {
    if (/^(begin|start transaction)/.test(sql)) this.#inTransaction = true;
    else if (/^(commit|rollback$)/.test(sql)) this.#inTransaction = false;
    const asked = performance.now();
    try {
      return await this.#send(sql, parameters);
    } catch (error) {
      if (!isConnectionLoss(error)) throw translateDatabaseError(error);
      this.#broken = true;
      // `begin` was lost before anything was done in it, so it may be said again too.
      const harmless = sql.startsWith('begin') || (!this.#inTransaction && isPlainRead(sql));
      if (!harmless || performance.now() - asked > repeatWithinMs) throw translateDatabaseError(error);
    }
    this.#client.release(true);
    this.#client = await this.#take();
    this.#broken = false;
    try {
      return await this.#send(sql, parameters);
    } catch (error) {
      this.#broken = isConnectionLoss(error);
      throw translateDatabaseError(error);
    }
  }

  async #send(sql: string, parameters: readonly unknown[]): Promise<unknown> {
    // Without parameters the simple protocol is used, which takes several statements.
    if (parameters.length === 0) return this.#client.query(sql);
    const name = statementName(sql);
    return this.#client.query({
      text: sql,
      values: [...parameters],
      ...(name === undefined ? {} : { name }),
    });
  }

  release(destroy = false): void {
    this.#client.release(destroy || this.#broken);
  }
}

/** A select that locks nothing and calls nothing that writes. */
function isPlainRead(sql: string): boolean {
  return (
    sql.startsWith('select ') && !/ for (update|share|no key|key)|pg_advisory|nextval|pg_notify/.test(sql)
  );
}
