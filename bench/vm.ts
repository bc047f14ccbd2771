/**
 * How long a virtual machine takes to answer a command and to let somebody in by ssh: booted from its image, as a copy
 * of a parked template, and as a copy that waited for it; and what it takes of the host then. Needs root and QEMU.
 *
 *     node bench/vm.ts [--rounds N] [--boots N] [--at-once N] [--images tiny,debian-12-disk] [--json]
 *
 * Time is taken from the request, with everything that belongs to it: row, job, disk, wire, QEMU, identity. On a loaded
 * host the figures are those of the load: see the machine's line.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { sleep, until } from '#base/deadline.ts';
import { type NewMachine, newMachine, runRequest } from '#contract/schemas/machines.ts';
import { launch, launchOk } from '#host/launch.ts';
import { waitForJob } from '#jobs/wait.ts';
import { startBed } from '#machines/testing.ts';
import { quantile, report } from './measure.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '20' },
    boots: { type: 'string', default: '3' },
    'at-once': { type: 'string', default: '30' },
    images: { type: 'string', default: 'tiny,debian-12-disk' },
    json: { type: 'boolean' },
  },
});
const rounds = Number(values.rounds);
const boots = Number(values.boots);
const atOnce = Number(values['at-once']);
const MiB = 2 ** 20;
const patienceMs = 180_000;
const memory: Readonly<Record<string, number>> = { tiny: 128 * MiB };
const idleMs = 10_000;

/** Goals by image, in milliseconds: the median, or where two are given the median and p95. */
const goals: Readonly<Record<string, string>> = {
  'tiny, booted: answered command': '1500',
  'tiny, booted: ssh': '2500',
  'debian-12-disk, booted: answered command': '8000',
  'debian-12-disk, booted: ssh': '10000',
  'tiny, copy: answered command': '150, 300',
  'tiny, copy: ssh': '500',
  'tiny, copy that waited: answered command': '150, 300',
  'tiny, copy that waited: ssh': '500',
};

await using bed = await startBed();
const actor = await bed.user('bench', { admin: true });
const keys = mkdtempSync(join(tmpdir(), 'carrel-bench-'));
const key = join(keys, 'key');
await launchOk(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', key]);
const publicKey = readFileSync(`${key}.pub`, 'utf8').trim();
const hostname = runRequest.parse({ argv: ['/bin/hostname'], limitMs: 60_000 });

let counter = 0;
function wish(image: string): NewMachine {
  counter += 1;
  const limits = { memoryBytes: memory[image] ?? 512 * MiB };
  return newMachine.parse({ name: `v${counter}`, image, driver: 'qemu', limits, sshKeys: [publicKey] });
}

async function ended(jobId: string): Promise<void> {
  const job = await waitForJob(bed.store, jobId, { limitMs: patienceMs, pollMs: 200 });
  if (job.state !== 'done') throw new Error(`${job.kind} ${job.state}: ${JSON.stringify(job.error)}`);
}

async function ssh(address: string): Promise<void> {
  const argv = [
    'ssh',
    '-F',
    'none',
    '-i',
    key,
    '-o',
    'BatchMode=yes',
    '-o',
    'StrictHostKeyChecking=no',
  ] as const;
  const rest = [
    '-o',
    `UserKnownHostsFile=${join(keys, 'known')}`,
    '-o',
    'LogLevel=ERROR',
    `root@${address}`,
    'true',
  ];
  await until(
    patienceMs,
    'ssh to work',
    async () => ((await launch([...argv, ...rest], { timeoutMs: 30_000 })).status === 0 ? true : undefined),
    { everyMs: 20 },
  );
}

interface Started {
  readonly id: string;
  readonly answeredMs: number;
  readonly sshMs: number;
  readonly startedFrom: string;
}

/** One machine from the request on. */
async function start(image: string, { withSsh = true } = {}): Promise<Started> {
  const wanted = wish(image);
  const began = performance.now();
  const { machineId: id, job } = await bed.machines.create(actor, wanted);
  await ended(job.id);
  const { stdout } = await bed.machines.run(id, hostname);
  const answeredMs = performance.now() - began;
  if (Buffer.from(stdout, 'base64').toString().trim() !== wanted.name) throw new Error('it is somebody else');
  const machine = await bed.machines.get(id);
  if (withSsh) await ssh(machine.address ?? '');
  return {
    id,
    answeredMs,
    sshMs: withSsh ? performance.now() - began : Number.NaN,
    startedFrom: machine.runtime?.startedFrom ?? 'nothing',
  };
}

async function remove(id: string): Promise<void> {
  await ended((await bed.machines.remove(actor, id)).job.id);
}

const rows: Record<string, string | number>[] = [];
function figures(name: string, samples: readonly number[]): void {
  rows.push({
    name,
    rounds: samples.length,
    min: Math.min(...samples),
    p50: quantile(samples, 0.5),
    p95: quantile(samples, 0.95),
    unit: 'ms',
    goal: goals[name] ?? '',
  });
}
function figure(name: string, value: number, unit: string, goal = ''): void {
  rows.push({ name, rounds: 1, min: value, p50: value, p95: value, unit, goal });
}

async function series(name: string, image: string, count: number, from: 'image' | 'template'): Promise<void> {
  const all: Started[] = [];
  for (let round = 0; round < count; round += 1) {
    const one = await start(image);
    if (one.startedFrom !== from) throw new Error(`${name} started from ${one.startedFrom}`);
    await remove(one.id);
    all.push(one);
  }
  figures(
    `${image}, ${name}: answered command`,
    all.map(({ answeredMs }) => answeredMs),
  );
  figures(
    `${image}, ${name}: ssh`,
    all.map(({ sshMs }) => sshMs),
  );
}

async function park(image: string, ready = 0): Promise<void> {
  const limits = { cpus: 1, memoryBytes: wish(image).limits.memoryBytes };
  const { job } = await bed.machines.templates.park(actor, { image, limits, ready });
  await ended(job.id);
  if (ready > 0) await waiting(image, ready);
}

async function waiting(image: string, count: number): Promise<void> {
  await until(
    patienceMs,
    'copies to wait',
    async () =>
      (await bed.machines.templates.list()).some((each) => each.image === image && each.waiting >= count)
        ? true
        : undefined,
    { everyMs: 100 },
  );
}

/** Of QEMU's process: its own pages, and its share of those that others map too. */
function footprint(pid: number): number {
  const pss = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1];
  return Number(pss) / 1024;
}

/** Many at the same time, all of which must come; then what they use while they do nothing. */
async function crowd(image: string): Promise<void> {
  const began = performance.now();
  const all = await Promise.all(Array.from({ length: atOnce }, () => start(image, { withSsh: false })));
  const took = performance.now() - began;
  if (all.some(({ startedFrom }) => startedFrom !== 'template')) throw new Error('not all were copies');
  figure(`${image}, ${atOnce} copies at once: per second`, (atOnce * 1000) / took, '1/s', '10');
  await sleep(5000);
  const pids = await bed.store.db
    .selectFrom('machines')
    .select(['id', 'keeper'])
    .where('deleted_at', 'is', null)
    .execute();
  const sizes = pids.flatMap(({ keeper }) => (keeper ? footprint(keeper.pid) : []));
  figure(`${image}, a copy: memory`, quantile(sizes, 0.5), 'MiB', image === 'tiny' ? '30' : '');
  const cpu = async (): Promise<number[]> =>
    Promise.all(all.map(async ({ id }) => (await bed.machines.stats(id)).cpuMs));
  const before = await cpu();
  await sleep(idleMs);
  const after = await cpu();
  const shares = after.map((value, index) => ((value - (before[index] ?? 0)) / idleMs) * 100);
  figure(`${image}, idle: of a core`, quantile(shares, 0.5), '%', '0.5');
  await Promise.all(all.map(({ id }) => remove(id)));
}

try {
  for (const image of (values.images ?? '').split(',')) {
    await bed.images.ensure(image);
    if (boots > 0) await series('booted', image, boots, 'image');
    await park(image);
    await series('copy', image, rounds, 'template');
    if (atOnce > 0 && image === 'tiny') await crowd(image);
    await park(image, 1);
    const all: Started[] = [];
    for (let round = 0; round < Math.ceil(rounds / 2); round += 1) {
      await waiting(image, 1);
      const one = await start(image);
      await remove(one.id);
      all.push(one);
    }
    figures(
      `${image}, copy that waited: answered command`,
      all.map(({ answeredMs }) => answeredMs),
    );
    figures(
      `${image}, copy that waited: ssh`,
      all.map(({ sshMs }) => sshMs),
    );
    await park(image, 0);
  }
  report('virtual machines', rows);
} finally {
  for (const { id } of await bed.machines.templates.list()) await bed.machines.templates.remove(actor, id);
  rmSync(keys, { recursive: true });
}
