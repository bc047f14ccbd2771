/** Life cycles: the verbs, what they refuse, who sees a machine, and what becomes of one that ends by itself. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { statOf } from '#host/processes.ts';
import { cancelJob } from '#jobs/queue.ts';
import { skip, useBed } from './testing-bed.ts';
import { keeperOf } from './testing-rows.ts';
import { isCode } from './testing-shell.ts';
import { request } from './testing.ts';

const on = useBed();

test(
  'a machine is made, answers, stops, starts again with its files, and goes without a trace',
  { skip },
  async () => {
    const id = await on.bed.make(on.anna, { name: 'web' });
    const made = await on.bed.machines.get(id);
    assert.equal(made.state, 'running');
    assert.equal(made.activity, null);
    assert.equal(made.owner, 'anna');
    assert.match(made.address ?? '', /^192\.168\.0\.\d+$/);
    assert.deepEqual((await on.sh(id, 'hostname; id -u; echo kept > /root/note')).out, 'web\n0\n');
    assert.equal(
      (await on.sh(id, 'cat /etc/hostname /etc/resolv.conf; grep -c web /etc/hosts')).out,
      'web\nnameserver 192.168.0.1\n1\n',
    );
    assert.match((await on.sh(id, 'ip -4 addr show eth0')).out, new RegExp(`${made.address}/16`));

    await on.bed.done(on.bed.machines.stop(on.anna, id));
    const stopped = await on.bed.machines.get(id);
    assert.equal(stopped.state, 'stopped');
    assert.ok(stopped.gen > made.gen);
    await assert.rejects(on.sh(id, 'true'), isCode('wrong_state'));

    await on.bed.done(on.bed.machines.start(on.anna, id));
    assert.equal((await on.sh(id, 'cat /root/note')).out, 'kept\n');
    await on.bed.done(on.bed.machines.remove(on.anna, id));
    await assert.rejects(on.bed.machines.get(id), isCode('not_found'));
    await on.assertNothingLeft();
  },
);

test('a verb whose end is reached already is a job that is done at once', { skip }, async () => {
  const id = await on.bed.make(on.anna);
  const { gen } = await on.bed.machines.get(id);
  assert.equal((await on.bed.machines.start(on.anna, id)).job.state, 'done');
  await on.bed.done(on.bed.machines.stop(on.anna, id));
  assert.equal((await on.bed.machines.stop(on.anna, id)).job.state, 'done');
  assert.ok((await on.bed.machines.get(id)).gen > gen);
  await on.bed.done(on.bed.machines.remove(on.anna, id));
});

test('stop and delete at once works, and the same verb twice is one job', { skip }, async () => {
  const id = await on.bed.make(on.anna);
  const [one, two] = await Promise.all([
    on.bed.machines.stop(on.anna, id),
    on.bed.machines.stop(on.anna, id),
  ]);
  assert.equal(one.job.id, two.job.id);
  await assert.rejects(on.bed.machines.restart(on.anna, id), isCode('wrong_state'));
  await on.bed.done(on.bed.machines.remove(on.anna, id));
  await on.assertNothingLeft();
});

test('a machine that is still being made can be deleted', { skip }, async () => {
  const { machineId } = await on.bed.machines.create(on.anna, request());
  await on.bed.done(on.bed.machines.remove(on.anna, machineId));
  await on.assertNothingLeft();
});

test('pause stops its processes, resume lets them go on', { skip }, async () => {
  const id = await on.bed.make(on.anna);
  await on.bed.done(on.bed.machines.pause(on.anna, id));
  assert.equal((await on.bed.machines.get(id)).state, 'paused');
  await assert.rejects(on.sh(id, 'true'), isCode('wrong_state'));
  await on.bed.done(on.bed.machines.resume(on.anna, id));
  assert.equal((await on.sh(id, 'echo on')).out, 'on\n');
  await on.bed.done(on.bed.machines.pause(on.anna, id));
  await on.bed.done(on.bed.machines.remove(on.anna, id)); // straight from paused
  await on.assertNothingLeft();
});

test('restart gives new processes on the same disk and address', { skip }, async () => {
  const id = await on.bed.make(on.anna);
  const { address } = await on.bed.machines.get(id);
  await on.sh(id, 'echo 1 > /root/n; sleep 1000 &');
  await on.bed.done(on.bed.machines.restart(on.anna, id, { graceMs: 1000 }));
  assert.equal((await on.sh(id, 'cat /root/n; ps | grep -c "[s]leep 1000"')).out, '1\n0\n');
  assert.equal((await on.bed.machines.get(id)).address, address);
  await on.bed.done(on.bed.machines.remove(on.anna, id));
});

test('what is wrong is refused at once and leaves nothing', { skip }, async () => {
  const count = async (): Promise<number> =>
    (await on.bed.store.db.selectFrom('machines').select('id').execute()).length;
  const before = await count();
  await assert.rejects(on.bed.machines.create(on.anna, request({ image: 'nope' })), isCode('not_found'));
  const limits = { ...request().limits, cpus: 200 };
  await assert.rejects(on.bed.machines.create(on.anna, request({ limits })), isCode('validation_failed'));
  const first = await on.bed.machines.create(on.anna, request({ name: 'twice', start: false }));
  await assert.rejects(on.bed.machines.create(on.anna, request({ name: 'twice' })), isCode('name_taken'));
  assert.equal(await count(), before + 1);
  await on.bed.done(first);
  assert.equal((await on.bed.machines.get(first.machineId)).state, 'stopped');
  await on.bed.done(on.bed.machines.remove(on.anna, first.machineId));
});

test('parallel creates do not overshoot a quota', { skip }, async () => {
  const ben = await on.bed.user('ben');
  const results = await Promise.allSettled(
    Array.from({ length: 16 }, () => on.bed.machines.create(ben, request({ start: false }))),
  );
  const made = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  assert.equal(made.length, 10);
  for (const result of results)
    if (result.status === 'rejected') assert.ok(isCode('quota_exceeded')(result.reason));
  await Promise.all(made.map(async (each) => on.bed.done(on.bed.machines.remove(ben, each.machineId))));
});

test('twenty machines made at once have addresses, ids and links of their own', { skip }, async () => {
  const root = await on.bed.user('root', { admin: true });
  const made = await Promise.all(Array.from({ length: 20 }, () => on.bed.machines.create(root, request())));
  await Promise.all(made.map((each) => on.bed.done(each)));
  const rows = await on.bed.store.db
    .selectFrom('machines')
    .select(['address', 'mac', 'uid_slot'])
    .where('owner_id', '=', root.id)
    .where('deleted_at', 'is', null)
    .execute();
  for (const key of ['address', 'mac', 'uid_slot'] as const)
    assert.equal(new Set(rows.map((row) => row[key])).size, 20);
  const answers = await Promise.all(
    made.map(async ({ machineId }) => (await on.sh(machineId, 'echo $((6*7))')).out),
  );
  assert.deepEqual(
    answers,
    Array.from({ length: 20 }, () => '42\n'),
  );
  const page = await on.bed.machines.list(root, { limit: 5, state: 'running' });
  assert.equal(page.items.length, 5);
  assert.ok(page.next);
  await Promise.all(made.map(async (each) => on.bed.done(on.bed.machines.remove(root, each.machineId))));
  await on.assertNothingLeft();
});

test('a create that is cancelled leaves a failed machine and no traces', { skip }, async () => {
  const accepted = await on.bed.machines.create(on.anna, request());
  await cancelJob(on.bed.store.db, accepted.job.id);
  const machine = await until(8000, 'the machine to settle', async () => {
    const seen = await on.bed.machines.get(accepted.machineId);
    return seen.activity === null ? seen : undefined;
  });
  assert.ok(
    machine.state === 'failed' || machine.state === 'running',
    'the cancellation came in time, or too late',
  );
  if (machine.state === 'failed') {
    assert.equal(machine.failure?.code, 'cancelled');
    assert.deepEqual(readdirSync(join(on.bed.dataDirectory, 'machines')), []);
    await on.bed.done(on.bed.machines.start(on.anna, machine.id)); // from the beginning
    assert.equal((await on.sh(machine.id, 'echo here')).out, 'here\n');
  }
  await on.bed.done(on.bed.machines.remove(on.anna, machine.id));
});

test('when its first process dies, the machine says so', { skip }, async () => {
  const id = await on.bed.make(on.anna);
  const { gen } = await on.bed.machines.get(id);
  const { pid } = await keeperOf(on.bed.store.db, id);
  assert.ok(pid > 1 && statOf(pid));
  process.kill(pid, 'SIGKILL');
  const machine = await on.bed.machines.waitForGen(id, gen, 5000);
  assert.equal(machine.state, 'failed');
  assert.equal(machine.failure?.code, 'machine_lost');
  await on.bed.done(on.bed.machines.start(on.anna, id));
  assert.equal((await on.sh(id, 'echo again')).out, 'again\n');
  await on.bed.done(on.bed.machines.remove(on.anna, id));
});

test('a machine that powers itself off is stopped', { skip }, async () => {
  const id = await on.bed.make(on.anna);
  const { gen } = await on.bed.machines.get(id);
  await on.sh(id, 'kill -TERM 1').catch(() => undefined);
  const machine = await on.bed.machines.waitForGen(id, gen, 5000);
  assert.equal(machine.state, 'stopped');
  assert.equal(machine.failure, null);
  await on.bed.done(on.bed.machines.remove(on.anna, id));
});

test('an expired machine is removed', { skip }, async () => {
  const id = await on.bed.make(on.anna);
  await on.bed.store.db
    .updateTable('machines')
    .set({ expires_at: new Date() })
    .where('id', '=', id)
    .execute();
  await until(8000, 'the expired machine to go', async () =>
    (await on.bed.machines.get(id).catch(() => undefined)) === undefined ? true : undefined,
  );
  await on.assertNothingLeft();
});

test('others do not see it, staff of its course do', { skip }, async () => {
  const eve = await on.bed.user('eve');
  const tom = await on.bed.user('tom');
  const { db } = on.bed.store;
  await db
    .insertInto('courses')
    .values({ id: 'c-000000000000', name: 'os', title: 'OS', created_by: tom.id })
    .execute();
  await db
    .insertInto('members')
    .values({ course_id: 'c-000000000000', user_id: tom.id, role: 'ta' })
    .execute();
  const accepted = await on.bed.machines.create(on.anna, request({ name: 'hers', start: false }), {
    courseId: 'c-000000000000',
  });
  await on.bed.done(accepted);
  assert.equal((await on.bed.machines.list(eve)).items.length, 0);
  assert.equal((await on.bed.machines.list(tom)).items.length, 1);
  assert.equal((await on.bed.machines.find(on.anna, 'hers')).id, accepted.machineId);
  await assert.rejects(on.bed.machines.find(eve, accepted.machineId), isCode('not_found'));
  assert.equal((await on.bed.machines.find(tom, accepted.machineId)).id, accepted.machineId);
  await on.bed.done(on.bed.machines.remove(on.anna, accepted.machineId));
});
