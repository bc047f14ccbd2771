/** Snapshots, copies, networks, sleep: what the service does about them, with containers whose disks can be copied. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '#base/deadline.ts';
import { json } from '#store/columns.ts';
import { newNetwork } from '#contract/schemas/networks.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import type { Actor } from '#base/actor.ts';
import { openLocks } from './locks.ts';
import { isCode, shell } from './testing-shell.ts';
import { type Bed, request, startBed } from './testing.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';
let bed: Bed;
let anna: Actor;
let ruth: Actor;

before(async () => {
  if (skip) return;
  bed = await startBed();
  anna = await bed.user('anna');
  ruth = await bed.user('ruth', { admin: true });
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

const sh = async (id: string, script: string) => (await shell(bed.machines, id, script)).trim();
const remove = (id: string) => bed.done(bed.machines.remove(anna, id));
/** Containers write when they like; what is read back must have been written. */
const write = (id: string, text: string) => sh(id, `echo ${text} > /note; sync`);

test('a disk becomes again what it was, stopped or running, and the snapshot stays', { skip }, async () => {
  const id = await bed.make(anna);
  await write(id, 'before');
  await bed.done(bed.machines.snapshot(anna, id, 'clean'));
  const [clean] = await bed.machines.snapshots(id);
  assert.deepEqual([clean?.name, clean?.state], ['clean', 'ready']);
  assert.ok((clean?.bytes ?? 0) > 0);
  await write(id, 'after');

  const { gen } = await bed.machines.get(id);
  await bed.done(bed.machines.restore(anna, id, 'clean'));
  const running = await bed.machines.get(id);
  assert.deepEqual([running.state, running.activity, running.failure], ['running', null, null]);
  assert.ok(running.gen > gen);
  assert.equal(await sh(id, 'cat /note'), 'before');

  await write(id, 'later');
  await bed.done(bed.machines.stop(anna, id));
  await bed.done(bed.machines.restore(anna, id, clean?.id ?? ''));
  assert.equal((await bed.machines.get(id)).state, 'stopped');
  await bed.done(bed.machines.start(anna, id));
  assert.equal(await sh(id, 'cat /note'), 'before');

  await bed.done(bed.machines.dropSnapshot(anna, id, 'clean'));
  assert.deepEqual(await bed.machines.snapshots(id), []);
  assert.deepEqual(readdirSync(join(bed.dataDirectory, 'machines', id, 'kept')), []);
  await assert.rejects(bed.machines.restore(anna, id, 'clean'), isCode('not_found'));
  await remove(id);
});

test(
  'a name is one snapshot’s, two works at a disk do not meet, and there is an end to their number',
  { skip },
  async () => {
    const id = await bed.make(anna, { start: false });
    const first = await bed.machines.snapshot(anna, id, 'one');
    await assert.rejects(bed.machines.snapshot(anna, id, 'two'), isCode('wrong_state'));
    await assert.rejects(bed.machines.start(anna, id), isCode('wrong_state'));
    await bed.done(Promise.resolve(first));
    await assert.rejects(bed.machines.snapshot(anna, id, 'one'), isCode('name_taken'));
    assert.equal((await bed.machines.get(id)).activity, null, 'what is refused leaves nothing behind');
    for (let n = 2; n <= 16; n += 1) await bed.done(bed.machines.snapshot(anna, id, `s${n}`));
    await assert.rejects(bed.machines.snapshot(anna, id, 's17'), isCode('quota_exceeded'));
    await remove(id);
    const rows = await bed.store.db
      .selectFrom('machine_snapshots')
      .select('id')
      .where('machine_id', '=', id)
      .execute();
    assert.deepEqual(rows, [], 'they go with the machine');
  },
);

test('a snapshot whose work was given up is forgotten, and the machine is as before', { skip }, async () => {
  const id = await bed.make(anna);
  await bed.store.db
    .insertInto('machine_snapshots')
    .values({ id: 'sn-000000000000', machine_id: id, name: 'half' })
    .execute();
  await bed.store.db.updateTable('machines').set({ activity: 'snapshotting' }).where('id', '=', id).execute();
  await until(10_000, 'somebody to notice', async () =>
    (await bed.machines.get(id)).activity === null ? true : undefined,
  );
  assert.deepEqual(await bed.machines.snapshots(id), []);
  const { state, failure } = await bed.machines.get(id);
  assert.deepEqual([state, failure], ['running', null]);
  assert.equal(await sh(id, 'echo well'), 'well');
  await remove(id);
});

test(
  'a copy has the disk of its original, running or as it was, and an identity of its own',
  { skip },
  async () => {
    const id = await bed.make(anna, { labels: { team: 'a' } });
    await write(id, 'before');
    await bed.done(bed.machines.snapshot(anna, id, 'clean'));
    await write(id, 'now');
    const copies = await Promise.all([
      bed.machines.clone(anna, id, { name: 'copy-now', start: true }),
      bed.machines.clone(anna, id, { name: 'copy-then', snapshot: 'clean', start: true }),
    ]);
    for (const copy of copies) await bed.done(Promise.resolve(copy));
    const [now = '', then = ''] = copies.map(({ machineId }) => machineId);
    assert.equal(await sh(now, 'cat /note'), 'now');
    assert.equal(await sh(then, 'cat /note'), 'before');
    const views = await Promise.all([id, now, then].map((each) => bed.machines.get(each)));
    for (const fact of ['name', 'address', 'mac'] as const)
      assert.equal(new Set(views.map((view) => view[fact])).size, 3, fact);
    assert.deepEqual(views[1]?.labels, { team: 'a' });
    assert.equal(await sh(now, 'hostname'), 'copy-now');
    const kept = readdirSync(join(bed.dataDirectory, 'machines', id, 'kept'));
    assert.deepEqual(kept, ['clean.img'], 'nothing of the copying stays in the original');

    await remove(id);
    await bed.done(bed.machines.restart(anna, now));
    assert.equal(await sh(now, 'cat /note'), 'now', 'a copy needs its original no more');
    for (const copy of [now, then]) await remove(copy);
  },
);

test('a copy that is not started yet has its disk all the same', { skip }, async () => {
  const id = await bed.make(anna);
  await write(id, 'original');
  const copy = await bed.machines.clone(anna, id, { name: 'later', start: false });
  await bed.done(Promise.resolve(copy));
  await remove(id);
  await bed.done(bed.machines.start(anna, copy.machineId));
  assert.equal(await sh(copy.machineId, 'cat /note'), 'original');
  await remove(copy.machineId);
});

test('a copy of what is deleted before its turn is a failed machine, with the reason', { skip }, async () => {
  const id = await bed.make(anna, { start: false });
  const locks = openLocks(join(bed.dataDirectory, 'run', 'machine-locks'));
  const lock = await locks.take(id);
  const made = await bed.machines.clone(anna, id, { name: 'orphan', start: true });
  const set = (deleted_at: Date | null) =>
    bed.store.db.updateTable('machines').set({ deleted_at }).where('id', '=', id).execute();
  await set(new Date());
  lock[Symbol.dispose]();
  await assert.rejects(bed.done(Promise.resolve(made)), /does not exist any more/);
  const orphan = await bed.machines.get(made.machineId);
  assert.deepEqual([orphan.state, orphan.failure?.code], ['failed', 'not_found']);
  assert.ok(!existsSync(join(bed.dataDirectory, 'machines', made.machineId)));
  await set(null);
  for (const each of [made.machineId, id]) await remove(each);
});

test('copies count in the quota of whoever makes them', { skip }, async () => {
  const bea = await bed.user('bea');
  const id = await bed.make(bea, { start: false });
  await bed.store.db
    .updateTable('machines')
    .set({ limits: json({ memory: 15.99 * 2 ** 30 }) })
    .where('id', '=', id)
    .execute();
  await assert.rejects(bed.machines.clone(bea, id, { name: 'more', start: false }), isCode('quota_exceeded'));
  await bed.done(bed.machines.remove(bea, id));
});

test('a network is made, given to machines, named, and deleted when it is empty', { skip }, async () => {
  const wanted = newNetwork.parse({ name: 'lab', cidr: '10.9.0.0/24', isolation: 'open' });
  const { id: networkId } = await bed.machines.networks.create(ruth, wanted);
  await assert.rejects(bed.machines.networks.create(ruth, wanted), isCode('name_taken'));
  await assert.rejects(bed.machines.create(anna, request({ network: 'nowhere' })), isCode('not_found'));
  await assert.rejects(
    bed.machines.create(anna, request({ network: 'lab', networkNumber: 3 })),
    isCode('validation_failed'),
  );
  const first = await bed.make(anna, { network: 'lab', name: 'web' });
  const second = await bed.make(ruth, { network: 'lab', name: 'db' });
  const home = await bed.make(anna);
  const { address, network } = await bed.machines.get(first);
  assert.deepEqual([address, network], ['10.9.0.2', 'lab']);
  await sh(second, `ping -c1 -W5 ${address}`);
  await assert.rejects(sh(home, `ping -c1 -W1 ${address}`), 'networks are apart');
  await until(10_000, 'names', async () => {
    const { stdout } = await bed.machines.run(
      second,
      runRequest.parse({ argv: ['nslookup', 'web.internal', '10.9.0.1'] }),
    );
    return Buffer.from(stdout, 'base64').toString().includes('10.9.0.2') ? true : undefined;
  });
  await assert.rejects(bed.machines.networks.remove(ruth, 'lab'), isCode('wrong_state'));
  await bed.suspend();
  await bed.resume();
  assert.equal(await sh(first, 'echo still here'), 'still here');
  await sh(second, `ping -c1 -W5 ${address}`);
  for (const each of [first, second, home]) await bed.done(bed.machines.remove(null, each));
  await bed.machines.networks.remove(ruth, networkId);
  await assert.rejects(bed.machines.create(anna, request({ network: 'lab' })), isCode('not_found'));
});

test('an idle machine falls asleep, and whatever is wanted of it wakes it', { skip }, async () => {
  const id = await bed.make(anna, { idleFreezeSeconds: 1 });
  const other = await bed.make(anna);
  const asleep = async (): Promise<true | undefined> =>
    (await bed.machines.get(id)).asleep ? true : undefined;
  const fallsAsleep = () => until(20_000, 'the machine to fall asleep', asleep, { everyMs: 50 });

  await fallsAsleep();
  assert.equal((await bed.machines.get(id)).state, 'running');
  assert.ok((await bed.machines.stats(id)).cpuMs >= 0);
  assert.ok(await asleep(), 'figures do not wake it');
  assert.equal(await sh(id, 'echo awake'), 'awake');
  assert.equal(await asleep(), undefined);

  await fallsAsleep();
  const { address } = await bed.machines.get(id);
  // the kernel answers for it, frozen or not; so it wakes a moment later
  await sh(other, `ping -c1 -W10 ${address}`);
  await until(10_000, 'a neighbour to wake it', async () => ((await asleep()) ? undefined : true));

  using console = await bed.machines.attach(id);
  await fallsAsleep();
  await console.write(Buffer.from('echo typed > /tmp/typed\n'));
  assert.equal(await asleep(), undefined, 'a key woke it');

  await fallsAsleep();
  await bed.suspend();
  await bed.resume();
  assert.ok(await asleep(), 'a new daemon lets it sleep');
  await sh(other, `ping -c1 -W10 ${address}`);
  await until(10_000, 'it to wake', async () => ((await asleep()) ? undefined : true));

  await fallsAsleep();
  await bed.done(bed.machines.resume(anna, id));
  assert.equal(await asleep(), undefined, 'asked to go on, it goes on');
  await fallsAsleep();
  await bed.done(bed.machines.pause(anna, id));
  const paused = await bed.machines.get(id);
  assert.deepEqual([paused.state, paused.asleep], ['paused', false]);
  await bed.done(bed.machines.resume(anna, id));
  await fallsAsleep();
  await bed.done(bed.machines.stop(anna, id, { graceMs: 3000 }));
  assert.deepEqual((await bed.machines.get(id)).asleep, false);
  for (const each of [id, other]) await remove(each);
});

test('root gets a new password, and nothing keeps it', { skip }, async (context) => {
  if (!(await bed.images.find('debian-12'))) return context.skip('debian-12 is not built here');
  const id = await bed.make(anna, { image: 'debian-12' });
  const before = await sh(id, 'grep ^root: /etc/shadow');
  const password = await bed.machines.resetPassword(anna, id);
  const hash = await sh(id, 'grep ^root: /etc/shadow');
  assert.notEqual(hash, before);
  assert.match(hash, /^root:\$6\$/);
  assert.match(password, /^[0-9a-z-]{16,}$/);
  assert.notEqual(await bed.machines.resetPassword(anna, id), password);
  const events = await bed.store.db
    .selectFrom('events')
    .select(['kind', 'payload'])
    .where('subject', '=', id)
    .execute();
  assert.ok(events.some(({ kind }) => kind === 'machine.password_changed'));
  assert.ok(!JSON.stringify(events).includes(password));
  await remove(id);
});

test('an image that cannot change a password says so', { skip }, async () => {
  const id = await bed.make(anna);
  await assert.rejects(bed.machines.resetPassword(anna, id), /no chpasswd/);
  await remove(id);
});

test(
  'keys are where ssh looks for them, once; a rebooted machine keeps what root made of them',
  { skip },
  async () => {
    const key =
      'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqhWh0ZubiBX0t+NPwjri10x1lryTabc0YY6Rs+F3IR ada@example.org';
    const id = await bed.make(anna, { sshKeys: [key] });
    assert.equal(await sh(id, 'cat /root/.ssh/authorized_keys'), key);
    assert.equal(await sh(id, 'stat -c "%a %u" /root/.ssh /root/.ssh/authorized_keys'), '700 0\n600 0');
    await sh(id, 'rm /root/.ssh/authorized_keys; sync');
    await bed.done(bed.machines.restart(anna, id));
    assert.equal(await sh(id, 'ls /root/.ssh'), '');
    await remove(id);
  },
);

test('what the console said can be read, also when the machine has ended', { skip }, async () => {
  const id = await bed.make(anna);
  {
    using console = await bed.machines.attach(id);
    await console.write(Buffer.from('echo a-$((6*7))-z\n'));
  }
  const said = async (): Promise<true | undefined> => {
    const { bytes } = await bed.machines.consoleTranscript(id);
    return Buffer.from(bytes).toString().includes('a-42-z') ? true : undefined;
  };
  await until(10_000, 'its answer', said);
  await bed.done(bed.machines.stop(anna, id, { graceMs: 1000 }));
  assert.ok(await said());
  await remove(id);
});
