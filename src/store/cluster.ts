/**
 * The private PostgreSQL cluster: a server of our own, reachable through one socket by us alone.
 *
 *   absent --initdb--> stopped --start--> starting --answers--> running --stop--> stopped
 *                         ^                                        | dies
 *                         +------------- watcher, after a pause ---+
 *
 * It has its own session, so it outlives the daemon; the next daemon adopts it, if it is alive and answers, or
 * waits for it to end. PostgreSQL recovers by itself from kill -9 of anything: we only start it again.
 */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, realpathSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sleep, until } from '#base/deadline.ts';
import { CarrelError, errnoOf, messageOf } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import { Client, DatabaseError } from 'pg';
import {
  findBinaries,
  initCluster,
  prepareDirectories,
  socketDirectoryOf,
  type ClusterPaths,
} from './cluster-files.ts';
import { databaseUser, type DatabaseUser } from './cluster-user.ts';
import { answers, findPostmaster, identify, isAlive, type Postmaster } from './postmaster.ts';

/** Small and durable: an idle cloud is to stay under 150 MiB, and no acknowledged row may be lost. */
const settings: Readonly<Record<string, string>> = {
  listen_addresses: '',
  unix_socket_permissions: '0700',
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  shared_buffers: '16MB',
  max_connections: '60',
  work_mem: '4MB',
  maintenance_work_mem: '32MB',
  huge_pages: 'off',
  jit: 'off',
  wal_level: 'minimal',
  max_wal_senders: '0',
  max_logical_replication_workers: '0',
  min_wal_size: '16MB',
  max_wal_size: '256MB',
  max_worker_processes: '2',
  max_parallel_workers: '0',
  max_parallel_workers_per_gather: '0',
  autovacuum_max_workers: '2',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_min_messages: 'warning',
  // Statements of jobs that lose a race on purpose would fill the log.
  log_min_error_statement: 'panic',
};
/** A recovery replays at most max_wal_size; slow disks take their time. */
const startLimitMs = 60_000;
const stopLimitMs = 10_000;
const logLimitBytes = 8 * 2 ** 20;
/** The end of our own child is told to us; an adopted server's has to be looked for. */
const watchEveryMs = { own: 10_000, adopted: 200 };
const firstPauseMs = 50;
const longestPauseMs = 5000;

export interface ClusterConnection {
  readonly host: string;
  readonly user: string;
  readonly database: string;
}

export interface Cluster {
  readonly connection: ClusterConnection;
  /** Pid of the server that runs now. */
  readonly pid: number;
  /** True if it was running before we came. */
  readonly adopted: boolean;
  /** Ends the server: in order within `limitMs`, then at once (it recovers at its next start). */
  stop(options?: { limitMs?: number }): Promise<void>;
  /** Stops watching and leaves the server running for the next one to adopt. */
  leave(): void;
}

export interface ClusterOptions {
  /** Carrel's data directory; the cluster is in `pg` below it, its socket in `run/pg`. */
  readonly dataDir: string;
  /** Who it runs as; default: `carrel-db` if we are root, else ourselves. */
  readonly user?: DatabaseUser;
  readonly log?: Logger;
  readonly limitMs?: number;
}

/**
 * Makes the cluster if there is none, adopts its server if one runs, starts it otherwise, and keeps it running.
 *
 * @example
 * const cluster = await startCluster({ dataDir: '/var/lib/carrel' });
 * const store = openStore({ connection: cluster.connection });
 */
export async function startCluster({
  dataDir,
  user = databaseUser(),
  log = silent,
  limitMs = startLimitMs,
}: ClusterOptions): Promise<Cluster> {
  const paths = prepareDirectories(dataDir, user);
  const bin = findBinaries(paths.data);
  if (await initCluster(paths, bin, user)) log.info('database cluster made', { directory: paths.data });
  const connection = clusterConnection(dataDir);
  const admin = { ...connection, database: 'postgres' };
  const closing = new AbortController();

  let latest: Launched | undefined;
  const raise = async (): Promise<{ server: Postmaster; adopted: boolean }> => {
    const end = performance.now() + limitMs;
    let launched: Launched | undefined;
    let pause = firstPauseMs;
    for (;;) {
      const server = findPostmaster(paths.data) ?? launched?.alive();
      if (server) {
        if (await answers(admin)) return { server, adopted: server.pid !== launched?.pid };
      } else {
        if (launched) {
          // It gave up: most often the dead server's children still hold the memory, for a moment.
          log.warn('the database did not start; trying again', { exit: launched.exit() });
          await sleep(pause, closing.signal);
          pause = Math.min(pause * 2, 1000);
        }
        launched = await launch(paths, bin, user);
        latest = launched;
      }
      if (performance.now() > end)
        throw new CarrelError(
          'unavailable',
          `the database in ${paths.data} did not start within ${limitMs} ms`,
          {
            hint: `read the end of ${paths.log}`,
          },
        );
      await sleep(10, closing.signal);
    }
  };

  let { server, adopted } = await raise();
  await ensureDatabase(admin, connection.database);
  log.info(adopted ? 'database adopted' : 'database started', { pid: server.pid });

  const rest = async (): Promise<void> => {
    const own = latest?.pid === server.pid ? latest : undefined;
    const look = sleep(own ? watchEveryMs.own : watchEveryMs.adopted, closing.signal);
    await (own ? Promise.race([look, own.ended]) : look);
  };

  const watch = async (): Promise<void> => {
    let pause = firstPauseMs;
    for (;;) {
      const since = performance.now();
      while (isAlive(server)) await rest();
      if (performance.now() - since > longestPauseMs) pause = firstPauseMs;
      log.warn('the database died; starting it again', { pid: server.pid });
      await sleep(pause, closing.signal);
      pause = Math.min(pause * 2, longestPauseMs);
      try {
        ({ server, adopted } = await raise());
        log.info('database started', { pid: server.pid });
      } catch (error) {
        closing.signal.throwIfAborted();
        log.error('the database cannot be started', { error: messageOf(error) });
      }
    }
  };
  const watching = watch().catch((error: unknown) => {
    if (!closing.signal.aborted) log.error('the database is no longer watched', { error: messageOf(error) });
  });

  return {
    connection,
    get pid() {
      return server.pid;
    },
    adopted,
    leave: () => closing.abort(),
    async stop({ limitMs: limit = stopLimitMs } = {}) {
      closing.abort();
      await watching;
      // One that has just been launched may not have written its pid file yet.
      await stopServer(findPostmaster(paths.data) ?? latest?.alive() ?? server, limit);
    },
  };
}

/** How another process of this cloud (a worker) reaches the cluster that the daemon keeps. */
export function clusterConnection(dataDir: string): ClusterConnection {
  return { host: socketDirectoryOf(realpathSync(dataDir)), user: 'carrel', database: 'carrel' };
}

/** Stops the cluster's server if one runs, without making or starting anything. Says whether one ran. */
export async function stopCluster({
  dataDir,
  limitMs = stopLimitMs,
}: {
  dataDir: string;
  limitMs?: number;
}): Promise<boolean> {
  const server = existsSync(dataDir) ? findPostmaster(join(realpathSync(dataDir), 'pg')) : undefined;
  if (!server) return false;
  await stopServer(server, limitMs);
  return true;
}

async function stopServer(server: Postmaster, limitMs: number): Promise<void> {
  // INT: connections are ended, everything is written. QUIT: at once, with recovery at the next start.
  for (const signal of ['SIGINT', 'SIGQUIT'] as const) {
    if (!isAlive(server)) return;
    try {
      process.kill(server.pid, signal);
      const gone = until(limitMs, 'the database to stop', () => (isAlive(server) ? undefined : true));
      await gone;
      return;
    } catch (error) {
      if (errnoOf(error) === 'ESRCH') return;
      if (signal === 'SIGQUIT') throw error;
    }
  }
}

interface Launched {
  readonly pid: number | undefined;
  alive(): Postmaster | undefined;
  exit(): string;
  /** Resolves when it has ended. */
  readonly ended: Promise<void>;
}

async function launch(paths: ClusterPaths, bin: string, user: DatabaseUser): Promise<Launched> {
  const root = process.getuid?.() === 0;
  const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const log = openLog(paths.log);
  try {
    const child = spawn(join(bin, 'postgres'), ['-D', paths.data, '-k', paths.socketDirectory, ...args], {
      ...(root ? user : {}),
      cwd: '/',
      detached: true,
      stdio: ['ignore', log, log],
      // Its children take a full share of the blame for memory; the server itself is the last to go.
      env: { PATH: '/usr/bin:/bin', LC_ALL: 'C.UTF-8', PG_OOM_ADJUST_FILE: '/proc/self/oom_score_adj' },
    });
    await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
    child.unref();
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    if (root && child.pid !== undefined) protectFromOom(child.pid);
    const started = child.pid === undefined ? undefined : identify(child.pid);
    return {
      pid: child.pid,
      alive: () => (started && child.exitCode === null && isAlive(started) ? started : undefined),
      exit: () => String(child.exitCode ?? child.signalCode),
      ended,
    };
  } catch (error) {
    throw new CarrelError('helper_failed', `PostgreSQL could not be run: ${messageOf(error)}`, {
      cause: error,
    });
  } finally {
    closeSync(log);
  }
}

function protectFromOom(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, '-900');
  } catch {
    // It is a precaution: without it the kernel chooses for itself.
  }
}

/** Opened for appending; one older file is kept, so that a noisy server cannot fill the disk. */
function openLog(path: string): number {
  try {
    if (statSync(path).size > logLimitBytes) renameSync(path, `${path}.1`);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  return openSync(path, 'a', 0o600);
}

async function ensureDatabase(admin: ClusterConnection, name: string): Promise<void> {
  const client = new Client(admin);
  client.on('error', () => undefined);
  await client.connect();
  try {
    const { rowCount } = await client.query('select from pg_database where datname = $1', [name]);
    if (rowCount === 0) await client.query(`create database ${name}`);
  } catch (error) {
    const duplicate = '42P04';
    if (!(error instanceof DatabaseError) || error.code !== duplicate) throw error;
  } finally {
    await client.end();
  }
}
