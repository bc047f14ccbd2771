/**
 * GET /v1/machines with 1000 machines, first page (100) with state: requests per second on one core, and latency
 * at 16 connections. The daemon and its database share one core (taskset), the load comes from another process.
 *
 *   node bench/list.ts [--seconds 5] [--connections 16] [--json]
 *
 * Two cases: one administrator on all connections (equal questions are answered together), and sixteen members
 * of staff, each asking for himself.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { z } from 'zod';
import { until } from '#base/deadline.ts';
import { newId } from '#base/ids.ts';
import { hashSecret, newSecret } from '#server/auth/secret.ts';
import { insertCourse } from '#store/courses.ts';
import { json } from '#store/columns.ts';
import { openStore } from '#store/database.ts';
import { upsertMember } from '#store/members.ts';
import type { Db } from '#store/schema.ts';
import { insertToken } from '#store/tokens.ts';
import { insertUser, selectOptionalUserByName } from '#store/users.ts';
import { report } from './measure.ts';

const MACHINES = 1000;
const repository = fileURLToPath(new URL('..', import.meta.url));

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    connections: { type: 'string', default: '16' },
    json: { type: 'boolean', default: false },
  },
});
const seconds = Math.min(60, Number(options.seconds));
const connections = Math.min(64, Number(options.connections));

const loadResult = z.object({
  requests: z.int(),
  seconds: z.number(),
  p50: z.number(),
  p99: z.number(),
  max: z.number(),
  errors: z.int(),
});
type LoadResult = z.infer<typeof loadResult>;

/** CPU seconds of a process and its living descendants, the database among them. */
function cpuSeconds(pid: number, descendants = true): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  const own = (Number(fields[11]) + Number(fields[12])) / 100;
  if (!descendants) return own;
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .filter(Boolean);
  return children.reduce((sum, child) => sum + cpuSeconds(Number(child)), own);
}

async function fill(db: Db): Promise<{ admins: string[]; staff: string[] }> {
  const admin = await selectOptionalUserByName(db, 'admin');
  if (!admin) throw new Error('the daemon made no administrator');
  const owner = await insertUser(db, { name: 'owner' });
  const course = await insertCourse(db, { name: 'os', title: 'Operating systems', created_by: admin.id });
  const rows = Array.from({ length: MACHINES }, (_, index) => ({
    id: newId('machine'),
    name: `machine-${index}`,
    owner_id: owner.id,
    course_id: course.id,
    driver: 'container',
    state: 'running' as const,
    limits: json({ cpu: 1, memory: 2 ** 29, pids: 512, disk: 2 ** 31 }),
    labels: json<Readonly<Record<string, string>>>({ section: `s${index % 8}` }),
    config: json<Readonly<Record<string, unknown>>>({
      image: 'debian-12',
      imageHash: '0'.repeat(64),
      start: true,
    }),
    address: `192.168.${Math.floor(index / 250)}.${(index % 250) + 2}`,
    mac: '02:ca:c0:a8:00:02',
  }));
  for (let at = 0; at < rows.length; at += 200)
    await db
      .insertInto('machines')
      .values(rows.slice(at, at + 200))
      .execute();
  const tokenOf = async (userId: string): Promise<string> => {
    const secret = newSecret();
    await insertToken(db, { user_id: userId, hash: hashSecret(secret) });
    return secret;
  };
  const admins: string[] = [];
  const staff: string[] = [];
  for (let index = 0; index < connections; index += 1) {
    admins.push(await tokenOf(admin.id));
    const ta = await insertUser(db, { name: `ta-${index}` });
    await upsertMember(db, { course_id: course.id, user_id: ta.id, role: 'ta' });
    staff.push(await tokenOf(ta.id));
  }
  return { admins, staff };
}

function start(argv: readonly string[], core: number | undefined, stdio: 'inherit' | 'pipe'): ChildProcess {
  const [program = '', ...rest] = core === undefined ? argv : ['taskset', '-c', String(core), ...argv];
  return spawn(program, rest, {
    cwd: repository,
    stdio: ['ignore', stdio === 'pipe' ? 'pipe' : 'ignore', stdio === 'pipe' ? 'inherit' : 'ignore'],
  });
}

async function load(port: number, tokens: readonly string[], core: number | undefined): Promise<LoadResult> {
  const child = start(
    [
      process.execPath,
      join(repository, 'bench/load.ts'),
      String(port),
      '/v1/machines',
      String(seconds),
      ...tokens,
    ],
    core,
    'pipe',
  );
  let text = '';
  child.stdout?.on('data', (chunk: Buffer) => (text += chunk.toString()));
  await new Promise((resolve) => child.once('close', resolve));
  return loadResult.parse(JSON.parse(text));
}

const directory = mkdtempSync(join(tmpdir(), 'carrel-bench-'));
chmodSync(directory, 0o711); // the database runs as another user
const data = join(directory, 'data');
const cores = cpus().length;
const daemonCore = cores > 1 ? 0 : undefined;
const loadCore = cores > 1 ? 1 : undefined;
const daemon = start(
  [
    process.execPath,
    '--max-semi-space-size=4',
    join(repository, 'src/server/main.ts'),
    '--data',
    data,
    '--cache',
    join(directory, 'cache'),
    '--listen',
    '127.0.0.1:0',
  ],
  daemonCore,
  'inherit',
);
const ended = new Promise((resolve) => daemon.once('close', resolve));
try {
  const address = z.object({ url: z.url(), pid: z.int() });
  const { url, pid } = await until(
    60_000,
    'the daemon to be ready',
    () => {
      try {
        return address.parse(JSON.parse(readFileSync(join(data, 'run', 'daemon.json'), 'utf8')));
      } catch {
        return undefined;
      }
    },
    { everyMs: 50 },
  );
  const store = openStore({
    connection: { host: join(data, 'run', 'pg'), user: 'carrel', database: 'carrel' },
    maxConnections: 2,
  });
  const { admins, staff } = await fill(store.db);
  await sql`analyze`.execute(store.db); // what autovacuum does within a minute
  await store.close();
  const port = Number(new URL(url).port);
  const rows = [];
  for (const [name, tokens] of [
    ['one administrator', admins],
    ['sixteen of staff', staff],
  ] as const) {
    await load(port, tokens.slice(0, 2), loadCore).catch(() => undefined); // warm
    const before = { all: cpuSeconds(pid), daemon: cpuSeconds(pid, false) };
    const result = await load(port, tokens, loadCore);
    const cpu = cpuSeconds(pid) - before.all;
    const daemonCpu = cpuSeconds(pid, false) - before.daemon;
    rows.push({
      case: name,
      perSecond: Math.round(result.requests / result.seconds),
      perCpuSecond: Math.round(result.requests / cpu),
      daemonUs: Math.round((daemonCpu / result.requests) * 1e6),
      databaseUs: Math.round(((cpu - daemonCpu) / result.requests) * 1e6),
      p50: Number(result.p50.toFixed(2)),
      p99: Number(result.p99.toFixed(2)),
      max: Number(result.max.toFixed(2)),
      errors: result.errors,
    });
  }
  report(
    `GET /v1/machines: ${MACHINES} machines, first page of 100, ${connections} connections, ${seconds} s, daemon and database on one core`,
    rows,
  );
} finally {
  daemon.kill('SIGTERM');
  await ended;
  rmSync(directory, { recursive: true, force: true });
}
