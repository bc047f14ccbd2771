/** Real workers in processes of their own, killed and stopped at bad moments. */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { sleep, until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import type { Store } from '#store/database.ts';
import { selectJob } from '#store/jobs.ts';
import type { Connection } from '#store/postmaster.ts';
import { startTestCluster } from '#store/testing.ts';
import { sql } from 'kysely';
import { z } from 'zod';
import { enqueue } from './queue.ts';
import { waitForJob, waitForJobs } from './wait.ts';

const pg = await startTestCluster();
const children = new Set<ChildProcess>();
after(async () => {
  await Promise.all([...children].map(kill));
  await pg.close();
});

const gated = { kind: 'test.gated', args: z.strictObject({ gate: z.string() }), result: z.int() };

async function startWorker(connection: Connection): Promise<ChildProcess & { readonly pid: number }> {
  const script = fileURLToPath(new URL('worker.child.ts', import.meta.url));
  const child = spawn(process.execPath, [script, JSON.stringify(connection)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  children.add(child);
  await once(child.stdout, 'data');
  const { pid } = child;
  assert.ok(pid !== undefined);
  return Object.assign(child, { pid });
}

async function kill(child: ChildProcess): Promise<void> {
  children.delete(child);
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}

/** Tables in which the workers leave traces, and every end of a job is counted. */
async function prepare(): Promise<Store & { readonly connection: Connection }> {
  const store = await pg.freshStore();
  await sql`
    create table gates (gate text primary key);
    create table started (job_id text, attempt int, pid int);
    create table endings (job_id text, state text);
    create function count_ending() returns trigger language plpgsql as $$
      begin insert into endings values (new.id, new.state); return null; end $$;
    create trigger count_ending after update on jobs for each row
      when (new.ended_at is not null) execute function count_ending();
  `.execute(store.db);
  return store;
}

/** Again with the same key when the answer was lost: what counts is that the acknowledged ones are done. */
async function enqueueSurely({ db }: Store, dedupeKey: string): Promise<string> {
  return until(20_000, 'the job to be queued', async () => {
    try {
      return (await enqueue(db, gated, { gate: 'g' }, { dedupeKey })).id;
    } catch (error) {
      if (!isCarrelError(error, 'unavailable')) throw error;
      return undefined;
    }
  });
}

async function open(store: Store, gate: string): Promise<void> {
  await sql`insert into gates values (${gate})`.execute(store.db);
}

async function startedBy(store: Store, jobId: string, attempt: number): Promise<number> {
  return until(20_000, `attempt ${attempt}`, async () => {
    const found = await sql<{ pid: number }>`
      select pid from started where job_id = ${jobId} and attempt = ${attempt}`.execute(store.db);
    return found.rows[0]?.pid;
  });
}

async function endings(store: Store): Promise<Map<string, number>> {
  const { rows } = await sql<{ job_id: string; count: number }>`
    select job_id, count(*) as count from endings group by job_id`.execute(store.db);
  return new Map(rows.map((row) => [row.job_id, row.count]));
}

test('kill -9 of a worker in the middle of a job: another one does it again, and it ends once', async (t) => {
  const store = await prepare();
  const first = await startWorker(store.connection);
  const { id } = await enqueue(store.db, gated, { gate: 'g' });
  assert.equal(await startedBy(store, id, 1), first.pid);
  const second = await startWorker(store.connection);
  await kill(first);
  const killed = performance.now();
  assert.equal(await startedBy(store, id, 2), second.pid);
  t.diagnostic(`taken again after ${Math.round(performance.now() - killed)} ms`);
  await open(store, 'g');
  const job = await waitForJob(store, id);
  assert.deepEqual(
    [job.state, job.result, job.attempt, job.losses, job.failures],
    ['done', second.pid, 2, 1, 0],
  );
  assert.deepEqual([...(await endings(store))], [[id, 1]]);
  await kill(second);
});

test('a worker that was frozen and comes back late cannot end a job that was taken over', async () => {
  const store = await prepare();
  const late = await startWorker(store.connection);
  const { id } = await enqueue(store.db, gated, { gate: 'g' });
  assert.equal(await startedBy(store, id, 1), late.pid);
  late.kill('SIGSTOP');
  const second = await startWorker(store.connection);
  assert.equal(await startedBy(store, id, 2), second.pid);
  await open(store, 'g');
  const job = await waitForJob(store, id);
  assert.equal(job.result, second.pid);
  late.kill('SIGCONT');
  // The late one ends its run now; give it time to try, then see it take new work as if nothing had been.
  await kill(second);
  const next = await enqueue(store.db, gated, { gate: 'g' });
  assert.equal((await waitForJob(store, next.id)).result, late.pid);
  assert.equal((await selectJob(store.db, id)).result, second.pid);
  assert.deepEqual(
    await endings(store),
    new Map([
      [id, 1],
      [next.id, 1],
    ]),
  );
  await kill(late);
});

test('workers and the server killed in turn while 60 jobs are done: every job ends once, none is lost', async () => {
  const store = await prepare();
  await open(store, 'g');
  const workers = [await startWorker(store.connection), await startWorker(store.connection)];
  const ids: string[] = [];
  for (let n = 0; n < 60; n += 1) {
    ids.push(await enqueueSurely(store, `key ${n}`));
    if (n % 20 === 10) {
      const victim = workers.shift();
      if (victim) await kill(victim);
      workers.push(await startWorker(store.connection));
    }
    if (n % 20 === 15) process.kill(pg.cluster.pid, 'SIGKILL');
    await sleep(5);
  }
  const jobs = await waitForJobs(store, ids, { limitMs: 40_000 });
  assert.deepEqual([...new Set(jobs.map((job) => job.state))], ['done']);
  const counts = await endings(store);
  assert.deepEqual([...new Set(ids.map((id) => counts.get(id)))], [1]);
  await Promise.all(workers.map(kill));
});
