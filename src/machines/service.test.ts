/** Life cycles: the verbs, what they refuse, who sees a machine, and what becomes of one that ends by itself. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Actor } from '#base/actor.ts';
import { until } from '#base/deadline.ts';
import { statOf } from '#host/processes.ts';
import { cancelJob } from '#jobs/queue.ts';
import { type ServiceBed, skip, useBed } from './service-bed.ts';
import { isCode, tryShell } from './testing-shell.ts';
import { type Bed, request } from './testing.ts';

let bed: Bed;
let anna: Actor;
let assertNothingLeft: ServiceBed['assertNothingLeft'];
useBed((opened) => {
  ({ bed, anna, assertNothingLeft } = opened);
});

const sh = (id: string, script: string, limitMs?: number) => tryShell(bed.machines, id, script, limitMs);

test(
  'a machine is made, answers, stops, starts again with its files, and goes without a trace',
  { skip },
  async () => {
    const id = await bed.make(anna, { name: 'web' });
    const made = await bed.machines.get(id);
    assert.equal(made.state, 'running');
    assert.equal(made.activity, null);
    assert.equal(made.owner, 'anna');
    assert.match(made.address ?? '', /^192\.168\.0\.\d+$/);
    assert.deepEqual((await sh(id, 'hostname; id -u; echo kept > /root/note')).out, 'web\n0\n');
    assert.equal(
      (await sh(id, 'cat /etc/hostname /etc/resolv.conf; grep -c web /etc/hosts')).out,
      'web\nnameserver 192.168.0.1\n1\n',
    );
    assert.match((await sh(id, 'ip -4 addr show eth0')).out, new RegExp(`${made.address}/16`));

    await bed.done(bed.machines.stop(anna, id));
    const stopped = await bed.machines.get(id);
    assert.equal(stopped.state, 'stopped');
    assert.ok(stopped.gen > made.gen);
    await assert.rejects(sh(id, 'true'), isCode('wrong_state'));

    await bed.done(bed.machines.start(anna, id));
    assert.equal((await sh(id, 'cat /root/note')).out, 'kept\n');
    await bed.done(bed.machines.remove(anna, id));
    await assert.rejects(bed.machines.get(id), isCode('not_found'));
    await assertNothingLeft();
  },
);

test('a verb whose end is reached already is a job that is done at once', { skip }, async () => {
  const id = await bed.make(anna);
  const { gen } = await bed.machines.get(id);
  assert.equal((await bed.machines.start(anna, id)).job.state, 'done');
  await bed.done(bed.machines.stop(anna, id));
  assert.equal((await bed.machines.stop(anna, id)).job.state, 'done');
  assert.ok((await bed.machines.get(id)).gen > gen);
  await bed.done(bed.machines.remove(anna, id));
});

test('stop and delete at once works, and the same verb twice is one job', { skip }, async () => {
  const id = await bed.make(anna);
  const [one, two] = await Promise.all([bed.machines.stop(anna, id), bed.machines.stop(anna, id)]);
  assert.equal(one.job.id, two.job.id);
  await assert.rejects(bed.machines.restart(anna, id), isCode('wrong_state'));
  await bed.done(bed.machines.remove(anna, id));
  await assertNothingLeft();
});

test('a machine that is still being made can be deleted', { skip }, async () => {
  const { machineId } = await bed.machines.create(anna, request());
  await bed.done(bed.machines.remove(anna, machineId));
  await assertNothingLeft();
});

test('pause stops its processes, resume lets them go on', { skip }, async () => {
  const id = await bed.make(anna);
  await bed.done(bed.machines.pause(anna, id));
  assert.equal((await bed.machines.get(id)).state, 'paused');
  await assert.rejects(sh(id, 'true'), isCode('wrong_state'));
  await bed.done(bed.machines.resume(anna, id));
  assert.equal((await sh(id, 'echo on')).out, 'on\n');
  await bed.done(bed.machines.pause(anna, id));
  await bed.done(bed.machines.remove(anna, id)); // straight from paused
  await assertNothingLeft();
});

test('restart gives new processes on the same disk and address', { skip }, async () => {
  const id = await bed.make(anna);
  const { address } = await bed.machines.get(id);
  await sh(id, 'echo 1 > /root/n; sleep 1000 &');
  await bed.done(bed.machines.restart(anna, id, { graceMs: 1000 }));
  assert.equal((await sh(id, 'cat /root/n; ps | grep -c "[s]leep 1000"')).out, '1\n0\n');
  assert.equal((await bed.machines.get(id)).address, address);
  await bed.done(bed.machines.remove(anna, id));
});

test('what is wrong is refused at once and leaves nothing', { skip }, async () => {
  const count = async (): Promise<number> =>
    (await bed.store.db.selectFrom('machines').select('id').execute()).length;
  const before = await count();
  await assert.rejects(bed.machines.create(anna, request({ image: 'nope' })), isCode('not_found'));
  const limits = { ...request().limits, cpus: 200 };
  await assert.rejects(bed.machines.create(anna, request({ limits })), isCode('validation_failed'));
  const first = await bed.machines.create(anna, request({ name: 'twice', start: false }));
  await assert.rejects(bed.machines.create(anna, request({ name: 'twice' })), isCode('name_taken'));
  assert.equal(await count(), before + 1);
  await bed.done(first);
  assert.equal((await bed.machines.get(first.machineId)).state, 'stopped');
  await bed.done(bed.machines.remove(anna, first.machineId));
});

test('parallel creates do not overshoot a quota', { skip }, async () => {
  const ben = await bed.user('ben');
  const results = await Promise.allSettled(
    Array.from({ length: 16 }, () => bed.machines.create(ben, request({ start: false }))),
  );
  const made = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  assert.equal(made.length, 10);
  for (const result of results)
    if (result.status === 'rejected') assert.ok(isCode('quota_exceeded')(result.reason));
  await Promise.all(made.map(async (each) => bed.done(bed.machines.remove(ben, each.machineId))));
});

test('twenty machines made at once have addresses, ids and links of their own', { skip }, async () => {
  const root = await bed.user('root', { admin: true });
  const made = await Promise.all(Array.from({ length: 20 }, () => bed.machines.create(root, request())));
  await Promise.all(made.map((each) => bed.done(each)));
  const rows = await bed.store.db
    .selectFrom('machines')
    .select(['address', 'mac', 'uid_slot'])
    .where('owner_id', '=', root.id)
    .where('deleted_at', 'is', null)
    .execute();
  for (const key of ['address', 'mac', 'uid_slot'] as const)
    assert.equal(new Set(rows.map((row) => row[key])).size, 20);
  const answers = await Promise.all(
    made.map(async ({ machineId }) => (await sh(machineId, 'echo $((6*7))')).out),
  );
  assert.deepEqual(
    answers,
    Array.from({ length: 20 }, () => '42\n'),
  );
  const page = await bed.machines.list(root, { limit: 5, state: 'running' });
  assert.equal(page.items.length, 5);
  assert.ok(page.next);
  await Promise.all(made.map(async (each) => bed.done(bed.machines.remove(root, each.machineId))));
  await assertNothingLeft();
});

test('a create that is cancelled leaves a failed machine and no traces', { skip }, async () => {
  const accepted = await bed.machines.create(anna, request());
  await cancelJob(bed.store.db, accepted.job.id);
  const machine = await until(8000, 'the machine to settle', async () => {
    const seen = await bed.machines.get(accepted.machineId);
    return seen.activity === null ? seen : undefined;
  });
  assert.ok(
    machine.state === 'failed' || machine.state === 'running',
    'the cancellation came in time, or too late',
  );
  if (machine.state === 'failed') {
    assert.equal(machine.failure?.code, 'cancelled');
    assert.deepEqual(readdirSync(join(bed.dataDirectory, 'machines')), []);
    await bed.done(bed.machines.start(anna, machine.id)); // from the beginning
    assert.equal((await sh(machine.id, 'echo here')).out, 'here\n');
  }
  await bed.done(bed.machines.remove(anna, machine.id));
});

test('when its first process dies, the machine says so', { skip }, async () => {
  const id = await bed.make(anna);
  const { gen } = await bed.machines.get(id);
  const row = await bed.store.db
    .selectFrom('machines')
    .select('keeper')
    .where('id', '=', id)
    .executeTakeFirstOrThrow();
  const pid = row.keeper?.pid ?? 0;
  assert.ok(pid > 1 && statOf(pid));
  process.kill(pid, 'SIGKILL');
  const machine = await bed.machines.waitForGen(id, gen, 5000);
  assert.equal(machine.state, 'failed');
  assert.equal(machine.failure?.code, 'machine_lost');
  await bed.done(bed.machines.start(anna, id));
  assert.equal((await sh(id, 'echo again')).out, 'again\n');
  await bed.done(bed.machines.remove(anna, id));
});

test('a machine that powers itself off is stopped', { skip }, async () => {
  const id = await bed.make(anna);
  const { gen } = await bed.machines.get(id);
  await sh(id, 'kill -TERM 1').catch(() => undefined);
  const machine = await bed.machines.waitForGen(id, gen, 5000);
  assert.equal(machine.state, 'stopped');
  assert.equal(machine.failure, null);
  await bed.done(bed.machines.remove(anna, id));
});

test('an expired machine is removed', { skip }, async () => {
  const id = await bed.make(anna);
  await bed.store.db.updateTable('machines').set({ expires_at: new Date() }).where('id', '=', id).execute();
  await until(8000, 'the expired machine to go', async () =>
    (await bed.machines.get(id).catch(() => undefined)) === undefined ? true : undefined,
  );
  await assertNothingLeft();
});

test('others do not see it, staff of its course do', { skip }, async () => {
  const eve = await bed.user('eve');
  const tom = await bed.user('tom');
  const { db } = bed.store;
  await db
    .insertInto('courses')
    .values({ id: 'c-000000000000', name: 'os', title: 'OS', created_by: tom.id })
    .execute();
  await db
    .insertInto('members')
    .values({ course_id: 'c-000000000000', user_id: tom.id, role: 'ta' })
    .execute();
  const accepted = await bed.machines.create(anna, request({ name: 'hers', start: false }), {
    courseId: 'c-000000000000',
  });
  await bed.done(accepted);
  assert.equal((await bed.machines.list(eve)).items.length, 0);
  assert.equal((await bed.machines.list(tom)).items.length, 1);
  assert.equal((await bed.machines.find(anna, 'hers')).id, accepted.machineId);
  await assert.rejects(bed.machines.find(eve, accepted.machineId), isCode('not_found'));
  assert.equal((await bed.machines.find(tom, accepted.machineId)).id, accepted.machineId);
  await bed.done(bed.machines.remove(anna, accepted.machineId));
});
