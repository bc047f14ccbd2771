/**
 * End to end: a daemon is killed with SIGKILL at random moments of create, start, stop, restart, pause, resume
 * and remove; the next one puts everything in order. CARREL_CRASH_ROUNDS sets the number of rounds.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { until, within } from '#base/deadline.ts';
import { linkOf } from '#fabric/fabric.ts';
import { identify } from '#host/processes.ts';
import { linkNames } from '#test/netbed.ts';
import { dangling, takeCensus } from '#test/harness/census.ts';
import { type Bed, startBed } from './testing.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';
const rounds = Number(process.env['CARREL_CRASH_ROUNDS'] ?? 20);

async function crashOnce(bed: Bed): Promise<void> {
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, 'crashing.ts'), bed.dataDirectory, JSON.stringify(bed.store.connection)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const exit = once(child, 'exit');
  await within(20_000, 'the daemon', once(child.stdout, 'data'));
  await new Promise((resolve) => setTimeout(resolve, Math.random() * 500));
  assert.equal(child.exitCode, null);
  child.kill('SIGKILL');
  await exit;
}

/** Rows, processes, directories, control groups, links and loop devices tell the same. */
async function assertAgreement(bed: Bed): Promise<void> {
  const { db } = bed.store;
  const unfinished = () =>
    db
      .selectFrom('machines')
      .select('id')
      .where('deleted_at', 'is', null)
      .where('activity', 'is not', null)
      .execute();
  await until(
    20_000,
    'all activities to end',
    async () => ((await unfinished()).length === 0 ? true : undefined),
    { everyMs: 50 },
  );
  const jobs = await db
    .selectFrom('jobs')
    .select(['id', 'kind', 'state'])
    .where('ended_at', 'is', null)
    .execute();
  assert.deepEqual(jobs, []);
  const rows = await db.selectFrom('machines').selectAll().where('deleted_at', 'is', null).execute();
  const living = rows.filter((row) => row.state === 'running' || row.state === 'paused');
  for (const row of living)
    assert.equal(identify(row.keeper?.pid ?? 0)?.startTime, row.keeper?.startTime, `${row.id} lives`);

  const sorted = (ids: Iterable<string>): string[] => [...ids].sort();
  const census = await takeCensus(bed.dataDirectory);
  const groups = new Set(
    census.cgroups.flatMap((group) =>
      existsSync(join(group, 'machines')) ? readdirSync(join(group, 'machines')) : [],
    ),
  );
  const directories = readdirSync(join(bed.dataDirectory, 'machines'));
  const links = linkNames().flatMap((name) => /v-\w+/.exec(name) ?? []);
  const ids = living.map(({ id }) => id);
  const made = rows.filter((row) => row.state !== 'failed' || directories.includes(row.id));
  assert.deepEqual(sorted(directories), sorted(made.map(({ id }) => id)), 'directories are those of rows');
  assert.deepEqual(
    sorted([...groups].filter((name) => name.startsWith('m-'))),
    sorted(ids),
    'control groups are those of what runs',
  );
  assert.deepEqual(sorted(links), sorted(ids.map(linkOf)), 'links are those of what runs');
  assert.deepEqual(census.loops.length, ids.length, 'loop devices are those of what runs');
  assert.deepEqual(census.mounts, []);
}

/** One line per process that keeps a machine, for the case that a second copy was started. */
function keepers(directory: string): number {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(directory);
      } catch {
        return false;
      }
    }).length;
}

test(
  'whenever the daemon is killed, the next one finds or makes everything right',
  { skip, timeout: 600_000 },
  async () => {
    await using bed = await startBed({ leaseMs: 800 });
    await bed.user('crash', { admin: true });
    const before = await takeCensus(bed.dataDirectory);
    await bed.suspend();
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
    assert.equal(keepers(bed.dataDirectory), 1); // the fork server of the last service
    const after = await takeCensus(bed.dataDirectory);
    assert.deepEqual(dangling({ ...before, rules: '' }, { ...after, rules: '' }), []);
  },
);
