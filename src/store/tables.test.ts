import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, test } from 'node:test';
import * as fc from 'fast-check';
import { sql } from 'kysely';
import { gatewayOfNumber, numbered } from '#base/numbered.ts';
import { allocateAddress, releaseAddresses } from './addresses.ts';
import { json, jsonText } from './columns.ts';
import { insertCourse } from './courses.ts';
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
import { insertLab, insertLabVersion, selectLabVersion } from './labs.ts';
import { allocateUidSlot, insertMachine, updateMachine } from './machines.ts';
import { selectOptionalMember, upsertMember } from './members.ts';
import { deleteNetwork, insertNetwork, lockEmptyNetwork, selectNetworkByName } from './networks.ts';
import type { Db } from './schema.ts';
import { insertSubmission, type Submission } from './submissions.ts';
import { startTestCluster } from './testing.ts';
import { insertToken, revokeToken, selectOptionalUserByTokenHash } from './tokens.ts';
import { insertUser, selectOptionalUserByName, type User } from './users.ts';

const pg = await startTestCluster();
after(() => pg.close());

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();

async function makeLab(db: Db): Promise<{ user: User; labId: string; courseId: string }> {
  const user = await insertUser(db, { name: 'Ada' });
  const course = await insertCourse(db, { name: 'os', title: 'Operating systems', created_by: user.id });
  const content = { title: 'First', spec: { checks: [] }, treeHash: 'aa', createdBy: user.id };
  const lab = await transaction(db, (tx) =>
    insertLab(tx, { courseId: course.id, name: 'first', ...content }),
  );
  return { user, labId: lab.id, courseId: course.id };
}

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

test('50 parallel machines get the 50 lowest addresses and id ranges, and freed ones are given again', async () => {
  const { db } = await pg.freshStore();
  const { user } = await makeLab(db);
  const network = await selectNetworkByName(db);
  let runs = 0;
  const made = await Promise.all(
    Array.from({ length: 50 }, (_, n) =>
      transaction(db, async (tx) => {
        runs += 1;
        const facts = { name: `m${n}`, owner_id: user.id, driver: 'container', network_id: network.id };
        const machine = await insertMachine(tx, facts);
        const slot = await allocateUidSlot(tx, machine.id);
        const address = await allocateAddress(tx, network.id, machine.id);
        return { id: machine.id, address, slot };
      }),
    ),
  );
  assert.equal(runs, 50, 'they wait for each other, and none is done again after a deadlock');
  const numbers = made.map(({ address }) => Number(address.split('.')[3])).sort((a, b) => a - b);
  assert.deepEqual(
    numbers,
    Array.from({ length: 50 }, (_, n) => n + 2),
  );
  assert.deepEqual(
    made.map(({ slot }) => slot).sort((a, b) => a - b),
    Array.from({ length: 50 }, (_, n) => n),
  );
  const middle = made.find(({ address }) => address === '192.168.0.20');
  assert.ok(middle);
  await releaseAddresses(db, middle.id);
  await updateMachine(db, middle.id, { uid_slot: null });
  const again = made.find(({ address }) => address === '192.168.0.7');
  assert.ok(again);
  const kept = await transaction(db, (tx) => allocateAddress(tx, network.id, again.id));
  assert.equal(kept, '192.168.0.7');
  const fresh = await insertMachine(db, { name: 'fresh', owner_id: user.id, driver: 'container' });
  assert.equal(await transaction(db, (tx) => allocateAddress(tx, network.id, fresh.id)), '192.168.0.20');
  assert.equal(await transaction(db, (tx) => allocateUidSlot(tx, fresh.id)), middle.slot);
  assert.equal(await transaction(db, (tx) => allocateUidSlot(tx, fresh.id)), middle.slot);
});

test('addresses are the lowest free ones in any order of taking and freeing, until the network is full', async () => {
  const { db } = await pg.freshStore();
  const { user } = await makeLab(db);
  // .0 network, .1 gateway, .2 to .14 for machines, .15 broadcast
  const network = await transaction(db, (tx) =>
    insertNetwork(tx, { name: 'small', cidr: '10.9.0.16/28', gateway: '10.9.0.17' }),
  );
  const last = 16 + 14;
  // a smaller network inside, whose four addresses are its own
  await db
    .insertInto('networks')
    .values({ id: 'n-inner', name: 'inner', bridge: 'b-inner', cidr: '10.9.0.20/30', gateway: '10.9.0.21' })
    .execute();
  const foreign = new Set([20, 21, 22, 23]);
  const taken = new Map<number, string>();
  let count = 0;
  const property = fc.asyncProperty(fc.array(fc.nat(40), { maxLength: 40 }), async (choices) => {
    for (const choice of choices) {
      const victim = [...taken][choice];
      if (victim) {
        await releaseAddresses(db, victim[1]);
        taken.delete(victim[0]);
        continue;
      }
      count += 1;
      const machine = await insertMachine(db, { name: `m${count}`, owner_id: user.id, driver: 'container' });
      let lowest = 18;
      while (taken.has(lowest) || foreign.has(lowest)) lowest += 1;
      const address = transaction(db, (tx) => allocateAddress(tx, network.id, machine.id));
      if (lowest > last) await assert.rejects(address, { code: 'no_capacity' });
      else {
        assert.equal(await address, `10.9.0.${lowest}`);
        taken.set(lowest, machine.id);
      }
    }
  });
  await fc.assert(property, { numRuns: 15 });
});

test('in the routed layout a machine gets the number it asks for, or the lowest free one', async () => {
  const { db } = await pg.freshStore();
  const { user } = await makeLab(db);
  const values = {
    name: 'numbered',
    cidr: numbered.cidr,
    gateway: gatewayOfNumber(numbered.first),
    layout: 'routed' as const,
  };
  const network = await transaction(db, (tx) => insertNetwork(tx, values));
  let count = 0;
  const taken = new Map<number, string>();
  const property = fc.asyncProperty(
    fc.array(
      fc.record({
        number: fc.option(fc.integer({ min: -1, max: 9 }), { nil: undefined }),
        free: fc.boolean(),
      }),
      {
        maxLength: 30,
      },
    ),
    async (steps) => {
      for (const { number, free } of steps) {
        const [victim] = taken;
        if (free && victim) {
          await releaseAddresses(db, victim[1]);
          taken.delete(victim[0]);
          continue;
        }
        count += 1;
        const { id } = await insertMachine(db, { name: `r${count}`, owner_id: user.id, driver: 'qemu' });
        let wanted = number ?? numbered.first;
        if (number === undefined) while (taken.has(wanted)) wanted += 1;
        const address = transaction(db, (tx) => allocateAddress(tx, network.id, id, { number }));
        if (wanted < numbered.first) await assert.rejects(address, { code: 'validation_failed' });
        else if (taken.has(wanted)) await assert.rejects(address, { code: 'name_taken' });
        else {
          assert.equal(await address, `192.168.${200 + wanted}.2`);
          taken.set(wanted, id);
        }
      }
    },
  );
  await fc.assert(property, { numRuns: 15 });
  const { id } = await insertMachine(db, { name: 'other', owner_id: user.id, driver: 'qemu' });
  const other = await selectNetworkByName(db);
  assert.equal(await transaction(db, (tx) => allocateAddress(tx, other.id, id)), '192.168.0.2');
  const numberless = transaction(db, (tx) => allocateAddress(tx, other.id, id, { number: 3 }));
  await assert.rejects(numberless, { code: 'validation_failed' });
});

test('no two networks share a range, but the numbered one lies inside the default one', async () => {
  const { db } = await pg.freshStore();
  const { user } = await makeLab(db);
  const make = (values: Parameters<typeof insertNetwork>[1]) =>
    transaction(db, (tx) => insertNetwork(tx, values));
  await assert.rejects(make({ name: 'inside', cidr: '192.168.7.0/24', gateway: '192.168.7.1' }), {
    code: 'name_taken',
  });
  const lab = await make({ name: 'lab', cidr: '10.9.0.0/24', gateway: '10.9.0.1' });
  await assert.rejects(make({ name: 'lab', cidr: '10.9.1.0/24', gateway: '10.9.1.1' }), /"lab" already/);
  await assert.rejects(make({ name: 'around', cidr: '10.0.0.0/8', gateway: '10.0.0.1' }), /overlaps/);
  const machine = await insertMachine(db, {
    name: 'm',
    owner_id: user.id,
    driver: 'qemu',
    network_id: lab.id,
  });
  await assert.rejects(
    transaction(db, (tx) => lockEmptyNetwork(tx, 'lab')),
    { code: 'wrong_state' },
  );
  await updateMachine(db, machine.id, { deleted_at: new Date() });
  await transaction(db, async (tx) => deleteNetwork(tx, (await lockEmptyNetwork(tx, 'lab')).id));
  await assert.rejects(selectNetworkByName(db, 'lab'), { code: 'not_found' });
  await assert.rejects(
    transaction(db, (tx) => lockEmptyNetwork(tx, 'default')),
    { code: 'wrong_state' },
  );

  const shape = {
    cidr: numbered.cidr,
    gateway: gatewayOfNumber(numbered.first),
    layout: 'routed' as const,
  };
  const home = await selectNetworkByName(db);
  const early = await insertMachine(db, { name: 'early', owner_id: user.id, driver: 'qemu' });
  await db
    .insertInto('addresses')
    .values({ network_id: home.id, address: '192.168.201.2', machine_id: early.id })
    .execute();
  await assert.rejects(make({ name: 'numbered', ...shape }), { code: 'wrong_state' });
  await releaseAddresses(db, early.id);
  await make({ name: 'numbered', ...shape });
  await assert.rejects(make({ name: 'again', ...shape }), { code: 'name_taken' });
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
