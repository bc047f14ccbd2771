/**
 * The daemon: everything is wired here. It runs inside the fabric, started by the doorman with the listening
 * sockets; the end of its stdin, or SIGTERM, means an orderly end. Machines go on without it.
 *
 *   lock -> fork server -> database -> migrations, administrator -> HTTP -> machines and grading in the background
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '#base/deadline.ts';
import { CarrelError, messageOf } from '#base/errors.ts';
import { createLogger, type Logger } from '#base/log.ts';
import { doormanStatus, requestListener } from '#fabric/control.ts';
import { fabricEnvironment } from '#fabric/environment.ts';
import { formatEndpoint, inheritedListeners, openListener, type Endpoint } from '#fabric/listeners.ts';
import { writeFileAtomic } from '#host/files.ts';
import { tryLock, type FileLock } from '#host/flock.ts';
import { identify } from '#host/processes.ts';
import { openForwards } from '#machines/forwards.ts';
import { openViews } from '#machines/list.ts';
import { startCluster, type Cluster } from '#store/cluster.ts';
import { connectionFromEnvironment, openStore } from '#store/database.ts';
import { migrate } from '#store/migrate.ts';
import { sql } from 'kysely';
import { ensureAdmin } from './auth/admin.ts';
import { openAuthenticator } from './auth/authenticate.ts';
import { openEngine, startIsolation } from './engine.ts';
import { openEventFeed } from './events/feed.ts';
import { createHandlers, recoverAnswers } from './handlers/all.ts';
import { createHealth } from './health.ts';
import { startUpkeep } from '#jobs/upkeep.ts';
import { assembleApp } from './http/assemble.ts';
import { listenHttp, type Listen, type Listening } from './http/listen.ts';
import { openAccessLog } from './http/log-file.ts';
import { cloudInstance, sweepWorkers } from './instances.ts';
import { version } from './version.ts';

export interface DaemonOptions {
  readonly dataDirectory: string;
  readonly cache?: string | undefined;
  /** For development: where to listen when there is no doorman. */
  readonly listen?: readonly Endpoint[];
  /** The OS-Cloud routes, where the doorman opened a socket for them, ask for no token. */
  readonly osCloudOpen?: boolean;
  readonly log?: Logger;
}

export interface Daemon {
  readonly urls: readonly string[];
  /** Stops in order; at most about ten seconds. */
  close(): Promise<void>;
}

export async function startDaemon({
  dataDirectory,
  cache,
  listen = [],
  osCloudOpen = false,
  log = createLogger(),
}: DaemonOptions): Promise<Daemon> {
  const run = join(dataDirectory, 'run');
  // The database runs as another user: it must be able to pass through, not to look.
  mkdirSync(dataDirectory, { recursive: true, mode: 0o711 });
  for (const name of ['run', 'log']) mkdirSync(join(dataDirectory, name), { recursive: true, mode: 0o711 });
  const undo: (() => Promise<void> | void)[] = [];
  const close = once(async () => {
    for (const step of undo.toReversed())
      try {
        await step();
      } catch (error) {
        log.error('a part did not close', { error });
      }
  });
  try {
    const lock = await takeLock(join(run, 'daemon.lock'));
    undo.push(() => lock.release());
    const isolation = startIsolation(join(run, 'isolate.sock'), log);
    undo.push(() => isolation.close());

    const { connection, cluster } = await openDatabase(dataDirectory, log);
    if (cluster) undo.push(() => cluster.stop({ limitMs: 4000 }));
    const store = openStore({ connection, log });
    undo.push(() => store.close());
    const { db } = store;
    const migrated = await migrate(db);
    if (migrated.length > 0) log.info('database migrated', { migrated });
    if ((await ensureAdmin(db, dataDirectory)).created) log.info('a token for the administrator was made');
    await sweepWorkers(dataDirectory).catch((error: unknown) =>
      log.warn('what dead workers left could not be removed', { error: messageOf(error) }),
    );

    const cloud = cloudInstance(dataDirectory);
    const engine = await openEngine({
      dataDirectory,
      cache,
      store,
      isolation,
      instance: cloud,
      cloud,
      reconciles: true,
      log,
    });
    undo.push(() => engine.close());
    const upkeep = startUpkeep({ db, log });
    undo.push(() => upkeep.stop());
    const feed = openEventFeed(store, log);
    undo.push(() => feed.close());

    const forwards = openForwards({ store, openListener: listenerOutside, log });
    undo.push(() => forwards.close());

    const health = createHealth({
      version,
      database: async () => (await sql`select 1`.execute(db)).rows.length === 1,
      isolation: async () => isolation.up && isolation.get().pid !== undefined,
      machines: async () => engine.machines.up || engine.machines.soon(1000).then(() => true),
      uplink: hasUplink,
    });
    const services = {
      store,
      feed,
      health,
      registry: engine.registry,
      views: openViews(db),
      machines: () => engine.machines.soon(),
      forwards,
      folders: engine.folders,
      blobs: engine.blobs,
    };
    const accessLog = openAccessLog(join(dataDirectory, 'log', 'access.log'));
    undo.push(() => accessLog.close());
    const shutdown = new AbortController();
    const app = await assembleApp({
      store,
      handlers: (authenticator) => createHandlers(services, authenticator),
      recover: recoverAnswers(services),
      shutdown: shutdown.signal,
      accessLog: accessLog.log,
      log,
    });
    const servers = await Promise.all(
      whereToListen(listen).map((at) => listenHttp({ app, listen: at, log })),
    );
    undo.push(async () => {
      shutdown.abort();
      await Promise.all(servers.map((server) => server.close({ graceMs: 2000 })));
    });
    for (const { fd, host, port } of inheritedListeners().filter(({ name }) => name === 'oscloud')) {
      const { openOsCloud } = await import('./oscloud/open.ts');
      const osCloud = await openOsCloud({
        listen: { fd },
        endpoint: { host, port },
        open: osCloudOpen,
        authenticator: await openAuthenticator(store, log),
        store,
        machines: services.machines,
        template: engine.template,
        log,
      });
      undo.push(() => osCloud.close());
    }
    const urls = servers.map(urlOf);
    await writeFileAtomic(
      join(run, 'daemon.json'),
      JSON.stringify({ ...identify(process.pid), url: urls[0] ?? null }),
      { mode: 0o644 },
    );
    log.info('ready', { urls, ms: Math.round(performance.now()) });
    return { urls, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The daemon before us may be on its way out. */
async function takeLock(path: string): Promise<FileLock> {
  try {
    return await until(12_000, 'the daemon before this one to end', () => tryLock(path), { everyMs: 50 });
  } catch (cause) {
    throw new CarrelError('wrong_state', 'a daemon is running already for this data directory', {
      hint: 'see: carrel status',
      cause,
    });
  }
}

async function openDatabase(dataDirectory: string, log: Logger) {
  const connection = connectionFromEnvironment();
  if (connection) return { connection, cluster: undefined };
  const cluster: Cluster = await startCluster({ dataDir: dataDirectory, log });
  return { connection: cluster.connection, cluster };
}

function whereToListen(listen: readonly Endpoint[]): Listen[] {
  const inherited = inheritedListeners().filter(({ name }) => name === 'http');
  const all: Listen[] = [...inherited.map(({ fd }) => ({ fd })), ...listen];
  if (all.length === 0)
    throw new CarrelError('invalid_request', 'there is nothing to listen on', {
      hint: 'start the cloud with: carrel up; for development give --listen 127.0.0.1:7070',
    });
  return all;
}

function urlOf({ host, port }: Listening): string {
  return `http://${formatEndpoint({ host, port })}`;
}

/** A socket that people can reach: opened by the doorman, outside; without one we are outside ourselves. */
async function listenerOutside(endpoint: Endpoint) {
  const environment = fabricEnvironment();
  return environment ? requestListener(environment.control, endpoint) : openListener(endpoint);
}

async function hasUplink(): Promise<boolean> {
  const environment = fabricEnvironment();
  return environment !== undefined && (await doormanStatus(environment.control, { ms: 1000 })).uplink.up;
}

function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => (done ??= work());
}
