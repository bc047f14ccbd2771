/**
 * End to end: a daemon is killed with SIGKILL at random moments of create, start, stop, restart, pause, resume,
 * remove, snapshot, restore and clone; the next one puts everything in order. CARREL_CRASH_ROUNDS sets the number of rounds.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { sleep, until, within } from '#base/deadline.ts';
import { linkOf } from '#fabric/fabric.ts';
import { identify } from '#host/processes.ts';
import { linkNames } from '#test/netbed.ts';
import { dangling, takeCensus } from '#test/harness/census.ts';
import { type Bed, exceptNameServers, startBed } from './testing.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';
const rounds = Number(process.env['CARREL_CRASH_ROUNDS'] ?? 20);

async function crashOnce(bed: Bed): Promise<void> {
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, 'crashing.ts'), bed.dataDirectory, JSON.stringify(bed.store.connection)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const exit = once(child, 'exit');
  // mostly at work, sometimes while it is still starting and putting in order what the last one left
  if (Math.random() < 0.7) await within(20_000, 'the daemon', once(child.stdout, 'data'));
  await sleep(Math.random() * 800);
  assert.equal(child.exitCode, null);
  child.kill('SIGKILL');
  await exit;
}

function sorted(ids: Iterable<string>): string[] {
  return [...ids].sort();
}

/** Machines and jobs at work. */
async function unfinished({ store: { db } }: Bed): Promise<number> {
  const machines = db
    .selectFrom('machines')
    .select('id')
    .where('deleted_at', 'is', null)
    .where('activity', 'is not', null);
  const jobs = db.selectFrom('jobs').select('id').where('ended_at', 'is', null);
  return (await machines.execute()).length + (await jobs.execute()).length;
}

/** Rows, processes, directories, control groups, links and loop devices tell the same. */
async function assertAgreement(bed: Bed): Promise<void> {
  const { db } = bed.store;
  await until(20_000, 'all work to end', async () => ((await unfinished(bed)) === 0 ? true : undefined), {
    everyMs: 50,
  });
  const rows = await db.selectFrom('machines').selectAll().where('deleted_at', 'is', null).execute();
  // a copy of what was deleted before its turn came: its creation failed and was undone, so it has no directory
  const orphans = new Set(rows.filter(({ failure }) => failure?.code === 'not_found').map(({ id }) => id));
  const failed = rows.flatMap(({ id, failure }) =>
    failure && !orphans.has(id) ? [`${id}: ${failure.message}`] : [],
  );
  assert.deepEqual(failed, [], 'the death of a daemon is no failure of a machine');
  const living = rows.filter((row) => row.state === 'running' || row.state === 'paused');
  for (const row of living)
    assert.equal(identify(row.keeper?.pid ?? 0)?.startTime, row.keeper?.startTime, `${row.id} lives`);
  const census = await takeCensus(bed.dataDirectory);
  const groups = new Set(
    census.cgroups.flatMap((group) =>
      existsSync(join(group, 'machines')) ? readdirSync(join(group, 'machines')) : [],
    ),
  );
  const directories = readdirSync(join(bed.dataDirectory, 'machines'));
  const links = linkNames().flatMap((name) => /v-\w+/.exec(name) ?? []);
  const ids = living.map(({ id }) => id);
  assert.deepEqual(
    sorted(directories),
    sorted(rows.flatMap(({ id }) => (orphans.has(id) ? [] : [id]))),
    'directories are those of rows',
  );
  assert.deepEqual(
    sorted([...groups].filter((name) => name.startsWith('m-'))),
    sorted(ids),
    'control groups are those of what runs',
  );
  assert.deepEqual(sorted(links), sorted(ids.map(linkOf)), 'links are those of what runs');
  assert.deepEqual(census.loops.length, ids.length, 'loop devices are those of what runs');
  assert.deepEqual(census.mounts, []);
  await assertSnapshots(bed);
}

/** What is kept of disks is what the rows say, and nothing is half made. */
async function assertSnapshots({ store: { db }, dataDirectory }: Bed): Promise<void> {
  const rows = await db
    .selectFrom('machine_snapshots')
    .innerJoin('machines', 'machines.id', 'machine_snapshots.machine_id')
    .select(['machine_id', 'machine_snapshots.name', 'machine_snapshots.state', 'deleted_at'])
    .execute();
  assert.deepEqual(
    rows.filter(({ state, deleted_at }) => state !== 'ready' || deleted_at !== null),
    [],
    'snapshots are ready, and of machines that are there',
  );
  const machines = join(dataDirectory, 'machines');
  const kept = readdirSync(machines).flatMap((id) =>
    existsSync(join(machines, id, 'kept'))
      ? readdirSync(join(machines, id, 'kept')).map((file) => `${id}/${file}`)
      : [],
  );
  assert.deepEqual(
    sorted(kept.filter((file) => !file.endsWith('.part'))),
    sorted(rows.map(({ machine_id: id, name }) => `${id}/${name}.img`)),
    'disks that are kept are those of rows',
  );
}

/** What happened, for the reader of the test's output. */
async function told({ store: { db } }: Bed): Promise<string> {
  const rows = await db
    .selectFrom('events')
    .select(({ fn }) => ['kind', fn.countAll<number>().as('count')])
    .groupBy('kind')
    .orderBy('kind')
    .execute();
  return rows.map(({ kind, count }) => `${kind} ${count}`).join(', ');
}

test(
  'whenever the daemon is killed, the next one finds or makes everything right',
  { skip, timeout: 600_000 },
  async (t) => {
    await using bed = await startBed({ leaseMs: 800 });
    const user = await bed.user('crash', { admin: true });
    await bed.done(bed.machines.remove(null, await bed.make(user))); // makes the cloud's own control groups
    await bed.suspend();
    const before = await takeCensus(bed.dataDirectory);
    for (let round = 0; round < rounds; round += 1) {
      await crashOnce(bed);
      await bed.resume();
      await assertAgreement(bed);
      await bed.suspend();
    }
    await bed.resume();
    const rows = await bed.store.db
      .selectFrom('machines')
      .select('id')
      .where('deleted_at', 'is', null)
      .execute();
    await Promise.all(rows.map(({ id }) => bed.done(bed.machines.remove(null, id))));
    await assertAgreement(bed);
    await bed.suspend();
    const after = await takeCensus(bed.dataDirectory);
    assert.deepEqual(exceptNameServers(dangling(before, after)), []);
    t.diagnostic(`${rounds} rounds: ${await told(bed)}`);
    await bed.resume();
  },
);
