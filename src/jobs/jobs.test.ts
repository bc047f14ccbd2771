import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { until } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { createLogger } from '#base/log.ts';
import { transaction } from '#store/database.ts';
import { selectJob, selectJobLogs } from '#store/jobs.ts';
import { startTestCluster } from '#store/testing.ts';
import { z } from 'zod';
import { cancelJob, enqueue, selectChildren, selectChildrenSummary } from './queue.ts';
import { defineJob } from './types.ts';
import { startUpkeep } from './upkeep.ts';
import { resultOf, waitForJob, waitForJobs } from './wait.ts';
import { createWorker, type WorkerOptions } from './worker.ts';

const pg = await startTestCluster();
after(() => pg.close());

const add = defineJob({
  kind: 'test.add',
  args: z.strictObject({ a: z.number(), b: z.number() }),
  result: z.number(),
  run: async (_, { a, b }) => a + b,
});
const untilStopped = defineJob({
  kind: 'test.hang',
  args: z.strictObject({}),
  result: z.null(),
  run: ({ signal }) =>
    new Promise<null>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
});

/** What a worker complains about is to be seen, and is a failure. */
const log = createLogger({
  level: 'error',
  write: (line) => {
    process.exitCode = 1;
    process.stderr.write(line);
  },
});

async function withWorker(options: Omit<WorkerOptions, 'store'>) {
  const store = await pg.freshStore();
  const worker = createWorker({ store, log, ...options });
  return {
    store,
    db: store.db,
    worker,
    async [Symbol.asyncDispose]() {
      await worker.stop();
      await store.close();
    },
  };
}

test('a job is queued, run, and its result can be waited for', async () => {
  await using t = await withWorker({ jobs: [add] });
  const job = await enqueue(t.db, add, { a: 2, b: 3 }, { resources: ['/v1/machines/m-x'], requestId: 'r1' });
  assert.deepEqual(
    [job.state, job.attempt, job.resources, job.request_id],
    ['queued', 0, ['/v1/machines/m-x'], 'r1'],
  );
  const ended = await waitForJob(t.store, job.id);
  assert.equal(resultOf(add, ended), 5);
  assert.deepEqual([ended.state, ended.attempt, ended.owner], ['done', 1, null]);
});

test('a job exists exactly if the transaction that enqueued it was committed', async () => {
  await using t = await withWorker({ jobs: [add] });
  let id = '';
  const undone = transaction(t.db, async (tx) => {
    id = (await enqueue(tx, add, { a: 1, b: 1 })).id;
    throw new Error('changed my mind');
  });
  await assert.rejects(undone, /changed my mind/);
  await assert.rejects(selectJob(t.db, id), { code: 'not_found' });
});

test('arguments that do not fit are refused and leave nothing', async () => {
  const { db } = await pg.freshStore();
  const wrong: unknown = { a: 'one' };
  await assert.rejects(enqueue(db, { ...add, args: z.unknown().pipe(add.args) }, wrong), {
    code: 'validation_failed',
  });
  assert.equal((await db.selectFrom('jobs').select('id').execute()).length, 0);
});

test('steps, progress, log lines and hostile characters are kept with the job', async () => {
  const talk = defineJob({
    kind: 'test.talk',
    args: z.strictObject({}),
    result: z.string(),
    async run({ log, step, progress }) {
      step('first');
      log('one');
      log('t\u0000w\uD800o');
      step('second\u0000');
      progress(1, 2, 'things');
      return 'nul \u0000 and half \uDC00';
    },
  });
  await using t = await withWorker({ jobs: [talk] });
  const job = await waitForJob(t.store, (await enqueue(t.db, talk, {})).id);
  assert.equal(job.state, 'done');
  assert.deepEqual(job.result, 'nul \uFFFD and half \uFFFD');
  assert.deepEqual(
    job.steps.map((step) => step.name),
    ['first', 'second\uFFFD'],
  );
  assert.deepEqual(job.progress, { done: 1, total: 2, what: 'things' });
  assert.deepEqual(
    (await selectJobLogs(t.db, job.id)).map((row) => row.line),
    ['one', 't\uFFFDw\uFFFDo'],
  );
});

test('an error of the infrastructure is repeated up to the limit and kept; any other is final at once', async () => {
  let runs = 0;
  const flaky = defineJob({
    kind: 'test.flaky',
    args: z.strictObject({ code: z.enum(['helper_failed', 'validation_failed']), until: z.int() }),
    result: z.int(),
    async run({ job }, { code, until: last }) {
      runs += 1;
      if (job.attempt < last) throw new CarrelError(code, `attempt ${job.attempt}`, { details: { big: 1n } });
      return job.attempt;
    },
  });
  await using t = await withWorker({ jobs: [flaky] });
  const [good, bad, final] = await Promise.all([
    enqueue(t.db, flaky, { code: 'helper_failed', until: 3 }, { maxAttempts: 3 }),
    enqueue(t.db, flaky, { code: 'helper_failed', until: 9 }, { maxAttempts: 2 }),
    enqueue(t.db, flaky, { code: 'validation_failed', until: 9 }),
  ]);
  const ended = await waitForJobs(t.store, [good.id, bad.id, final.id]);
  assert.deepEqual(
    ended.map((job) => [job.state, job.attempt, job.failures, job.error?.message]),
    [
      ['done', 3, 2, undefined],
      ['failed', 2, 2, 'attempt 2'],
      ['failed', 1, 1, 'attempt 1'],
    ],
  );
  assert.equal(runs, 6);
  const failed = ended[1];
  assert.ok(failed);
  assert.throws(() => resultOf(flaky, failed), { code: 'helper_failed' });
});

test('a result that does not fit, or cannot be written, fails its own job only', async () => {
  const odd = defineJob({
    kind: 'test.odd',
    args: z.strictObject({ how: z.enum(['fits', 'bigint', 'deep']) }),
    result: z.unknown(),
    async run(_, { how }) {
      if (how === 'bigint') return { big: 1n };
      let value: unknown = 'bottom';
      if (how === 'deep') for (let i = 0; i < 7000; i += 1) value = [value];
      return value;
    },
  });
  await using t = await withWorker({ jobs: [odd], slots: 8 });
  const hows = ['fits', 'bigint', 'deep', 'fits'] as const;
  const jobs = await transaction(t.db, (tx) => Promise.all(hows.map((how) => enqueue(tx, odd, { how }))));
  const ended = await waitForJobs(
    t.store,
    jobs.map((job) => job.id),
  );
  assert.deepEqual(
    ended.map((job) => job.state).filter((_, index) => index !== 2),
    ['done', 'failed', 'done'],
  );
  assert.ok(ended[2]?.ended_at);
});

test('a waiting job is cancelled at once, a running one is told, an ended one stays', async () => {
  await using t = await withWorker({ jobs: [untilStopped, add], slots: 1 });
  const running = await enqueue(t.db, untilStopped, {});
  await until(5000, 'the job to run', async () =>
    (await selectJob(t.db, running.id)).state === 'running' ? true : undefined,
  );
  const waiting = await enqueue(t.db, add, { a: 1, b: 1 });
  assert.equal((await cancelJob(t.db, waiting.id)).state, 'cancelled');
  assert.equal((await cancelJob(t.db, running.id)).state, 'running');
  const ended = await waitForJob(t.store, running.id);
  assert.deepEqual([ended.state, ended.error?.code], ['cancelled', 'cancelled']);
  const done = await waitForJob(t.store, (await enqueue(t.db, add, { a: 1, b: 1 })).id);
  assert.equal((await cancelJob(t.db, done.id)).state, 'done');
  await assert.rejects(cancelJob(t.db, 'j-000000000000'), { code: 'not_found' });
});

test('a parent is cancelled with its children, and then gets no more', async () => {
  const { db } = await pg.freshStore();
  const parent = await enqueue(db, add, { a: 0, b: 0 });
  const child = await enqueue(db, add, { a: 1, b: 0 }, { parentId: parent.id });
  await enqueue(db, add, { a: 2, b: 0 }, { parentId: child.id });
  await cancelJob(db, parent.id);
  assert.deepEqual(await selectChildrenSummary(db, parent.id), {
    queued: 0,
    running: 0,
    done: 0,
    failed: 0,
    cancelled: 1,
    total: 1,
  });
  assert.equal((await selectChildren(db, child.id))[0]?.state, 'cancelled');
  await assert.rejects(enqueue(db, add, { a: 3, b: 0 }, { parentId: parent.id }), { code: 'cancelled' });
});

test('of many that enqueue with the same key at once, all get the same job', async () => {
  const { db } = await pg.freshStore();
  const jobs = await Promise.all(
    Array.from({ length: 20 }, () => enqueue(db, add, { a: 1, b: 2 }, { dedupeKey: 'grade s-1' })),
  );
  assert.equal(new Set(jobs.map((job) => job.id)).size, 1);
  await cancelJob(db, jobs[0]?.id ?? '');
  const next = await enqueue(db, add, { a: 1, b: 2 }, { dedupeKey: 'grade s-1' });
  assert.notEqual(next.id, jobs[0]?.id);
});

test('500 jobs are run once each by 3 workers, the urgent ones first', async () => {
  const store = await pg.freshStore();
  const ran: number[] = [];
  const count = defineJob({
    kind: 'test.count',
    args: z.strictObject({ n: z.int() }),
    result: z.int(),
    async run(_, { n }) {
      ran.push(n);
      return n;
    },
  });
  const ids = await transaction(store.db, async (tx) => {
    const list: string[] = [];
    for (let n = 0; n < 500; n += 1)
      list.push((await enqueue(tx, count, { n }, { priority: n >= 490 ? 1 : 0 })).id);
    return list;
  });
  const workers = [1, 2, 3].map(() => createWorker({ store, jobs: [count], slots: 3, log }));
  const ended = await waitForJobs(store, ids);
  await Promise.all(workers.map((worker) => worker.stop()));
  assert.ok(ended.every((job, n) => job.state === 'done' && job.attempt === 1 && job.result === n));
  assert.deepEqual(
    [...ran].sort((a, b) => a - b),
    Array.from({ length: 500 }, (_, n) => n),
  );
  // Nine slots: what was taken together with the last urgent ones may come before those.
  assert.equal(ran.slice(0, 19).filter((n) => n >= 490).length, 10);
});

test('a job that is not due yet waits', async () => {
  await using t = await withWorker({ jobs: [add] });
  const later = await enqueue(t.db, add, { a: 1, b: 1 }, { runAfter: new Date(Date.now() + 3_600_000) });
  const now = await enqueue(t.db, add, { a: 1, b: 1 });
  await waitForJob(t.store, now.id);
  assert.equal((await waitForJob(t.store, later.id, { limitMs: 50 })).state, 'queued');
});

test('a worker that shuts down gives its jobs back, uncounted, and another goes on from the checkpoint', async () => {
  const resume = defineJob({
    kind: 'test.resume',
    args: z.strictObject({}),
    result: z.unknown(),
    async run({ job, signal, checkpoint }) {
      if (job.checkpoint !== null) return job.checkpoint;
      await checkpoint({ reached: 7 });
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    },
  });
  await using t = await withWorker({ jobs: [resume] });
  const { id } = await enqueue(t.db, resume, {}, { maxAttempts: 1 });
  await until(5000, 'the checkpoint', async () =>
    (await selectJob(t.db, id)).checkpoint === null ? undefined : true,
  );
  await t.worker.stop();
  const given = await selectJob(t.db, id);
  assert.deepEqual([given.state, given.failures, given.losses], ['queued', 0, 0]);
  const other = createWorker({ store: t.store, jobs: [resume] });
  const ended = await waitForJob(t.store, id);
  await other.stop();
  assert.deepEqual([ended.state, ended.result, ended.attempt], ['done', { reached: 7 }, 2]);
});

test('waiting has a limit and can be given up', async () => {
  const store = await pg.freshStore();
  const { id } = await enqueue(store.db, add, { a: 1, b: 1 });
  assert.equal((await waitForJob(store, id, { limitMs: 20 })).state, 'queued');
  await assert.rejects(waitForJob(store, id, { signal: AbortSignal.timeout(20) }), { name: 'TimeoutError' });
  await assert.rejects(waitForJob(store, 'j-000000000000'), { code: 'not_found' });
});

test('ended jobs are purged when they are old, with their logs; others stay', async () => {
  const store = await pg.freshStore();
  const { db } = store;
  const old = await enqueue(db, add, { a: 1, b: 1 });
  const fresh = await enqueue(db, add, { a: 1, b: 1 });
  const waiting = await enqueue(db, add, { a: 1, b: 1 });
  await cancelJob(db, old.id);
  await cancelJob(db, fresh.id);
  await db.insertInto('job_logs').values({ job_id: old.id, line: 'x' }).execute();
  const eightDaysAgo = new Date(Date.now() - 8 * 24 * 3_600_000);
  await db.updateTable('jobs').set({ ended_at: eightDaysAgo }).where('id', '=', old.id).execute();
  const log = createLogger({ level: 'warn', write: (line) => assert.fail(line) });
  await startUpkeep({ db, log }).stop();
  const left = await db.selectFrom('jobs').select('id').orderBy('seq').execute();
  assert.deepEqual(left, [{ id: fresh.id }, { id: waiting.id }]);
  assert.deepEqual(await db.selectFrom('job_logs').selectAll().execute(), []);
});
