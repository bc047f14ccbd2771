/**
 * A running PostgreSQL server seen from outside: its pid file, whether it lives, whether it answers.
 *
 * postmaster.pid is PostgreSQL's own lock (manual, 73.1): we read it and never write or delete it. A pid alone
 * proves nothing, for numbers are used again: the start time goes with it.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { isCarrelError } from '#base/errors.ts';
import { within } from '#base/deadline.ts';
import { Client } from 'pg';
import { isConnectionLoss } from './errors.ts';

/** A process that cannot be mistaken for another one. */
export interface Postmaster {
  readonly pid: number;
  /** Clock ticks since boot at which it started: field 22 of /proc/PID/stat, proc(5). */
  readonly startTicks: string;
}

/** How to reach a server: a directory that holds its socket, or a URL. */
export type Connection =
  | { readonly host: string; readonly user: string; readonly database: string }
  | { readonly connectionString: string };

/** Start time of a living process; undefined if there is none, or only its zombie. */
function startTicks(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  // The name in field 2 may contain spaces and parentheses; what follows the last one is regular.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
}

export function identify(pid: number): Postmaster | undefined {
  const ticks = startTicks(pid);
  return ticks === undefined ? undefined : { pid, startTicks: ticks };
}

export function isAlive({ pid, startTicks: ticks }: Postmaster): boolean {
  return startTicks(pid) === ticks;
}

/** The server that holds this data directory according to its pid file, if it is alive and really one. */
export function findPostmaster(dataDirectory: string): Postmaster | undefined {
  let lines: string[];
  try {
    lines = readFileSync(join(dataDirectory, 'postmaster.pid'), 'utf8').split('\n');
  } catch {
    return undefined;
  }
  const found = identify(Math.abs(Number.parseInt(lines[0] ?? '', 10)));
  if (!found) return undefined;
  try {
    const argv = readFileSync(`/proc/${found.pid}/cmdline`, 'utf8').split('\0');
    const serves = argv[0]?.endsWith('/postgres') && argv[argv.indexOf('-D') + 1] === dataDirectory;
    return serves ? found : undefined;
  } catch {
    return undefined;
  }
}

/** Does it answer a query? False while it starts, recovers or stops; any other failure is thrown. */
export async function answers(connection: Connection, limitMs = 2000): Promise<boolean> {
  const client = new Client({ ...connection, connectionTimeoutMillis: limitMs });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await within(limitMs, 'the database to answer', client.query('select 1'));
    return true;
  } catch (error) {
    if (isConnectionLoss(error) || isCarrelError(error, 'deadline_exceeded')) return false;
    throw error;
  } finally {
    await within(limitMs, 'the connection to close', client.end()).catch(() => undefined);
  }
}
