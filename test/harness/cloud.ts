/**
 * A real cloud for end-to-end tests: `./carrel up --detach` in a directory of its own, on a free port of the
 * loopback, with the host's image cache. `down` ends it and says what dangles; every wait is bounded. With
 * CARREL_KEEP=1 the directory stays, for its logs.
 */
import { chmodSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { until } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { createClient, type Client } from '#contract/client.ts';
import { statOf } from '#host/processes.ts';
import { launch, type LaunchResult } from '#host/launch.ts';
import { clusterConnection, startCluster } from '#store/cluster.ts';
import { openStore, type Store } from '#store/database.ts';
import { findPostmaster } from '#store/postmaster.ts';
import { dangling, takeCensus } from './census.ts';
import { danglingRecords } from './rows.ts';

const program = fileURLToPath(new URL('../../carrel', import.meta.url));

/** Why an end-to-end test cannot run here; undefined where it can. */
export function whyNoCloud(): string | undefined {
  return process.getuid?.() === 0 ? undefined : 'a cloud is started by root';
}

export interface Person {
  readonly name: string;
  readonly token: string;
  readonly client: Client;
}

export interface CloudPids {
  readonly doorman: number;
  readonly daemon: number;
  readonly forkServer: number;
  readonly postmaster: number;
}

export interface Cloud extends AsyncDisposable {
  readonly directory: string;
  readonly url: string;
  /** Of the OS-Cloud routes, where they were asked for. */
  readonly osCloud: string;
  readonly admin: Client;
  readonly adminToken: string;
  /** An account with a token. */
  person(name: string): Promise<Person>;
  /** Who runs now; undefined for one that is being started again. */
  pids(): Partial<CloudPids>;
  /** Waits until all four run and the cloud answers that it is well. */
  untilWell(ms?: number): Promise<CloudPids>;
  /** The database, past the API; closed with the cloud. */
  store(): Store;
  /** `./carrel ARGS --data DIR`. */
  carrel(...args: readonly string[]): Promise<LaunchResult>;
  /** `./carrel down`, then what dangles, on the host, in the rows and in the files: empty if nothing does. */
  down(): Promise<readonly string[]>;
  /** Looks at the rows after `down`, by starting the database alone. */
  withRows<T>(look: (store: Store) => Promise<T>): Promise<T>;
}

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new CarrelError('internal', 'no free port');
  return address.port;
}

function pidIn(path: string): number | undefined {
  try {
    const pid = Number(/\d+/.exec(readFileSync(path, 'utf8'))?.[0]);
    return alive(pid) ? pid : undefined;
  } catch {
    return undefined;
  }
}

function alive(pid: number): boolean {
  const state = Number.isInteger(pid) && pid > 1 ? statOf(pid)?.state : undefined;
  return state !== undefined && state !== 'Z' && state !== 'X';
}

/** The child of `parent` whose command line has `word` in it. */
export function childOf(parent: number, word: string): number | undefined {
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || statOf(pid)?.parent !== parent || !alive(pid)) continue;
    try {
      if (readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(word)) return pid;
    } catch {
      // it has just ended
    }
  }
  return undefined;
}

/** Resident memory of a process in bytes: now, and at most so far (proc_pid_status(5)). */
export function memoryOf(pid: number): { readonly now: number; readonly peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kib = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]);
  return { now: kib('VmRSS') * 1024, peak: kib('VmHWM') * 1024 };
}

const interrupted = (): void => process.exit(1);

/**
 * @example
 * await using cloud = await startCloud();
 * const ada = await cloud.person('ada');
 * assert.deepEqual(await cloud.down(), []);
 */
export async function startCloud({
  uplink = false,
  osCloud = false,
  address = '127.0.0.1',
}: {
  uplink?: boolean;
  /** Serve the OS-Cloud routes too, without tokens. */
  osCloud?: boolean;
  /** Where the API is served. */
  address?: string;
} = {}): Promise<Cloud> {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-e2e-'));
  chmodSync(directory, 0o711);
  const run = async (args: readonly string[], timeoutMs = 120_000): Promise<LaunchResult> =>
    await launch([program, ...args, '--data', directory], {
      // what the test runs with is built already, and no login of the person at the keyboard counts
      env: { ...process.env, CARREL_SKIP_SETUP: '1', XDG_CONFIG_HOME: directory, CARREL_DATA: directory },
      timeoutMs,
    });
  const before = await takeCensus(directory);
  const url = `http://${address}:${await freePort()}`;
  const osCloudAddress = `127.0.0.1:${await freePort()}`;
  const up = await run([
    'up',
    '--detach',
    '--listen',
    url.slice('http://'.length),
    ...(uplink ? [] : ['--no-uplink']),
    ...(osCloud ? ['--oscloud', osCloudAddress, '--oscloud-open'] : []),
  ]);
  const end = async (): Promise<LaunchResult> => await run(['down', '--grace', '0']);
  if (up.status !== 0) {
    await end();
    rmSync(directory, { recursive: true, force: true });
    throw new CarrelError('unavailable', `carrel up: ${up.stderr.toString('utf8')}`);
  }
  const token = readFileSync(join(directory, 'run', 'admin.token'), 'utf8').trim();
  const admin = createClient({ base: url, token });

  const pids = (): Partial<CloudPids> => {
    const doorman = pidIn(join(directory, 'run', 'doorman.lock'));
    const daemon = pidIn(join(directory, 'run', 'daemon.json'));
    const forkServer = daemon === undefined ? undefined : childOf(daemon, '--serve');
    const postmaster = findPostmaster(join(directory, 'pg'))?.pid;
    return {
      ...(doorman !== undefined && { doorman }),
      ...(daemon !== undefined && { daemon }),
      ...(forkServer !== undefined && { forkServer }),
      ...(postmaster !== undefined && { postmaster }),
    };
  };
  // A test that ends before its time takes its cloud along.
  const abandon = (): void =>
    void spawnSync(program, ['down', '--grace', '0', '--data', directory], {
      env: { ...process.env, CARREL_SKIP_SETUP: '1' },
      timeout: 60_000,
    });
  process.once('exit', abandon);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, interrupted);
  const withRows: Cloud['withRows'] = async (look) => {
    const cluster = await startCluster({ dataDir: directory });
    const rows = openStore({ connection: cluster.connection });
    try {
      return await look(rows);
    } finally {
      await rows.close();
      await cluster.stop();
    }
  };
  let store: Store | undefined;
  const closeStore = async (): Promise<void> => {
    await store?.close();
    store = undefined;
  };

  return {
    directory,
    url,
    osCloud: `http://${osCloudAddress}`,
    admin,
    adminToken: token,
    pids,
    async person(name) {
      await admin.createUser({ params: {}, body: { name } });
      const { secret } = await admin.createToken({
        params: {},
        body: { user: name, label: 'test', days: 1 },
      });
      return { name, token: secret, client: createClient({ base: url, token: secret }) };
    },
    async untilWell(ms = 30_000) {
      return await until(
        ms,
        'the cloud to be well',
        async () => {
          const { doorman, daemon, forkServer, postmaster } = pids();
          const signal = AbortSignal.timeout(2000);
          const health = await admin.getHealth({ params: {} }, { signal }).catch(() => undefined);
          if (doorman === undefined || daemon === undefined) return undefined;
          if (forkServer === undefined || postmaster === undefined) return undefined;
          const well = health?.database === 'ok' && health.isolation === 'ok';
          return well ? { doorman, daemon, forkServer, postmaster } : undefined;
        },
        { everyMs: 50 },
      );
    },
    store: () => (store ??= openStore({ connection: clusterConnection(directory), maxConnections: 3 })),
    carrel: async (...args) => await run(args),
    async down() {
      await closeStore();
      const down = await end();
      const left = dangling(before, await takeCensus(directory));
      if (down.status !== 0) return [`carrel down: ${down.stderr.toString('utf8')}`, ...left];
      return [...left, ...(await withRows((rows) => danglingRecords(rows, directory)))];
    },
    withRows,
    async [Symbol.asyncDispose]() {
      await closeStore();
      await end();
      process.off('exit', abandon);
      for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, interrupted);
      if (process.env['CARREL_KEEP'] === '1') process.stderr.write(`kept: ${directory}\n`);
      else rmSync(directory, { recursive: true, force: true });
    },
  };
}
