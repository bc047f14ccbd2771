/** The state machine of types.ts against a model: whatever workers do, in any order, the rows follow the model. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import type { Store } from '#store/database.ts';
import type { JobState } from '#store/jobs.ts';
import { startTestCluster } from '#store/testing.ts';
import * as fc from 'fast-check';
import { sql } from 'kysely';
import { z } from 'zod';
import { endRuns, reapExpired, renewLeases, takeJobs, writeCheckpoint, type Outcome } from './lease.ts';
import { cancelJob, enqueue } from './queue.ts';
import { lossLimit } from './types.ts';

const pg = await startTestCluster();
after(() => pg.close());

const kind = { kind: 'test.model', args: z.strictObject({}), result: z.unknown() };
const hour = 3_600_000;

interface ModelJob {
  readonly id: string;
  readonly priority: number;
  state: JobState;
  owner: string | null;
  attempt: number;
  failures: number;
  losses: number;
  cancelled: boolean;
  expired: boolean;
  checkpoint: number | null;
}
interface Taken {
  readonly job: ModelJob;
  readonly owner: string;
  readonly attempt: number;
}

const owner = fc.constantFrom('a', 'b');
const operation = fc.oneof(
  fc.record({ do: fc.constant('enqueue' as const), priority: fc.integer({ min: 0, max: 2 }) }),
  fc.record({ do: fc.constant('take' as const), owner, limit: fc.integer({ min: 1, max: 3 }) }),
  // `which` points into all runs that ever were: most of them no longer count
  fc.record({
    do: fc.constant('end' as const),
    which: fc.nat(),
    how: fc.constantFrom(
      'done' as const,
      'failed' as const,
      'cancelled' as const,
      'retry' as const,
      'shutdown' as const,
    ),
  }),
  fc.record({ do: fc.constant('renew' as const), which: fc.nat() }),
  fc.record({ do: fc.constant('checkpoint' as const), which: fc.nat(), data: fc.nat() }),
  fc.record({ do: fc.constant('expire' as const), which: fc.nat() }),
  fc.record({ do: fc.constant('reap' as const) }),
  fc.record({ do: fc.constant('cancel' as const), which: fc.nat() }),
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

const error = { code: 'unavailable', message: 'x' } as const;
const outcomes: Readonly<Record<'done' | 'failed' | 'cancelled' | 'retry' | 'shutdown', Outcome>> = {
  done: { state: 'done', result: '1' },
  failed: { state: 'failed', error },
  cancelled: { state: 'cancelled', error },
  retry: { state: 'queued', error, delayMs: 0, counts: true },
  shutdown: { state: 'queued', error, delayMs: 0, counts: false },
};

function holds({ job, owner, attempt }: Taken): boolean {
  return job.state === 'running' && job.owner === owner && job.attempt === attempt;
}

/** Does the operation to the rows and to the model; what the database answers must be what the model says. */
async function apply({ db }: Store, op: Operation, jobs: ModelJob[], runs: Taken[]): Promise<void> {
  const run = 'which' in op && runs.length > 0 ? runs[op.which % runs.length] : undefined;
  const lease = run ? { id: run.job.id, attempt: run.attempt } : undefined;
  switch (op.do) {
    case 'enqueue': {
      const { id } = await enqueue(db, kind, {}, { priority: op.priority });
      const fresh = { state: 'queued', owner: null, attempt: 0, failures: 0, losses: 0 } as const;
      jobs.push({ id, priority: op.priority, ...fresh, cancelled: false, expired: false, checkpoint: null });
      return;
    }
    case 'take': {
      const got = await takeJobs(db, { owner: op.owner, kinds: [kind.kind], limit: op.limit, leaseMs: hour });
      const waiting = jobs.filter((job) => job.state === 'queued');
      const due = waiting.sort((a, b) => b.priority - a.priority).slice(0, op.limit);
      assert.deepEqual(
        got.map((job) => job.id),
        due.map((job) => job.id),
      );
      for (const job of due) {
        Object.assign(job, { state: 'running', owner: op.owner, attempt: job.attempt + 1, expired: false });
        runs.push({ job, owner: op.owner, attempt: job.attempt });
      }
      return;
    }
    case 'end': {
      if (!run || !lease) return;
      const outcome = outcomes[op.how];
      const counted = await endRuns(db, run.owner, [{ lease, outcome }]);
      assert.equal(counted.has(lease.id), holds(run));
      if (!holds(run)) return;
      const failed = op.how === 'failed' || op.how === 'retry' ? 1 : 0;
      const state = outcome.state === 'queued' && run.job.cancelled ? 'cancelled' : outcome.state;
      Object.assign(run.job, { state, owner: null, failures: run.job.failures + failed });
      return;
    }
    case 'renew': {
      if (!run || !lease) return;
      const kept = await renewLeases(db, { owner: run.owner, leases: [lease], leaseMs: hour });
      assert.deepEqual(kept, holds(run) ? [{ id: lease.id, cancelled: run.job.cancelled }] : []);
      if (holds(run)) run.job.expired = false;
      return;
    }
    case 'checkpoint': {
      if (!run || !lease) return;
      assert.equal(await writeCheckpoint(db, run.owner, lease, op.data), holds(run));
      if (holds(run)) run.job.checkpoint = op.data;
      return;
    }
    case 'expire': {
      if (!run || run.job.state !== 'running') return;
      await sql`update jobs set lease_until = now() - interval '1 second' where id = ${run.job.id}`.execute(
        db,
      );
      run.job.expired = true;
      return;
    }
    case 'reap': {
      const dead = jobs.filter((job) => job.state === 'running' && job.expired);
      assert.equal((await reapExpired(db, { leaseMs: 0 })).reaped, dead.length);
      for (const job of dead) {
        const state = job.cancelled ? 'cancelled' : job.losses + 1 >= lossLimit ? 'failed' : 'queued';
        Object.assign(job, { state, owner: null, losses: job.losses + 1 });
      }
      return;
    }
    case 'cancel': {
      const job = jobs[op.which % Math.max(1, jobs.length)];
      if (!job) return;
      await cancelJob(db, job.id);
      if (job.state === 'queued') Object.assign(job, { state: 'cancelled', cancelled: true });
      else if (job.state === 'running') job.cancelled = true;
    }
  }
}

test('whatever workers do in any order, alive, dead or late, every job follows the state machine', async () => {
  const store = await pg.freshStore();
  const property = fc.asyncProperty(
    fc.array(operation, { maxLength: 60, size: 'max' }),
    async (operations) => {
      await sql`delete from jobs`.execute(store.db);
      const jobs: ModelJob[] = [];
      const runs: Taken[] = [];
      for (const op of operations) {
        await apply(store, op, jobs, runs);
        const rows = await store.db.selectFrom('jobs').selectAll().orderBy('seq').execute();
        assert.deepEqual(
          rows.map((row) => [
            row.id,
            row.state,
            row.owner,
            row.attempt,
            row.failures,
            row.losses,
            row.checkpoint,
          ]),
          jobs.map((job) => [
            job.id,
            job.state,
            job.owner,
            job.attempt,
            job.failures,
            job.losses,
            job.checkpoint,
          ]),
        );
      }
    },
  );
  await fc.assert(property, { numRuns: 40 });
});

test('a job that has cost too many workers fails, with an error of the infrastructure', async () => {
  const { db } = await pg.freshStore();
  const { id } = await enqueue(db, kind, {}, { maxAttempts: 1 });
  for (let loss = 0; loss < lossLimit; loss += 1) {
    const [job] = await takeJobs(db, { owner: 'a', kinds: [kind.kind], limit: 1, leaseMs: hour });
    assert.equal(job?.id, id);
    await sql`update jobs set lease_until = now() - interval '1 second'`.execute(db);
    await reapExpired(db, { leaseMs: 0 });
  }
  const [job] = await db.selectFrom('jobs').selectAll().execute();
  assert.deepEqual(
    [job?.state, job?.failures, job?.losses, job?.error?.code],
    ['failed', 0, lossLimit, 'unavailable'],
  );
});

test('after a start of the server every lease has its full time again', async () => {
  const { db } = await pg.freshStore();
  await enqueue(db, kind, {});
  await takeJobs(db, { owner: 'a', kinds: [kind.kind], limit: 1, leaseMs: -1000 });
  assert.equal((await reapExpired(db, { leaseMs: hour })).reaped, 0);
  assert.equal((await reapExpired(db, { leaseMs: 0 })).reaped, 1);
});
