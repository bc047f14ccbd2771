/** Virtual machines through the service, as a user has them: jobs, rows, daemons that come and go. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { newExec } from '#contract/schemas/machines.ts';
import { isAlive, signalProcess } from '#host/processes.ts';
import { waitForJob } from '#jobs/wait.ts';
import type { Actor } from '#base/actor.ts';
import { linkNames } from '#test/netbed.ts';
import { dangling, takeCensus } from '#test/harness/census.ts';
import { skip } from './drivers/qemu/testing.ts';
import type { Accepted } from './requests.ts';
import { shell } from './testing-shell.ts';
import { type Bed, request, startBed } from './testing.ts';

/** A guest under emulation, on a host with other things to do. */
const jobMs = 300_000;

let bed: Bed;
let anna: Actor;
before(async () => {
  if (skip) return;
  bed = await startBed();
  await bed.images.ensure('tiny');
  anna = await bed.user('anna');
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

const vm = (name: string) =>
  request({
    name,
    driver: 'qemu',
    image: 'tiny',
    limits: { cpus: 1, memoryBytes: 128 * 2 ** 20, processes: 64, diskBytes: 300 * 2 ** 20 },
  });

async function done(accepted: Promise<Accepted>): Promise<void> {
  const { job } = await accepted;
  const ended = await waitForJob(bed.store, job.id, { limitMs: jobMs, pollMs: 100 });
  assert.equal(ended.state, 'done', JSON.stringify(ended.error));
}

async function make(name: string): Promise<string> {
  const accepted = bed.machines.create(anna, vm(name));
  await done(accepted);
  return (await accepted).machineId;
}

const sh = (id: string, script: string) => shell(bed.machines, id, script);
const keeperOf = async (id: string) =>
  (await bed.store.db.selectFrom('machines').select('keeper').where('id', '=', id).executeTakeFirstOrThrow())
    .keeper;

test('what cannot be is refused before there is a row', { skip }, async () => {
  const small = { ...vm('small'), limits: { ...vm('x').limits, diskBytes: 64 * 2 ** 20 } };
  await assert.rejects(bed.machines.create(anna, small), /disk size 64 MiB is smaller than the template's/);
  assert.deepEqual((await bed.machines.list(anna)).items, []);
});

test('a life: made, worked with, paused, kept, copied, put back, gone', { skip }, async (t) => {
  const before = await takeCensus(bed.dataDirectory);
  const id = await make('web');

  await t.test('it runs, and says how', async () => {
    const machine = await bed.machines.get(id);
    assert.deepEqual([machine.state, machine.driver, machine.failure], ['running', 'qemu', null]);
    assert.equal(await sh(id, 'hostname'), 'web\n');
    // the agent answers before the network is up
    await until(
      20_000,
      'its address',
      async () =>
        (await sh(id, 'ip -4 addr show eth0')).includes(`inet ${machine.address}/`) ? true : undefined,
      { everyMs: 100 },
    );
  });

  await t.test('programs outlive their caller and the daemon', async () => {
    const program = await bed.machines.createExec(
      anna,
      id,
      newExec.parse({ argv: ['sh', '-c', 'echo begin; sleep 2; echo end; exit 5'], cwd: '/' }),
    );
    const keeper = await keeperOf(id);
    await bed.suspend();
    await bed.resume();
    assert.deepEqual(await keeperOf(id), keeper);
    assert.ok(keeper && isAlive(keeper), 'the same QEMU');
    assert.equal(await sh(id, 'echo again'), 'again\n');
    const ended = await until(
      20_000,
      'the program to end',
      async () => {
        const now = await bed.machines.getExec(id, program.id);
        return now.end ? now : undefined;
      },
      { everyMs: 100 },
    );
    assert.deepEqual(ended.end, { kind: 'exited', status: 5 });
  });

  await t.test('paused and resumed', async () => {
    await done(bed.machines.pause(anna, id));
    assert.equal((await bed.machines.get(id)).state, 'paused');
    await bed.suspend();
    await bed.resume();
    assert.equal((await bed.machines.get(id)).state, 'paused');
    await done(bed.machines.resume(anna, id));
    assert.equal(await sh(id, 'echo on'), 'on\n');
  });

  await t.test('a snapshot while it runs, a copy of it as it is, and the disk put back', async () => {
    await sh(id, 'echo one > /root/note; sync');
    await done(bed.machines.snapshot(anna, id, 'first'));
    await sh(id, 'echo two > /root/note; sync');
    const cloned = bed.machines.clone(anna, id, { name: 'copy', start: true });
    await done(cloned);
    const copy = (await cloned).machineId;
    assert.equal(await sh(copy, 'cat /root/note; hostname'), 'two\ncopy\n');
    assert.equal(await sh(id, 'cat /root/note'), 'two\n');
    await done(bed.machines.remove(anna, copy));
    await done(bed.machines.restore(anna, id, 'first'));
    assert.equal(await sh(id, 'cat /root/note'), 'one\n');
    await done(bed.machines.dropSnapshot(anna, id, 'first'));
  });

  await t.test('when QEMU is killed, the row says so within two seconds, and it starts again', async () => {
    const keeper = await keeperOf(id);
    assert.ok(keeper);
    const { gen } = await bed.machines.get(id);
    signalProcess(keeper, 'SIGKILL');
    const machine = await bed.machines.waitForGen(id, gen, 2000);
    assert.deepEqual([machine.state, machine.failure?.code], ['failed', 'machine_lost']);
    await done(bed.machines.start(anna, id));
    assert.equal(await sh(id, 'cat /root/note'), 'one\n');
  });

  await t.test('stopped in order, and removed without a trace', async () => {
    // its console comes last of all: a machine that answers may not have got there yet
    await until(60_000, 'a prompt on its console', async () => {
      const { bytes } = await bed.machines.consoleTranscript(id);
      return Buffer.from(bytes).toString('latin1').includes('login:') ? true : undefined;
    });
    await done(bed.machines.stop(anna, id, { graceMs: 30_000 }));
    assert.equal((await bed.machines.get(id)).state, 'stopped');
    await assert.rejects(sh(id, 'true'), (error) => isCarrelError(error, 'wrong_state'));
    const { bytes, total } = await bed.machines.consoleTranscript(id);
    assert.match(
      Buffer.from(bytes).toString('latin1'),
      /login:/,
      'what its console said last is still there',
    );
    assert.equal(bytes.length, total);
    const { from, bytes: end } = await bed.machines.consoleTranscript(id, { from: total - 5 });
    assert.deepEqual([from, end.length], [total - 5, 5]);
    await done(bed.machines.remove(anna, id));
    assert.equal(existsSync(join(bed.dataDirectory, 'machines', id)), false);
    assert.deepEqual(
      linkNames().filter((name) => name.startsWith('t-')),
      [],
    );
    await bed.suspend();
    assert.deepEqual(
      dangling(before, await takeCensus(bed.dataDirectory)).filter((each) => !/dnsmasq/.test(each)),
      [],
    );
    await bed.resume();
  });
});

test('several at once are all themselves', { skip }, async () => {
  const ids = await Promise.all(['a', 'b', 'c'].map((name) => make(`many-${name}`)));
  const facts = await Promise.all(
    ids.map((id) => sh(id, 'hostname; cat /etc/machine-id; cat /sys/class/net/eth0/address')),
  );
  assert.equal(new Set(facts.flatMap((text) => text.split('\n').slice(0, 3))).size, 9);
  await Promise.all(ids.map((id) => done(bed.machines.remove(anna, id))));
});

test(
  'what programs wrote is still there when their machine was stopped, read or not, and after it has started again',
  { skip },
  async () => {
    const id = await make('kept');
    const started = (script: string) =>
      bed.machines.createExec(anna, id, newExec.parse({ argv: ['sh', '-c', script], cwd: '/' }));
    const [ended, cut, unread] = [
      await started('echo done; exit 7'),
      await started('echo begun; sleep 600'),
      await started('echo nobody'),
    ];
    const textOf = async (exec: string): Promise<string> =>
      Buffer.from((await bed.machines.execOutput(id, exec)).bytes).toString();
    await until(
      20_000,
      'the first to end',
      async () => (await bed.machines.getExec(id, ended.id)).end ?? undefined,
      {
        everyMs: 100,
      },
    );
    await until(
      20_000,
      'the second to begin',
      async () => ((await textOf(cut.id)) === 'begun\n' ? true : undefined),
      {
        everyMs: 100,
      },
    );
    const check = async (): Promise<void> => {
      assert.equal(await textOf(ended.id), 'done\n');
      assert.deepEqual((await bed.machines.getExec(id, ended.id)).end, { kind: 'exited', status: 7 });
      assert.equal(await textOf(cut.id), 'begun\n');
      assert.deepEqual((await bed.machines.getExec(id, cut.id)).end, { kind: 'killed', reason: 'cancelled' });
      assert.equal(await textOf(unread.id), 'nobody\n');
      assert.deepEqual((await bed.machines.getExec(id, unread.id)).end, { kind: 'exited', status: 0 });
    };
    await done(bed.machines.stop(anna, id, { graceMs: 30_000 }));
    await check();
    await done(bed.machines.start(anna, id));
    await check();
    // nobody is asked when the power is cut
    const lost = await started('echo lost');
    await done(bed.machines.stop(anna, id, { graceMs: 0 }));
    await assert.rejects(textOf(lost.id), (error) => isCarrelError(error, 'gone'));
    await done(bed.machines.remove(anna, id));
  },
);
