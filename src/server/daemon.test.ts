/** End to end: the daemon as a process, started as the doorman starts it, ended in every way. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { until } from '#base/deadline.ts';
import { createClient, type Client } from '#contract/client.ts';
import { listenVariable, openListener } from '#fabric/listeners.ts';
import { endProcess, identify, isAlive, type ProcessIdentity } from '#host/processes.ts';

const program = fileURLToPath(new URL('main.ts', import.meta.url));

let directory: string;
let data: string;
const started: ChildProcess[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'carrel-daemon-'));
  chmodSync(directory, 0o711); // the database runs as another user
  data = join(directory, 'data');
});
afterEach(async () => {
  for (const child of started.splice(0))
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
  const database = postmaster();
  if (database) await endProcess(database);
  rmSync(directory, { recursive: true, force: true });
});

function postmaster(): ProcessIdentity | undefined {
  const path = join(data, 'pg', 'postmaster.pid');
  return existsSync(path) ? identify(Number(readFileSync(path, 'utf8').split('\n')[0])) : undefined;
}

interface Running {
  readonly child: ChildProcess;
  readonly client: Client;
  readonly ended: Promise<number | null>;
}

/** Starts the daemon with an inherited listener and a pipe as its stdin; resolves when it answers. */
async function start(): Promise<Running> {
  const listener = openListener({ host: '127.0.0.1', port: 0 });
  const child = spawn(process.execPath, [program, '--data', data, '--cache', join(directory, 'cache')], {
    stdio: ['pipe', 'ignore', process.env['CARREL_TEST_LOG'] ? 'inherit' : 'ignore', listener.socket.fd],
    env: {
      ...process.env,
      CARREL_CACHE: join(directory, 'cache'),
      [listenVariable]: JSON.stringify([{ fd: 3, name: 'http', host: '127.0.0.1', port: listener.port }]),
    },
  });
  listener.socket.close();
  started.push(child);
  const ended = new Promise<number | null>((resolve) => child.once('close', (status) => resolve(status)));
  const base = `http://127.0.0.1:${listener.port}`;
  // The socket is open from the start: the first request waits in it.
  await createClient({ base }).getHealth({ params: {} }, { signal: AbortSignal.timeout(60_000) });
  const token = readFileSync(join(data, 'run', 'admin.token'), 'utf8').trim();
  return { child, client: createClient({ base, token }), ended };
}

/** Processes whose command line names the data directory. */
async function untilNothingRuns(pids: readonly ProcessIdentity[]): Promise<void> {
  await until(8000, 'all processes to end', () => (pids.some(isAlive) ? undefined : true), { everyMs: 50 });
}

function childrenOf(pid: number): ProcessIdentity[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .filter(Boolean)
    .flatMap((child) => identify(Number(child)) ?? [])
    .flatMap((child) => [child].concat(childrenOf(child.pid)));
}

test('end to end: it starts, answers, and ends with everything it started when stdin ends', async () => {
  const { child, client, ended } = await start();
  const me = await client.getMe({ params: {} });
  assert.equal(me.name, 'admin');
  assert.equal(me.admin, true);
  assert.equal(statSync(join(data, 'run', 'admin.token')).mode & 0o777, 0o600);
  const health = await client.getHealth({ params: {} });
  assert.equal(health.database, 'ok');
  const family = childrenOf(child.pid ?? 0);
  assert.ok(family.length >= 2, 'fork server and database');
  child.stdin?.end();
  assert.equal(await ended, 0);
  await untilNothingRuns(family);
  assert.equal(postmaster(), undefined);
});

test('end to end: after kill -9 the next daemon has the same data, the same token, and the same database server', async () => {
  const first = await start();
  await first.client.createUser({ params: {}, body: { name: 'ada' } });
  const server = postmaster();
  assert.ok(server);
  first.child.kill('SIGKILL');
  await first.ended;
  assert.ok(isAlive(server), 'the database outlives the daemon');
  const second = await start();
  const { items } = await second.client.listUsers({ params: {} });
  assert.deepEqual(
    items.map(({ name }) => name),
    ['ada', 'admin'],
  );
  assert.deepEqual(postmaster(), server);
  second.child.kill('SIGTERM');
  assert.equal(await second.ended, 0);
  await untilNothingRuns([server]);
});

test('end to end: the fork server and the database come back after kill -9, and the daemon stays', async () => {
  const { child, client, ended } = await start();
  const server = postmaster();
  assert.ok(server);
  for (const part of childrenOf(child.pid ?? 0)) if (isAlive(part)) process.kill(part.pid, 'SIGKILL');
  const health = await until(
    20_000,
    'isolation and database to be well again',
    async () => {
      const now = await client.getHealth({ params: {} });
      return now.isolation === 'ok' && now.database === 'ok' ? now : undefined;
    },
    { everyMs: 100 },
  );
  assert.equal(health.isolation, 'ok');
  assert.equal((await client.getMe({ params: {} })).name, 'admin');
  child.stdin?.end();
  assert.equal(await ended, 0);
});
