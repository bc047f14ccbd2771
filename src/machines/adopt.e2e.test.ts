/** What outlives the daemon, and consoles: many readers, one writer, offsets. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until, within } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { newExec, runRequest } from '#contract/schemas/machines.ts';
import { isAlive, untilGone } from '#host/processes.ts';
import { instanceGroup, sweepGroups } from '#isolate/cgroups/group.ts';
import { readCgroupLayout } from '#isolate/cgroups/layout.ts';
import type { Actor } from '#base/actor.ts';
import { instanceOf } from './service.ts';
import type { Attachment } from './stream.ts';
import { type Bed, startBed } from './testing.ts';
import { keeperOf } from './testing-rows.ts';

const skip = process.getuid?.() === 0 ? false : 'needs root';
let bed: Bed;
let anna: Actor;

before(async () => {
  if (skip) return;
  bed = await startBed();
  anna = await bed.user('anna');
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

interface Reader {
  text: string;
  from: number | undefined;
  /** Waits until the text matches. */
  until(pattern: RegExp): Promise<void>;
  ended: Promise<void>;
}

/** Reads on in the background. */
function read(attachment: Attachment): Reader {
  const reader: Omit<Reader, 'ended'> = {
    text: '',
    from: undefined,
    async until(pattern) {
      await until(5000, `${pattern} in ${JSON.stringify(reader.text)}`, () =>
        pattern.test(reader.text) ? true : undefined,
      );
    },
  };
  const follow = async (): Promise<void> => {
    for await (const message of attachment)
      if (message.kind === 'output') reader.text += Buffer.from(message.bytes).toString();
      else if (message.status.from !== undefined) reader.from = message.status.from;
  };
  return Object.assign(reader, { ended: follow() });
}

test(
  'the console has many readers and one writer, and its history is there by offset',
  { skip },
  async () => {
    const id = await bed.make(anna);
    using one = await bed.machines.attach(id, { rows: 24, columns: 80 });
    const first = read(one);
    await one.write(Buffer.from('echo A$((1+1))B; stty size\n'));
    await first.until(/A2B\r\n24 80/);
    using two = await bed.machines.attach(id, { from: 0 });
    const second = read(two);
    await second.until(/A2B/);
    assert.equal(second.from, 0);
    await assert.rejects(two.write(Buffer.from('x')), (error) => isCarrelError(error, 'wrong_state'));
    two.takeWriter();
    await two.write(Buffer.from('echo C$((2+1))D\n'));
    await first.until(/C3D/);
    await second.until(/C3D/);
    assert.equal(first.text, second.text);
    await assert.rejects(one.write(Buffer.from('x')), (error) => isCarrelError(error, 'wrong_state'));
    await two.write(Buffer.from('exit\n')); // a console without a shell would be a dead one
    await two.write(Buffer.from('echo E$((3+1))F\n'));
    await second.until(/E4F/);
    await bed.done(bed.machines.stop(anna, id, { graceMs: 3000 }));
    await within(5000, 'the readers to be told of the end', Promise.all([first.ended, second.ended]));
    await bed.done(bed.machines.remove(anna, id));
  },
);

test('machines, consoles and programs outlive the daemon, and are found again', { skip }, async () => {
  const id = await bed.make(anna);
  const { db } = bed.store;
  const init = await keeperOf(db, id);
  assert.ok(isAlive(init));
  const program = await bed.machines.createExec(
    anna,
    id,
    newExec.parse({
      argv: ['sh', '-c', 'for i in $(seq 300); do echo line $i; sleep 0.005; done; exit 9'],
      cwd: '/',
    }),
  );
  using before = await bed.machines.attach(id);
  const early = read(before);
  await before.write(Buffer.from('echo begin; for i in $(seq 200); do echo n$i; sleep 0.005; done\n'));
  await early.until(/n20\r\n/);
  await bed.suspend();
  const seen = (early.from ?? 0) + Buffer.byteLength(early.text);
  await bed.resume();

  assert.deepEqual(await keeperOf(db, id), init);
  assert.equal((await bed.machines.get(id)).state, 'running');
  const reply = await bed.machines.run(id, runRequest.parse({ argv: ['hostname'] }));
  assert.deepEqual(reply.end, { kind: 'exited', status: 0 });
  using afterwards = await bed.machines.attach(id, { from: seen });
  const late = read(afterwards);
  await late.until(/n200\r\n/);
  assert.equal(late.from, seen);
  const numbers = Array.from((early.text + late.text).matchAll(/^n(\d+)\r$/gm), (match) => Number(match[1]));
  assert.deepEqual(
    numbers,
    Array.from({ length: 200 }, (_, index) => index + 1),
  );

  const ended = await until(8000, 'the program to end', async () => {
    const exec = await bed.machines.getExec(id, program.id);
    return exec.endedAt === null ? undefined : exec;
  });
  assert.deepEqual(ended.end, { kind: 'exited', status: 9 });
  const output = await bed.machines.execOutput(id, program.id);
  assert.equal(
    Buffer.from(output.bytes).toString(),
    Array.from({ length: 300 }, (_, index) => `line ${index + 1}\n`).join(''),
  );
  assert.equal(output.total, ended.outputBytes);
  await bed.done(bed.machines.remove(anna, id));
});

test(
  'a keeper that lives but cannot be reached is told, never doubled, and can be replaced',
  { skip },
  async () => {
    const id = await bed.make(anna);
    const { db } = bed.store;
    const row = () =>
      db.selectFrom('machines').select(['keeper', 'gen']).where('id', '=', id).executeTakeFirstOrThrow();
    const { keeper, gen } = await row();
    assert.ok(keeper);
    await bed.suspend();
    rmSync(join(bed.dataDirectory, 'machines', id, 'keeper.sock'));
    await bed.resume();
    assert.ok(isAlive(keeper));
    const doubted = await bed.machines.waitForGen(id, gen, 10_000);
    assert.equal(doubted.state, 'failed');
    assert.equal(doubted.failure?.code, 'machine_lost');
    assert.ok(isAlive(keeper), 'doubt ends nothing');
    await bed.done(bed.machines.start(anna, id));
    assert.ok(!isAlive(keeper), 'the old one is gone before there is a new one');
    const reply = await bed.machines.run(id, runRequest.parse({ argv: ['true'] }));
    assert.deepEqual(reply.end, { kind: 'exited', status: 0 });
    await bed.done(bed.machines.remove(anna, id));
  },
);

test(
  'a keeper that hangs does not hold up the others, and its machine can be deleted',
  { skip },
  async () => {
    const [hung, well] = [await bed.make(anna), await bed.make(anna)];
    await bed.suspend();
    const note = readFileSync(join(bed.dataDirectory, 'machines', hung, 'lock'), 'utf8');
    const [pid = 0] = note.split(' ').map(Number);
    assert.ok(pid > 1);
    process.kill(pid, 'SIGSTOP');
    await bed.resume();
    const reply = await bed.machines.run(well, runRequest.parse({ argv: ['true'] }));
    assert.deepEqual(reply.end, { kind: 'exited', status: 0 });
    await bed.done(bed.machines.remove(anna, hung));
    await bed.done(bed.machines.remove(anna, well));
    assert.deepEqual(readdirSync(join(bed.dataDirectory, 'machines')), []);
  },
);

test(
  'a machine that powers itself off while there is no daemon is stopped, one that is killed has failed',
  { skip },
  async () => {
    const [off, killed] = [await bed.make(anna), await bed.make(anna)];
    const inits = await bed.store.db
      .selectFrom('machines')
      .select(['id', 'keeper'])
      .where('id', 'in', [off, killed])
      .execute();
    await bed.suspend();
    for (const { id, keeper } of inits) {
      assert.ok(keeper);
      process.kill(keeper.pid, id === off ? 'SIGTERM' : 'SIGKILL');
      await untilGone(keeper, 5000);
    }
    await bed.resume();
    const state = async (id: string) => {
      const { state, failure } = await bed.machines.get(id);
      return [state, failure?.code];
    };
    assert.deepEqual(await state(off), ['stopped', undefined]);
    assert.deepEqual(await state(killed), ['failed', 'machine_lost']);
    for (const id of [off, killed]) await bed.done(bed.machines.remove(anna, id));
  },
);

test('the end of a cloud takes a paused machine along', { skip }, async () => {
  const id = await bed.make(anna);
  await bed.done(bed.machines.pause(anna, id));
  const keeper = await keeperOf(bed.store.db, id);
  await bed.suspend();
  await sweepGroups(readCgroupLayout(), instanceGroup(instanceOf(bed.dataDirectory)));
  assert.ok(!isAlive(keeper));
  await bed.resume();
  assert.equal((await bed.machines.get(id)).state, 'failed');
  await bed.done(bed.machines.remove(anna, id));
});
