/**
 * kill -9 at random moments while submissions are graded: of the daemon, a worker, the database, the fork server.
 * What was acknowledged is never lost, never made twice, never changed, and every mark is what the solution
 * deserves.
 *
 *   CARREL_CHAOS_SEED=7 CARREL_CHAOS_ROUNDS=300 node --test test/chaos.e2e.test.ts
 */
import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { sleep, until } from '#base/deadline.ts';
import { isCarrelError, messageOf } from '#base/errors.ts';
import { collectFiles, pack } from '#cli/archive.ts';
import type { Submission } from '#contract/schemas/labs.ts';
import type { Store } from '#store/database.ts';
import { sql } from 'kysely';
import { childOf, startCloud, whyNoCloud, type Cloud, type Person } from './harness/cloud.ts';

const skip = whyNoCloud() ?? false;
const seed = Number(process.env['CARREL_CHAOS_SEED'] ?? Math.floor(Math.random() * 1e9));
const rounds = Number(process.env['CARREL_CHAOS_ROUNDS'] ?? 30);
/** Submissions that wait or are being graded whenever something is killed. */
const inFlight = 50;
const checkEvery = 10;
const students = 5;

const folderOf = (lab: string): string => fileURLToPath(new URL(`labs/${lab}`, import.meta.url));

interface Solution {
  readonly lab: string;
  readonly name: string;
  /** The points it deserves. */
  readonly points: number;
}

/** Drawn from with equal chances: three quarters in sandboxes, a quarter in machines. */
const solutions: readonly Solution[] = [
  { lab: 'arithmetic', name: 'right', points: 6 },
  { lab: 'arithmetic', name: 'right', points: 6 },
  { lab: 'arithmetic', name: 'no-square', points: 4 },
  { lab: 'arithmetic', name: 'no-square', points: 4 },
  { lab: 'arithmetic', name: 'only-double', points: 1 },
  { lab: 'arithmetic', name: 'only-double', points: 1 },
  { lab: 'left-running', name: 'both', points: 5 },
  { lab: 'left-running', name: 'one', points: 2 },
];

/** mulberry32: small, and the same everywhere. */
function randomFrom(state: number): () => number {
  let a = state;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What the client may meet while something is killed; anything else is a fault. */
function isPassing(error: unknown): boolean {
  return (
    isCarrelError(error, 'unavailable') ||
    isCarrelError(error, 'deadline_exceeded') ||
    (isCarrelError(error, 'wrong_state') && error.message.includes('Idempotency-Key'))
  );
}

/** Repeats a call through deaths; how often it had to is part of the story. */
async function persist<T>(what: string, call: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const end = performance.now() + 90_000;
  for (;;) {
    try {
      return await call(AbortSignal.timeout(15_000));
    } catch (error) {
      const slow = error instanceof Error && error.name === 'TimeoutError';
      if (!slow && !isPassing(error)) throw error;
      if (performance.now() > end)
        throw new Error(`${what} was not to be had in 90 s: ${messageOf(error)}`, { cause: error });
    }
    await sleep(100);
  }
}

interface Acknowledged {
  readonly receipt: Submission;
  readonly solution: Solution;
}

/** What never changes again. */
function receiptOf({ id, user, attempt, submittedAt, treeHash, bytes, files }: Submission): unknown {
  return { id, user, attempt, submittedAt, treeHash, bytes, files };
}

interface Worker extends AsyncDisposable {
  readonly pid: number | undefined;
}

/** `carrel worker`, started again whenever it ends. */
function keepWorker(cloud: Cloud): Worker {
  const program = fileURLToPath(new URL('../carrel', import.meta.url));
  let child: ChildProcess | undefined;
  const stopping = new AbortController();
  const log = openSync(join(cloud.directory, 'log', 'worker.log'), 'a', 0o600);
  const loop = (async () => {
    while (!stopping.signal.aborted) {
      child = spawn(program, ['worker', '--data', cloud.directory], {
        stdio: ['ignore', log, log],
        env: { ...process.env, CARREL_SKIP_SETUP: '1' },
      });
      await once(child, 'exit');
      if (!stopping.signal.aborted) await sleep(100);
    }
  })();
  return {
    get pid() {
      return child?.pid === undefined ? undefined : childOf(child.pid, '--data');
    },
    async [Symbol.asyncDispose]() {
      stopping.abort();
      child?.kill('SIGTERM');
      await loop;
      closeSync(log);
    },
  };
}

interface Course {
  /** Ids by name. */
  readonly labs: ReadonlyMap<string, string>;
  readonly people: readonly Person[];
}

async function makeCourse(cloud: Cloud): Promise<Course> {
  const { admin } = cloud;
  await admin.createCourse({ params: {}, body: { name: 'chaos', title: 'Chaos' } });
  const labs = new Map<string, string>();
  for (const name of new Set(solutions.map(({ lab }) => lab))) {
    const bytes = await pack(await collectFiles([folderOf(name)], folderOf(name)));
    const { id } = await admin.importLab({ params: { course: 'chaos' }, query: {}, bytes });
    await admin.changeLab({ params: { lab: id }, body: { released: true } });
    labs.set(name, id);
  }
  const people: Person[] = [];
  for (let number = 1; number <= students; number += 1) {
    const person = await cloud.person(`student-${number}`);
    const params = { course: 'chaos', user: person.name };
    await admin.setMember({ params, body: { role: 'student', section: null } });
    people.push(person);
  }
  return { labs, people };
}

async function archiveOf({ lab, name }: Solution): Promise<Uint8Array> {
  const directory = join(folderOf(lab), 'solutions', name);
  return await pack(await collectFiles([directory], directory));
}

/** Every acknowledged submission against the rows: one grade, current, deserved; none that nobody handed in. */
async function verifyRows({ db }: Store, acknowledged: ReadonlyMap<string, Acknowledged>): Promise<void> {
  const { rows } = await sql<{
    id: string;
    instant: Date;
    treeHash: string;
    attempt: number;
    grades: number;
    current: number;
    points: number | null;
    state: string | null;
    done: number;
    unfinished: number;
    failed: number;
    error: string | null;
  }>`
    select s.id, s.submitted_at as instant, s.tree_hash as "treeHash", s.attempt,
      (select count(*) from grades g where g.submission_id = s.id) as grades,
      (select count(*) from grades g where g.submission_id = s.id and g.current) as current,
      (select points from grades g where g.submission_id = s.id and g.current) as points,
      (select state from grades g where g.submission_id = s.id and g.current) as state,
      (select count(*) from jobs j where j.args->>'submissionId' = s.id and j.state = 'done') as done,
      (select count(*) from jobs j where j.args->>'submissionId' = s.id and j.ended_at is null) as unfinished,
      (select count(*) from jobs j where j.args->>'submissionId' = s.id and j.state in ('failed', 'cancelled')) as failed,
      (select max(format('%s, attempt %s, failures %s, losses %s', j.error, j.attempt, j.failures, j.losses))
        from jobs j where j.args->>'submissionId' = s.id and j.state in ('failed', 'cancelled')) as error
    from submissions s`.execute(db);
  assert.deepEqual(
    rows.map(({ id }) => id).toSorted(),
    [...acknowledged.keys()].toSorted(),
    'the submissions are those that were acknowledged: none lost, none made twice',
  );
  for (const row of rows) {
    const { receipt, solution } = acknowledged.get(row.id) ?? assert.fail();
    assert.deepEqual(
      { ...row, instant: row.instant.toISOString() },
      {
        id: receipt.id,
        instant: receipt.submittedAt,
        treeHash: receipt.treeHash,
        attempt: receipt.attempt,
        grades: 1,
        current: 1,
        points: solution.points,
        state: 'graded',
        done: 1,
        unfinished: 0,
        failed: 0,
        error: null,
      },
      `${row.id} (${solution.lab}/${solution.name})`,
    );
  }
}

/** Rows that stand for something that is not there. */
async function danglingRows({ db }: Store): Promise<Record<string, number>> {
  const { rows } = await sql<Record<string, number>>`
    select
      (select count(*) from jobs where state in ('queued', 'running')) as jobs,
      (select count(*) from machines where submission_id is not null and deleted_at is null) as "gradingMachines",
      (select count(*) from addresses a left join machines m on m.id = a.machine_id and m.deleted_at is null
        where m.id is null) as addresses,
      (select count(*) from machines where activity is not null) as activities,
      (select count(*) from images where state = 'building') as images`.execute(db);
  return rows[0] ?? assert.fail();
}

test(
  `${rounds} times something is killed while submissions are graded, and nothing is lost, made twice or marked wrong`,
  { skip, timeout: 540_000 + rounds * 10_000 },
  async (t) => {
    t.diagnostic(`CARREL_CHAOS_SEED=${seed}`);
    const random = randomFrom(seed);
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] ?? assert.fail();
    await using cloud = await startCloud();
    const { labs, people } = await makeCourse(cloud);
    const packed = new Map(
      await Promise.all(solutions.map(async (one) => [one, await archiveOf(one)] as const)),
    );
    const acknowledged = new Map<string, Acknowledged>();
    const kills: Record<string, number> = {};

    {
      await using worker = keepWorker(cloud);
      await cloud.untilWell();
      const before = await cloud.admin.createMachine({
        params: {},
        body: { name: 'survivor', image: 'busybox' },
      });
      const born = await cloud.admin.getJob({ params: { job: before.job.id }, query: { wait: 30 } });
      assert.equal(born.state, 'done', JSON.stringify(born.error));
      const bootOf = async (): Promise<string> => {
        const run = await persist('a command in the machine', (signal) =>
          cloud.admin.runInMachine(
            { params: { machine: 'survivor' }, body: { argv: ['stat', '-c', '%Y', '/proc/1'] } },
            { signal },
          ),
        );
        return Buffer.from(run.stdout, 'base64').toString();
      };
      const boot = await bootOf();
      let submitting = 0;

      /** Hands in until it is told to stop, so that there are always enough in flight. */
      const feed = async (person: Person, stop: AbortSignal): Promise<void> => {
        while (!stop.aborted) {
          const { items } = await persist('the list of jobs', (signal) =>
            cloud.admin.listJobs({ params: {}, query: { kind: 'submission.grade', limit: 500 } }, { signal }),
          );
          const open = items.filter(({ finishedAt }) => finishedAt === null).length;
          const missing = Math.ceil((inFlight - open) / students);
          for (let number = 0; number < missing && !stop.aborted; number += 1) {
            const solution = pick(solutions);
            const idempotencyKey = crypto.randomUUID();
            submitting += 1;
            const { submission } = await persist('a submission', (signal) =>
              person.client.submit(
                {
                  params: { lab: labs.get(solution.lab) ?? '' },
                  bytes: packed.get(solution) ?? assert.fail(),
                },
                { idempotencyKey, signal },
              ),
            );
            submitting -= 1;
            assert.ok(!acknowledged.has(submission.id), 'two requests made one submission');
            acknowledged.set(submission.id, { receipt: submission, solution });
          }
          await sleep(100);
        }
      };

      const settle = async (): Promise<void> => {
        await cloud.untilWell();
        await until(
          180_000,
          'every submission to be graded',
          async () => {
            const { items } = await persist('the list of jobs', (signal) =>
              cloud.admin.listJobs(
                { params: {}, query: { kind: 'submission.grade', limit: 500 } },
                { signal },
              ),
            );
            return items.every(({ finishedAt }) => finishedAt !== null) ? true : undefined;
          },
          { everyMs: 200 },
        );
        await until(30_000, 'the machines of dead workers to be gone', async () => {
          const rows = await danglingRows(cloud.store());
          return Number(rows['gradingMachines']) === 0 ? true : undefined;
        });
        await verifyRows(cloud.store(), acknowledged);
        assert.equal(await bootOf(), boot, 'the machine lives on, with the same first process');
      };

      for (let done = 0; done < rounds;) {
        const stopping = new AbortController();
        using _ = { [Symbol.dispose]: () => stopping.abort() };
        const feeders = Promise.all(people.map((person) => feed(person, stopping.signal)));
        feeders.catch(() => undefined);
        const enough = acknowledged.size + inFlight;
        await until(60_000, 'submissions in flight', () => (acknowledged.size >= enough ? true : undefined));
        const some = Math.min(checkEvery, rounds - done);
        for (let round = 0; round < some; round += 1) {
          await sleep(200 + random() * 2000);
          const victim = pick(['daemon', 'worker', 'postmaster', 'forkServer'] as const);
          const pid = await until(
            60_000,
            `a ${victim} to kill`,
            () => (victim === 'worker' ? worker.pid : cloud.pids()[victim]),
            { everyMs: 20 },
          );
          kills[victim] = (kills[victim] ?? 0) + 1;
          process.kill(pid, 'SIGKILL');
        }
        done += some;
        stopping.abort();
        await feeders;
        assert.equal(submitting, 0);
        await settle();
        t.diagnostic(`after ${done} kills: ${acknowledged.size} submissions, all graded as they deserve`);
      }
      const again = await Promise.all(
        [...acknowledged.keys()].map((submission) => cloud.admin.getSubmission({ params: { submission } })),
      );
      for (const seen of again) {
        const { receipt } = acknowledged.get(seen.id) ?? assert.fail();
        assert.deepEqual(receiptOf(seen), receiptOf(receipt));
        assert.equal(seen.grading, 'graded');
      }
      const gone = await cloud.admin.deleteMachine({ params: { machine: 'survivor' } });
      await cloud.admin.getJob({ params: { job: gone.job.id }, query: { wait: 30 } });
    }
    t.diagnostic(`killed: ${JSON.stringify(kills)}`);

    assert.deepEqual(await cloud.down(), [], 'nothing dangles');
    await cloud.withRows(async (store) => {
      assert.deepEqual(await danglingRows(store), {
        jobs: 0,
        gradingMachines: 0,
        addresses: 0,
        activities: 0,
        images: 0,
      });
      await verifyRows(store, acknowledged);
    });
  },
);

after(() => {
  if (!skip) process.stderr.write(`CARREL_CHAOS_SEED=${seed}\n`);
});
