/** `carrel worker`: one more process for the jobs of this host's cloud, without HTTP. It runs in the fabric too. */
import { join } from 'node:path';
import { createLogger, type Logger } from '#base/log.ts';
import { instanceGroup, sweepGroups } from '#isolate/cgroups/group.ts';
import { readCgroupLayout } from '#isolate/cgroups/layout.ts';
import { connectionFromEnvironment, openStore } from '#store/database.ts';
import { openEngine, startIsolation } from './engine.ts';
import { cloudInstance, takeWorkerNumber, workerInstance } from './instances.ts';

export interface WorkerProcessOptions {
  readonly dataDirectory: string;
  readonly cache?: string | undefined;
  readonly log?: Logger;
}

/** The private cluster's socket, as store/cluster.ts lays it out. */
function clusterConnection(dataDirectory: string) {
  return { host: join(dataDirectory, 'run', 'pg'), user: 'carrel', database: 'carrel' };
}

export async function startWorkerProcess({
  dataDirectory,
  cache,
  log = createLogger(),
}: WorkerProcessOptions): Promise<{ close(): Promise<void> }> {
  const { number, lock } = takeWorkerNumber(dataDirectory);
  const instance = workerInstance(dataDirectory, number);
  const isolation = startIsolation(join(dataDirectory, 'run', `isolate-${number}.sock`), log);
  const store = openStore({
    connection: connectionFromEnvironment() ?? clusterConnection(dataDirectory),
    maxConnections: 8,
    applicationName: `carrel worker ${number}`,
    log,
  });
  const engine = await openEngine({
    dataDirectory,
    cache,
    store,
    isolation,
    instance,
    cloud: cloudInstance(dataDirectory),
    reconciles: false,
    log,
  });
  log.info('worker ready', { number });
  return {
    async close() {
      await engine.close();
      await isolation.close();
      await store.close();
      await sweepGroups(readCgroupLayout(), instanceGroup(instance));
      lock.release();
    },
  };
}
