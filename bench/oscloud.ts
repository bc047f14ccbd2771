/**
 * GET /vm_list of the OS-Cloud routes, asked by one client, one request after the other, with 20 and with 1000 VMs.
 *
 *   node bench/oscloud.ts [--seconds 5] [--rounds 1] [--peer http://127.0.0.1:PORT]... [--json]
 *
 * The original (Flask, MariaDB, one connection per query) did 243-261 requests per second with 20 VMs and 63-76
 * with 1000 on two cores; the goal is ten times that. A peer is a server with the same route, for instance the original,
 * on this host's loopback: it is asked in turns with ours, which has as many VMs then. A whole cloud is started; the VMs are rows without
 * processes, which is all that a list looks at. Each case is measured with one connection that is kept, and with
 * a new connection for each request, as curl does.
 */
import { execFile } from 'node:child_process';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { sql } from 'kysely';
import { z } from 'zod';
import { sleep } from '#base/deadline.ts';
import { newId } from '#base/ids.ts';
import { json } from '#store/columns.ts';
import type { Db } from '#store/schema.ts';
import { selectOptionalUserByName } from '#store/users.ts';
import { startCloud } from '#test/harness/cloud.ts';
import { quantile, report } from './measure.ts';

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    rounds: { type: 'string', default: '1' },
    peer: { type: 'string', multiple: true },
    json: { type: 'boolean' },
  },
});
const seconds = Math.min(60, Number(options.seconds));
const loader = fileURLToPath(new URL('load.ts', import.meta.url));
const loadResult = z.object({
  requests: z.int(),
  seconds: z.number(),
  p50: z.number(),
  p99: z.number(),
  errors: z.int(),
});

/** Rows of the account that everybody is. */
async function fill(db: Db, from: number, to: number): Promise<void> {
  const owner = await selectOptionalUserByName(db, 'oscloud');
  if (!owner) throw new Error('the cloud made no account for the OS-Cloud routes');
  const rows = Array.from({ length: to - from }, (_, index) => ({
    id: newId('machine'),
    name: `vm-${from + index + 1}`,
    owner_id: owner.id,
    driver: 'qemu',
    limits: json({ cpu: 1, memory: 2 ** 31, pids: 512, disk: 10 * 2 ** 30 }),
    config: json<Readonly<Record<string, unknown>>>({ image: 'debian-12-disk', imageHash: '', start: true }),
  }));
  await db.insertInto('machines').values(rows).execute();
  await db
    .insertInto('oscloud_machines')
    .values(
      rows.map(({ id, name, owner_id }, index) => ({
        owner_id,
        number: from + index + 1,
        machine_id: id,
        display_name: name,
        os: 'ubuntu_22.04',
        network: 'default',
      })),
    )
    .execute();
  await sql`analyze machines, oscloud_machines`.execute(db);
}

/** The body of an answer, over a connection of its own, read by hand so that the client costs little. */
async function ask({ hostname, port, pathname }: URL): Promise<string> {
  return await new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port), noDelay: true });
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('end', () => {
      const [head = '', body = ''] = Buffer.concat(chunks).toString().split('\r\n\r\n', 2);
      if (head.startsWith('HTTP/1.1 200')) resolve(body);
      else reject(new Error(head));
    });
    socket.on('error', reject);
    socket.write(`GET ${pathname} HTTP/1.1\r\nhost: ${hostname}\r\nconnection: close\r\n\r\n`);
  });
}

interface Figures {
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
}

/** One connection, from a process that does little else (load.ts). */
async function onOneConnection(url: URL): Promise<Figures> {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [loader, url.port, url.pathname, String(seconds), 'none'],
    { timeout: 90_000 },
  );
  const { requests, errors, p50, p99, ...took } = loadResult.parse(JSON.parse(stdout));
  if (errors > 0) throw new Error(`${errors} requests failed`);
  return { perSecond: requests / took.seconds, p50, p99 };
}

async function onNewConnections(url: URL): Promise<Figures> {
  const times: number[] = [];
  const began = performance.now();
  while (performance.now() - began < seconds * 1000) {
    const at = performance.now();
    await ask(url);
    times.push(performance.now() - at);
  }
  return {
    perSecond: (times.length * 1000) / (performance.now() - began),
    p50: quantile(times, 0.5),
    p99: quantile(times, 0.99),
  };
}

/** What was measured of ours, several times. */
interface Series {
  readonly kept: Figures[];
  readonly fresh: Figures[];
}

const median = (figures: readonly Figures[], key: keyof Figures): number =>
  quantile(
    figures.map((each) => each[key]),
    0.5,
  );

async function lengthOf(url: URL): Promise<number> {
  const listed: unknown = JSON.parse(await ask(url));
  if (!Array.isArray(listed)) throw new Error(`${url.href} gives no list`);
  return listed.length;
}

/** Other servers by the number of VMs that they list. They are on this host: load goes nowhere else. */
async function readPeers(texts: readonly string[]): Promise<Map<number, URL>> {
  const peers = new Map<number, URL>();
  for (const text of texts) {
    const peer = new URL('/vm_list', text);
    if (!/^127\.|^\[::1\]$/.test(peer.hostname))
      throw new Error(`${text} is not an address of this host's loopback`);
    peers.set(await lengthOf(peer), peer);
  }
  return peers;
}

const peers = await readPeers(options.peer ?? []);
const rounds = Math.max(1, Math.min(20, Number(options.rounds)));
const goals: ReadonlyMap<number, number> = new Map([
  [20, 2610],
  [1000, 760],
]);
await using cloud = await startCloud({ osCloud: true });
const { db } = cloud.store();
const url = new URL(`${cloud.osCloud}/vm_list`);
const rows: Record<string, string | number>[] = [];
let there = 0;
for (const vms of [...(peers.size > 0 ? peers : goals).keys()].sort((left, right) => left - right)) {
  await fill(db, there, vms);
  there = vms;
  await sleep(1200); // a list is remembered for a second at most
  if ((await lengthOf(url)) !== vms) throw new Error(`not all of ${vms} VMs are listed`);
  const [peer, goal] = [peers.get(vms), goals.get(vms)];
  const ours: Series = { kept: [], fresh: [] };
  const theirs: Figures[] = [];
  for (let round = 0; round < rounds; round += 1) {
    ours.kept.push(await onOneConnection(url));
    ours.fresh.push(await onNewConnections(url)); // in turns: what else the host does slows both
    // Flask's own server ends each connection after one answer
    if (peer) theirs.push(await onNewConnections(peer));
  }
  for (const [connection, key] of [
    ['kept', 'kept'],
    ['new for each', 'fresh'],
  ] as const) {
    const perSecond = median(ours[key], 'perSecond');
    const other = peer && key === 'fresh' ? median(theirs, 'perSecond') : undefined;
    rows.push({
      vms,
      connection,
      'requests/s': Math.round(perSecond),
      'p50 ms': Number(median(ours[key], 'p50').toFixed(2)),
      'p99 ms': Number(median(ours[key], 'p99').toFixed(2)),
      ...(goal !== undefined && { 'goal/s': goal }),
      ...(peer && { 'peer/s': other ? Math.round(other) : '-' }),
      ...(peer && { ratio: other ? Number((perSecond / other).toFixed(1)) : '-' }),
    });
  }
}
report(`GET /vm_list, one client, one request after the other; medians of ${rounds}`, rows);
