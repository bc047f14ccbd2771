import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, test } from 'node:test';
import * as fc from 'fast-check';
import { sql } from 'kysely';
import { json, jsonText } from './columns.ts';
import { transaction } from './database.ts';
import { insertEvent, selectEventsAfter } from './events.ts';
import {
  insertGrade,
  insertRegrade,
  selectGrades,
  selectOptionalCurrentGrade,
  undoRegrade,
} from './grades.ts';
import { claimIdempotency, finishIdempotency } from './idempotency.ts';
import { insertLabVersion, selectLabVersion } from './labs.ts';
import { insertMachine, updateMachine } from './machines.ts';
import { selectOptionalMember, upsertMember } from './members.ts';
import type { Db } from './schema.ts';
import { insertSubmission, type Submission } from './submissions.ts';
import { makeLab } from './testing-rows.ts';
import { startTestCluster } from './testing.ts';
import { insertToken, revokeToken, selectOptionalUserByTokenHash } from './tokens.ts';
import { insertUser, selectOptionalUserByName } from './users.ts';

const pg = await startTestCluster();
after(() => pg.close());

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();

async function submit(db: Db, labId: string, userId: string): Promise<Submission> {
  const files = [{ path: 'a.py', hash: 'bb', bytes: 3 }];
  return transaction(db, (tx) => insertSubmission(tx, { labId, userId, treeHash: 'cc', files, bytes: 3 }));
}

test('a user name is taken whatever its case', async () => {
  const { db } = await pg.freshStore();
  const ada = await insertUser(db, { name: 'Ada' });
  await assert.rejects(insertUser(db, { name: 'aDA' }), { code: 'name_taken' });
  assert.equal((await selectOptionalUserByName(db, 'ADA'))?.id, ada.id);
});

test('a token works until it expires, is revoked, or its user is disabled', async () => {
  const { db } = await pg.freshStore();
  const user = await insertUser(db, { name: 'ada' });
  const token = await insertToken(db, { user_id: user.id, hash: sha256('one') });
  await insertToken(db, { user_id: user.id, hash: sha256('old'), expires_at: new Date(Date.now() - 1000) });
  assert.deepEqual(await selectOptionalUserByTokenHash(db, sha256('one')), { tokenId: token.id, user });
  assert.equal(await selectOptionalUserByTokenHash(db, sha256('old')), undefined);
  assert.equal(await selectOptionalUserByTokenHash(db, sha256('other')), undefined);
  await assert.rejects(revokeToken(db, 'u-000000000000', token.id), { code: 'not_found' });
  await revokeToken(db, user.id, token.id);
  assert.equal(await selectOptionalUserByTokenHash(db, sha256('one')), undefined);
});

test('a member added again has the new role', async () => {
  const { db } = await pg.freshStore();
  const { user, courseId } = await makeLab(db);
  await upsertMember(db, { course_id: courseId, user_id: user.id, role: 'student', section: 'A' });
  await upsertMember(db, { course_id: courseId, user_id: user.id, role: 'ta' });
  const member = await selectOptionalMember(db, courseId, user.id);
  assert.deepEqual([member?.role, member?.section], ['ta', null]);
});

test('a lab version is added beside the old one', async () => {
  const { db } = await pg.freshStore();
  const { user, labId } = await makeLab(db);
  const content = { title: 'First, mended', spec: [1, 2], treeHash: 'dd', createdBy: user.id };
  const lab = await transaction(db, (tx) => insertLabVersion(tx, labId, content));
  assert.deepEqual([lab.version, lab.etag, lab.title], [2, 2, 'First, mended']);
  assert.deepEqual((await selectLabVersion(db, labId, 1)).spec, { checks: [] });
  assert.deepEqual((await selectLabVersion(db, labId, 2)).spec, [1, 2]);
});

test('parallel submissions get attempts 1 to n, and none can be changed afterwards', async () => {
  const { db } = await pg.freshStore();
  const { user, labId } = await makeLab(db);
  const made = await Promise.all(Array.from({ length: 20 }, () => submit(db, labId, user.id)));
  assert.deepEqual(
    made.map((row) => row.attempt).sort((a, b) => a - b),
    Array.from({ length: 20 }, (_, n) => n + 1),
  );
  for (const change of [
    "submitted_at = now() + interval '1 day'",
    "tree_hash = 'ff'",
    "files = '[]'",
    'attempt = 99',
  ])
    await assert.rejects(sql.raw(`update submissions set ${change}`).execute(db), /is a fact/);
});

test('there is one current grade per submission, whoever grades at the same time', async () => {
  const { db } = await pg.freshStore();
  const { user, labId } = await makeLab(db);
  const { id: submissionId } = await submit(db, labId, user.id);
  const grade = (jobId: string, points: number, labVersion = 1) =>
    transaction(db, (tx) =>
      insertGrade(tx, {
        submissionId,
        labVersion,
        jobId,
        state: 'graded',
        points,
        maxPoints: 10,
        checks: [],
      }),
    );
  await Promise.all(Array.from({ length: 10 }, (_, n) => grade(`j-${n}`, n + 0.5)));
  const replayed = await grade('j-3', 99);
  assert.equal(replayed.points, 3.5);
  const grades = await selectGrades(db, submissionId);
  assert.equal(grades.length, 10);
  assert.equal(grades.filter((row) => row.current).length, 1);
  assert.equal(grades.filter((row) => row.superseded_by === null).length, 1);
  await grade('j-new', 8, 2);
  const late = await grade('j-late', 1, 1);
  assert.equal(late.current, false);
  assert.equal((await selectOptionalCurrentGrade(db, submissionId))?.points, 8);
});

test('a regrade can be undone, again without harm, and leaves later grades alone', async () => {
  const { db } = await pg.freshStore();
  const { user, labId } = await makeLab(db);
  const submissions = [await submit(db, labId, user.id), await submit(db, labId, user.id)];
  const regrade = await insertRegrade(db, {
    lab_id: labId,
    requested_by: user.id,
    lab_version: 1,
    scope: 'all',
  });
  const grade = (submissionId: string, points: number, regradeId: string | null) =>
    transaction(db, (tx) =>
      insertGrade(tx, {
        submissionId,
        labVersion: 1,
        jobId: null,
        regradeId,
        state: 'graded',
        points,
        maxPoints: 10,
        checks: [],
      }),
    );
  for (const { id } of submissions) await grade(id, 4, null);
  for (const { id } of submissions) await grade(id, 6, regrade.id);
  await grade(submissions[1]?.id ?? '', 9, null);
  const points = () =>
    Promise.all(submissions.map(async ({ id }) => (await selectOptionalCurrentGrade(db, id))?.points));
  assert.deepEqual(await points(), [6, 9]);
  assert.equal(await transaction(db, (tx) => undoRegrade(tx, regrade.id)), 1);
  assert.deepEqual(await points(), [4, 9]);
  assert.equal(await transaction(db, (tx) => undoRegrade(tx, regrade.id)), 0);
  assert.deepEqual(await points(), [4, 9]);
});

test('a machine name is free again when the machine is deleted, and gen moves with every change', async () => {
  const { db } = await pg.freshStore();
  const { user } = await makeLab(db);
  const values = { name: 'web', owner_id: user.id, driver: 'container', labels: json({ team: 'a' }) };
  const machine = await insertMachine(db, values);
  assert.deepEqual([machine.gen, machine.labels], [1, { team: 'a' }]);
  await assert.rejects(insertMachine(db, values), { code: 'name_taken' });
  assert.equal((await updateMachine(db, machine.id, { deleted_at: new Date() })).gen, 2);
  await insertMachine(db, values);
});

test('events are numbered in the order in which they become visible: a reader never misses one', async () => {
  const { db } = await pg.freshStore();
  const total = 120;
  const seen: string[] = [];
  let last = 0;
  const written = new AbortController();
  const read = async (): Promise<void> => {
    for (const event of await selectEventsAfter(db, last)) {
      seen.push(event.kind);
      last = event.seq;
    }
  };
  const reader = (async () => {
    while (!written.signal.aborted) await read();
  })();
  const writer = async (_: unknown, n: number): Promise<void> => {
    await transaction(db, async (tx) => {
      await insertEvent(tx, { kind: `e${n}` });
      await sql`select pg_sleep(${(n * 7) % 5} * 0.003)`.execute(tx);
    });
  };
  await Promise.all(Array.from({ length: total }).map(writer));
  written.abort();
  await reader;
  await read();
  assert.equal(seen.length, total);
  assert.equal(new Set(seen).size, total);
});

test('a replayed key gets the first answer; a parallel one waits for it; another body is refused', async () => {
  const { db } = await pg.freshStore();
  const request = { userId: 'u-1', key: 'k', bodyHash: 'x' };
  let done = 0;
  const handle = () =>
    transaction(db, async (tx) => {
      const first = await claimIdempotency(tx, request);
      if (first) return first.response;
      done += 1;
      await sql`select pg_sleep(0.02)`.execute(tx);
      await finishIdempotency(tx, request, { status: 202, response: { done }, jobId: 'j-1' });
      return { done };
    });
  assert.deepEqual(await Promise.all([handle(), handle(), handle()]), [
    { done: 1 },
    { done: 1 },
    { done: 1 },
  ]);
  const other = transaction(db, (tx) => claimIdempotency(tx, { ...request, bodyHash: 'y' }));
  await assert.rejects(other, { code: 'idempotency_mismatch' });
  await db
    .updateTable('idempotency')
    .set({ expires_at: new Date(Date.now() - 1) })
    .execute();
  assert.deepEqual(await handle(), { done: 2 });
});

test('any JSON value, arrays and hostile strings too, comes back from a jsonb column', async () => {
  const { db } = await pg.freshStore();
  const property = fc.asyncProperty(fc.jsonValue({ stringUnit: 'binary' }), async (value) => {
    const { rows } = await sql<{ back: unknown }>`select ${jsonText(value)}::jsonb as back`.execute(db);
    assert.deepEqual(rows[0]?.back, JSON.parse(jsonText(value)));
  });
  await fc.assert(property, { numRuns: 200 });
  const { rows } = await sql<{
    back: unknown;
  }>`select ${json([1, { a: '\u0000\uD800' }])}::jsonb as back`.execute(db);
  assert.deepEqual(rows[0]?.back, [1, { a: '\uFFFD\uFFFD' }]);
});

function raised(state: string) {
  return sql.raw(`do $$ begin raise exception 'x' using errcode = '${state}'; end $$`);
}

test('what PostgreSQL refuses becomes an error of ours where that says more', async () => {
  const { db } = await pg.freshStore({ statementMs: 50, lockMs: 20 });
  await assert.rejects(raised('53100').execute(db), { code: 'disk_full' });
  await assert.rejects(raised('57P01').execute(db), { code: 'unavailable' });
  await assert.rejects(raised('23505').execute(db), { code: '23505' });
  await assert.rejects(sql`select pg_sleep(5)`.execute(db), { code: 'deadline_exceeded' });
  await assert.rejects(sql`select ${'a\0b'}`.execute(db), { code: 'invalid_request' });
  await transaction(db, async (tx) => {
    await sql`lock table users`.execute(tx);
    await assert.rejects(insertUser(db, { name: 'ada' }), { code: 'unavailable', message: /another change/ });
  });
});

test('a count that a number cannot hold is an error, not a wrong number', async () => {
  const { db } = await pg.freshStore();
  await assert.rejects(sql`select 9007199254740993::bigint`.execute(db), RangeError);
});
