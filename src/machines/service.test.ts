import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { sql } from 'kysely';
import { until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { runRequest, type ProgramEnd } from '#contract/schemas/machines.ts';
import { statOf } from '#host/processes.ts';
import { cancelJob } from '#jobs/queue.ts';
import { type Census, dangling, takeCensus } from '#test/harness/census.ts';
import type { Actor } from '#base/actor.ts';
import { type Bed, exceptNameServers, openService, request, startBed } from './testing.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';
let bed: Bed;
let anna: Actor;
let clean: Census;

before(async () => {
  if (skip) return;
  bed = await startBed();
  anna = await bed.user('anna');
  const id = await bed.make(anna); // the first one makes the cloud's own control groups
  await bed.done(bed.machines.remove(anna, id));
  clean = await takeCensus(bed.dataDirectory);
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

const code = (wanted: string) => (error: unknown) => isCarrelError(error) && error.code === wanted;

async function sh(
  id: string,
  script: string,
  limitMs = 10_000,
): Promise<{ end: ProgramEnd; out: string; err: string }> {
  const reply = await bed.machines.run(id, runRequest.parse({ argv: ['sh', '-c', script], limitMs }));
  return { end: reply.end, out: plain(reply.stdout), err: plain(reply.stderr) };
}

function plain(base64: string): string {
  return Buffer.from(base64, 'base64').toString();
}

/** One life of a machine, with everything that opens something here. */
async function cycle(): Promise<void> {
  const id = await bed.make(anna);
  await sh(id, 'true');
  await bed.machines.readFile(id, '/etc/passwd');
  using console = await bed.machines.attach(id);
  await console.write(Buffer.from('echo hello\n'));
  await bed.done(bed.machines.stop(anna, id, { graceMs: 2000 }));
  await bed.done(bed.machines.start(anna, id));
  await bed.done(bed.machines.remove(anna, id));
}

/** Nothing of any machine is on the host any more. */
async function assertNothingLeft(): Promise<void> {
  assert.deepEqual(readdirSync(join(bed.dataDirectory, 'machines')), []);
  const left = dangling(clean, await takeCensus(bed.dataDirectory));
  assert.deepEqual(exceptNameServers(left), []);
}

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
    await assert.rejects(sh(id, 'true'), code('wrong_state'));

    await bed.done(bed.machines.start(anna, id));
    assert.equal((await sh(id, 'cat /root/note')).out, 'kept\n');
    await bed.done(bed.machines.remove(anna, id));
    await assert.rejects(bed.machines.get(id), code('not_found'));
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
  await assert.rejects(bed.machines.restart(anna, id), code('wrong_state'));
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
  await assert.rejects(sh(id, 'true'), code('wrong_state'));
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
  await assert.rejects(bed.machines.create(anna, request({ image: 'nope' })), code('not_found'));
  const limits = { ...request().limits, cpus: 200 };
  await assert.rejects(bed.machines.create(anna, request({ limits })), code('validation_failed'));
  const first = await bed.machines.create(anna, request({ name: 'twice', start: false }));
  await assert.rejects(bed.machines.create(anna, request({ name: 'twice' })), code('name_taken'));
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
    if (result.status === 'rejected') assert.ok(code('quota_exceeded')(result.reason));
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

test(
  'the limits hold: memory kills the program and not the machine, processes and disk end',
  { skip },
  async () => {
    const id = await bed.make(anna);
    const hog = await sh(id, 'x=a; while :; do x=$x$x; done');
    assert.notDeepEqual(hog.end, { kind: 'exited', status: 0 });
    assert.ok((await bed.machines.stats(id)).oomKills > 0);
    const fork = await sh(id, 'for i in $(seq 200); do sleep 5 & done; echo never', 3000);
    assert.match(fork.err, /fork|Resource/);
    // what the loop started may still take every place for some seconds
    await until(15_000, 'room to enter', async () => {
      try {
        return await sh(id, 'kill -9 -1');
      } catch (error) {
        if (!isCarrelError(error, 'no_capacity')) throw error;
        return undefined;
      }
    });
    await until(5000, 'the many processes to go', async () => {
      const { processes } = await bed.machines.stats(id);
      return (processes ?? 0) < 10 ? true : undefined;
    });
    const disk = await sh(id, 'dd if=/dev/zero of=/root/big bs=1M count=64; rm /root/big');
    assert.match(disk.err, /No space left/);
    assert.equal((await sh(id, 'echo alive')).out, 'alive\n');
    assert.equal((await bed.machines.get(id)).state, 'running');
    await bed.done(bed.machines.remove(anna, id));
  },
);

test('a machine gets the share of a processor that it may have', { skip }, async () => {
  const id = await bed.make(anna, { limits: { ...request().limits, cpus: 0.2 } });
  const { cpuMs } = await bed.machines.stats(id);
  const reply = await bed.machines.run(
    id,
    runRequest.parse({ argv: ['sh', '-c', 'while :; do :; done'], limitMs: 1500 }),
  );
  assert.deepEqual(reply.end, { kind: 'killed', reason: 'wall' });
  const used = (await bed.machines.stats(id)).cpuMs - cpuMs;
  assert.ok(used < 0.5 * reply.wallMs, `${used} ms of ${reply.wallMs} ms`);
  await bed.done(bed.machines.remove(anna, id));
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

test('a run gives status, both streams, and ends at its limits', { skip }, async () => {
  const id = await bed.make(anna);
  const reply = await sh(id, 'echo out; echo err >&2; exit 7');
  assert.deepEqual(reply, { end: { kind: 'exited', status: 7 }, out: 'out\n', err: 'err\n' });
  const stdin = Buffer.from('hello').toString('base64');
  const echoed = await bed.machines.run(id, runRequest.parse({ argv: ['cat'], stdin }));
  assert.equal(echoed.stdout, stdin);
  assert.deepEqual((await sh(id, 'sleep 100', 200)).end, { kind: 'killed', reason: 'wall' });
  assert.deepEqual((await sh(id, 'kill -SEGV $$')).end, { kind: 'signaled', signal: 'SIGSEGV' });
  const flood = await bed.machines.run(
    id,
    runRequest.parse({ argv: ['yes'], outputBytes: 1000, limitMs: 5000 }),
  );
  assert.deepEqual(flood.end, { kind: 'killed', reason: 'output' });
  assert.equal(Buffer.from(flood.stdout, 'base64').length, 1000);
  await assert.rejects(
    bed.machines.run(id, runRequest.parse({ argv: ['no-such-program'] })),
    code('invalid_request'),
  );
  await bed.done(bed.machines.remove(anna, id));
});

test('files go in and out, and no path leads out of the machine', { skip }, async () => {
  const id = await bed.make(anna);
  await bed.machines.writeFile(id, '/root/a.txt', Buffer.from('one'), { mode: 0o640 });
  assert.equal((await sh(id, 'stat -c "%u %g %a" /root/a.txt; cat /root/a.txt')).out, '0 0 640\none');
  await bed.machines.writeFile(id, '/root/a.txt', Buffer.from('two'));
  assert.equal(Buffer.from((await bed.machines.readFile(id, '/root/a.txt')).bytes).toString(), 'two');

  await sh(
    id,
    `ln -s /etc/hostname /root/up; ln -s ../../../../../../etc/shadow /root/climb; mkfifo /root/fifo;
     ln -s /proc/1/root/etc/shadow /root/magic; mkdir /root/dir; ln -s /nowhere/x /root/dangling; echo secret > /etc/shadow`,
  );
  assert.equal(Buffer.from((await bed.machines.readFile(id, '/root/climb')).bytes).toString(), 'secret\n');
  assert.notEqual(readFileSync('/etc/shadow', 'utf8'), 'secret\n');
  await assert.rejects(bed.machines.readFile(id, '/root/fifo'), code('invalid_request'));
  await assert.rejects(bed.machines.writeFile(id, '/root/fifo', Buffer.from('x')), code('invalid_request'));
  await assert.rejects(bed.machines.readFile(id, '/root/magic'), code('invalid_request'));
  await assert.rejects(bed.machines.readFile(id, '/dev/zero'), code('invalid_request'));
  await assert.rejects(
    bed.machines.readFile(id, '/proc/kcore'),
    (error) => code('forbidden')(error) || code('not_found')(error),
  );
  await assert.rejects(bed.machines.writeFile(id, '/proc/sys/kernel/hostname', Buffer.from('x')));
  await assert.rejects(bed.machines.readFile(id, '/root/dir'), code('invalid_request'));
  await assert.rejects(bed.machines.readFile(id, '/root/none'), code('not_found'));
  await assert.rejects(bed.machines.writeFile(id, '/root/none/x', Buffer.from('x')), code('not_found'));
  await assert.rejects(
    bed.machines.writeFile(id, '/root/dangling', Buffer.from('x')),
    code('invalid_request'),
  );
  await assert.rejects(
    bed.machines.writeFile(id, '/root/big', Buffer.alloc(48 * 2 ** 20)),
    code('disk_full'),
  );
  assert.equal((await sh(id, 'ls /root/big')).out, '');
  await bed.done(bed.machines.stop(anna, id, { graceMs: 100 }));
  await assert.rejects(bed.machines.readFile(id, '/root/a.txt'), code('wrong_state'));
  await bed.done(bed.machines.remove(anna, id));
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

test('life cycles, programs and consoles leave no descriptors open here', { skip }, async () => {
  await cycle();
  const before = readdirSync('/proc/self/fd').length;
  for (let round = 0; round < 5; round += 1) await cycle();
  const left = await until(5000, 'descriptors to be closed', () => {
    const more = readdirSync('/proc/self/fd').length - before;
    return more <= 2 ? more : undefined;
  });
  assert.ok(left <= 2);
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
  await assert.rejects(bed.machines.find(eve, accepted.machineId), code('not_found'));
  assert.equal((await bed.machines.find(tom, accepted.machineId)).id, accepted.machineId);
  await bed.done(bed.machines.remove(anna, accepted.machineId));
});

test(
  'a fresh machine lives for one piece of work, and its owner can neither see nor reach it',
  { skip },
  async () => {
    const [helper, other] = [await bed.make(anna), await bed.make(anna)];
    const { address } = await bed.machines.get(other);
    assert.match((await sh(helper, `ping -c1 -W1 ${address}; echo`)).out, / 0% packet loss/);
    const out = await bed.machines.withFreshMachine(
      {
        image: 'busybox',
        ownerId: anna.id,
        submissionId: 's-000000000000',
        limits: { diskBytes: 32 * 2 ** 20 },
      },
      async (machine) => {
        assert.equal((await bed.machines.list(anna)).items.length, 2);
        await machine.writeFile('/root/in', Buffer.from('42'), { mode: 0o600 });
        assert.match((await sh(helper, `ping -c1 -W1 ${machine.address}; echo`)).out, /100% packet loss/);
        const reply = await machine.run(runRequest.parse({ argv: ['cat', '/root/in'] }));
        return Buffer.from(reply.stdout, 'base64').toString();
      },
    );
    assert.equal(out, '42');
    for (const id of [helper, other]) await bed.done(bed.machines.remove(anna, id));
    await assertNothingLeft();
    assert.deepEqual(readdirSync(join(bed.dataDirectory, 'run', 'machine-locks')).length, 0);
    await pause(1);
  },
);

for (const [who, reconciles] of [
  ['the daemon', true],
  ['a worker', false],
] as const)
  test(
    `a machine for one piece of work that ${who} could not remove is removed as soon as it can be`,
    { skip },
    async () => {
      const { db } = bed.store;
      let made = '';
      await bed.suspend(); // in one process it would take the machine for one of its own
      {
        await using service = await openService({
          store: bed.store,
          fabric: bed.fabric,
          images: bed.images,
          dataDirectory: bed.dataDirectory,
          reconciles,
        });
        await sql`create function refuse() returns trigger language plpgsql as
        $$ begin raise exception 'the database is away'; end $$`.execute(db);
        await service.machines.withFreshMachine(
          {
            image: 'busybox',
            ownerId: anna.id,
            submissionId: 's-000000000001',
            limits: { diskBytes: 32 * 2 ** 20 },
          },
          async (machine) => {
            made = machine.id;
            await sql`create trigger refuse before update on machines execute function refuse()`.execute(db);
          },
        );
        const left = await db
          .selectFrom('machines')
          .select(['id', 'state'])
          .where('submission_id', 'is not', null)
          .where('deleted_at', 'is', null)
          .execute();
        assert.deepEqual(left, [{ id: made, state: 'running' }]);
        await sql`drop function refuse cascade`.execute(db);
        await until(15_000, 'the machine to be removed', async () =>
          (await db.selectFrom('machines').select('deleted_at').where('id', '=', made).executeTakeFirst())
            ?.deleted_at
            ? true
            : undefined,
        );
      }
      await bed.resume();
      assert.ok(!readdirSync(join(bed.dataDirectory, 'machines')).includes(made));
    },
  );
