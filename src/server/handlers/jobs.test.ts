import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { z } from 'zod';
import { sleep } from '#base/deadline.ts';
import { newId } from '#base/ids.ts';
import { gradeSubmissionKind } from '#classroom/kinds.ts';
import { enqueue } from '#jobs/queue.ts';
import { defineJob } from '#jobs/types.ts';
import { createWorker, type Worker } from '#jobs/worker.ts';
import { json } from '#store/columns.ts';
import { insertCourse } from '#store/courses.ts';
import { upsertMember } from '#store/members.ts';
import type { TestCluster } from '#store/testing.ts';
import { startTestCluster, startTestServer, type Person, type TestServer } from '../testing.ts';

const work = defineJob({
  kind: 'test.work',
  args: z.strictObject({ ms: z.int() }),
  result: z.strictObject({ ok: z.boolean() }),
  async run({ signal, log, progress, step }, { ms }) {
    log('begun');
    step('first half');
    step('second half');
    progress(1, 2, 'halves');
    await sleep(ms, signal);
    return { ok: true };
  },
});

let cluster: TestCluster;
let server: TestServer;
let worker: Worker;
let ada: Person;

before(async () => {
  cluster = await startTestCluster();
  server = await startTestServer(cluster);
  worker = createWorker({ store: server.store, jobs: [work] });
  ada = await server.person('ada');
});
after(async () => {
  await worker.stop();
  await server.close();
  await cluster.close();
});

const start = (ms: number) => enqueue(server.store.db, work, { ms }, { requester: ada.id });

test('?wait= answers when the job has ended', async () => {
  const { id } = await start(150);
  const job = await ada.client.getJob({ params: { job: id }, query: { wait: 30 } });
  assert.equal(job.state, 'done');
  assert.deepEqual(job.result, { ok: true });
  assert.equal(job.requester, 'ada');
});

test('?wait= gives up in time, and the job goes on', async () => {
  const { id } = await start(3000);
  const job = await ada.client.getJob({ params: { job: id }, query: { wait: 0.2 } });
  assert.ok(['queued', 'running'].includes(job.state));
  const cancelled = await ada.client.cancelJob({ params: { job: id } });
  assert.ok(['running', 'cancelled'].includes(cancelled.state));
  const end = await ada.client.getJob({ params: { job: id }, query: { wait: 10 } });
  assert.equal(end.state, 'cancelled');
});

test('a job says what it did', async () => {
  const { id } = await start(10);
  await ada.client.getJob({ params: { job: id }, query: { wait: 10 } });
  const { lines } = await ada.client.getJobLog({ params: { job: id } });
  assert.deepEqual(
    lines.map(({ line }) => line),
    ['begun'],
  );
});

test('a job tells its steps, the request that asked for it, and its children', async () => {
  const { db } = server.store;
  const parent = await enqueue(db, work, { ms: 1 }, { requester: ada.id, requestId: 'r-asked' });
  const child = await enqueue(db, work, { ms: 1 }, { requester: ada.id, parentId: parent.id });
  const ended = await ada.client.getJob({ params: { job: parent.id }, query: { wait: 10 } });
  await ada.client.getJob({ params: { job: child.id }, query: { wait: 10 } });
  assert.equal(ended.requestId, 'r-asked');
  assert.equal(ended.step, 'second half');
  assert.deepEqual(
    ended.steps.map(({ name }) => name),
    ['first half', 'second half'],
  );
  const { items } = await ada.client.listJobs({ params: {}, query: { parent: parent.id } });
  assert.deepEqual(
    items.map(({ id, parentId }) => [id, parentId]),
    [[child.id, parent.id]],
  );
  const eve = await server.person('eavesdropper');
  assert.deepEqual(
    (await eve.client.listJobs({ params: {}, query: { parent: parent.id } })).items,
    [],
    'a job of somebody else has none',
  );
});

test('jobs are listed newest first, one’s own only', async () => {
  const { id } = await start(1);
  const { items, next } = await ada.client.listJobs({ params: {}, query: { limit: 1 } });
  assert.equal(items[0]?.id, id);
  assert.ok(next !== null);
  const older = await ada.client.listJobs({ params: {}, query: { cursor: next, limit: 1 } });
  assert.ok(older.items[0] && older.items[0].id !== id);
  const eve = await server.person('eve');
  assert.deepEqual((await eve.client.listJobs({ params: {} })).items, []);
});

test('what a grading job says of hidden checks is for the staff, not for its student', async () => {
  const { db } = server.store;
  const [ina, sam] = [await server.person('ina'), await server.person('sam')];
  const course = await insertCourse(db, { name: 'os', title: 'OS', created_by: ina.id });
  await upsertMember(db, { course_id: course.id, user_id: ina.id, role: 'instructor' });
  await upsertMember(db, { course_id: course.id, user_id: sam.id, role: 'student' });
  const job = newId('job');
  await db
    .insertInto('jobs')
    .values({
      id: job,
      kind: gradeSubmissionKind.kind,
      args: json<unknown>({}),
      requester: sam.id,
      resources: json([`/v1/courses/${course.id}`]),
      state: 'done',
      ended_at: new Date(),
      result: json<unknown>({ points: 7 }),
    })
    .execute();
  await db.insertInto('job_logs').values({ job_id: job, line: 'hidden-check: failed' }).execute();
  const params = { job };
  assert.deepEqual((await ina.client.getJob({ params })).result, { points: 7 });
  assert.equal((await ina.client.getJobLog({ params })).lines.length, 1);
  assert.equal((await sam.client.getJob({ params })).result, null);
  assert.equal((await sam.client.listJobs({ params: {} })).items[0]?.result, null);
  await assert.rejects(sam.client.getJobLog({ params }), /for the staff/);
});
