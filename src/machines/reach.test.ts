/** Forwards and scripts with real machines: containers in a network namespace of this file's own. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, before, suite, test } from 'node:test';
import { buffer } from 'node:stream/consumers';
import { until } from '#base/deadline.ts';
import type { Actor } from '#base/actor.ts';
import type { ScriptDetail } from '#contract/schemas/scripts.ts';
import { openListener } from '#fabric/listeners.ts';
import { waitForJob } from '#jobs/wait.ts';
import { openForwards, type Forwards } from './forwards.ts';
import { type Bed, startBed } from './testing.ts';

const skip = process.getuid?.() === 0 ? false : 'machines are made by root';

async function ask(port: number, text = ''): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
  socket.on('error', () => undefined);
  socket.end(text);
  return (await buffer(socket).catch(() => Buffer.from('(reset)'))).toString();
}

const answered = (port: number, text: string) =>
  until(10_000, `an answer on ${port}`, async () => ((await ask(port)).includes(text) ? true : undefined), {
    everyMs: 50,
  });

function brief({ results }: ScriptDetail): unknown[] {
  return results.map(({ line, end, stdout }) => [line, end, stdout.trim()]);
}
suite('reaching machines', { skip }, () => {
  let bed: Bed;
  let ada: Actor;
  let forwards: Forwards;
  const openAll = (more: { maxConnections?: number } = {}) =>
    openForwards({ store: bed.store, openListener: async (at) => openListener(at), retryMs: 200, ...more });

  before(async () => {
    bed = await startBed();
    ada = await bed.user('ada');
    forwards = openAll();
  });
  after(async () => {
    await forwards?.close();
    await bed?.[Symbol.asyncDispose]();
  });

  /** A machine in which a server on `port` answers each connection with `text` and what it was told. */
  async function serve(text: string, port: number): Promise<string> {
    const id = await bed.make(ada);
    await bed.machines.createExec(ada, id, {
      argv: ['/bin/sh', '-c', `while :; do (echo ${text}; cat) | nc -l -p ${port}; done`],
      env: {},
      cwd: '/',
      user: 'root',
      tty: null,
    });
    return id;
  }

  test('a forward leads to the machine, survives the daemon, and goes with it', async () => {
    const id = await serve('hello', 4096);
    const made = await forwards.create(ada, id, { host: '127.0.0.1', port: 18_080, machinePort: 4096 });
    assert.equal(made.state, 'listening');
    await answered(18_080, 'hello');

    await assert.rejects(forwards.create(ada, id, { host: '127.0.0.1', port: 18_080, machinePort: 22 }), {
      code: 'name_taken',
    });
    await forwards.close();
    assert.equal(await ask(18_080), '(reset)');
    forwards = openAll();
    await answered(18_080, 'hello');
    assert.deepEqual(
      (await forwards.listVisible(ada, { limit: 10 })).map(({ port, machinePort }) => [port, machinePort]),
      [[18_080, 4096]],
    );
    const eve = await bed.user('eve');
    assert.deepEqual(await forwards.listVisible(eve, { limit: 10 }), []);

    await bed.done(bed.machines.remove(ada, id));
    await until(5000, 'nothing to listen', async () =>
      (await ask(18_080)) === '(reset)' ? true : undefined,
    );
    assert.deepEqual(await forwards.list(id), []);
  });

  test('removing one closes the port and its connections at once', async () => {
    const id = await serve('bye', 4097);
    const { id: forward } = await forwards.create(ada, id, {
      host: '127.0.0.1',
      port: 18_081,
      machinePort: 4097,
    });
    await answered(18_081, 'bye');
    const open = connect({ host: '127.0.0.1', port: 18_081 });
    open.on('error', () => undefined);
    const ended = new Promise((resolve) => open.once('close', resolve));
    open.resume(); // what is not read would hide the end
    await once(open, 'connect');
    await forwards.remove(id, forward);
    await ended;
    assert.equal(await ask(18_081), '(reset)');
    await assert.rejects(forwards.remove(id, forward), { code: 'not_found' });
  });

  test('all forwards together have an end to their connections, and room again when one is closed', async () => {
    const id = await serve('room', 4098);
    await forwards.close();
    forwards = openAll({ maxConnections: 2 });
    for (const port of [18_085, 18_086])
      await forwards.create(ada, id, { host: '127.0.0.1', port, machinePort: 4098 });
    await answered(18_085, 'room');
    const open = [18_085, 18_086].map((port) => connect({ host: '127.0.0.1', port }));
    for (const one of open) one.on('error', () => undefined);
    await until(5000, 'both to be there', async () =>
      (await forwards.list(id)).every(({ connections }) => connections === 1) ? true : undefined,
    );
    assert.equal(await ask(18_085), '(reset)');
    for (const one of open) one.destroy();
    await answered(18_085, 'room');
    await forwards.close();
    forwards = openAll();
    await bed.done(bed.machines.remove(ada, id));
  });

  test('a port that another program has is refused, and nothing is left of it', async () => {
    const id = await bed.make(ada);
    using taken = openListener({ host: '127.0.0.1', port: 18_082 }).socket;
    assert.ok(taken.open);
    await assert.rejects(forwards.create(ada, id, { host: '127.0.0.1', port: 18_082, machinePort: 80 }), {
      code: 'name_taken',
      message: /in use by another program/,
    });
    assert.deepEqual(await forwards.list(id), []);
  });

  test('addresses beyond the loopback are for administrators, and sixteen forwards are enough', async () => {
    const id = await bed.make(ada);
    await assert.rejects(forwards.create(ada, id, { host: '0.0.0.0', port: 18_083, machinePort: 80 }), {
      code: 'forbidden',
    });
    const made = await Promise.allSettled(
      Array.from({ length: 20 }, (_, index) =>
        forwards.create(ada, id, { host: '127.0.0.1', port: 18_100 + index, machinePort: 80 }),
      ),
    );
    assert.equal(made.filter(({ status }) => status === 'fulfilled').length, 16);
    await bed.done(bed.machines.stop(ada, id));
    assert.equal(await ask(18_100), '(reset)');
  });

  const lines = ['echo one', 'false', 'echo three'];

  const expected = [
    ['echo one', { kind: 'exited', status: 0 }, 'one'],
    ['false', { kind: 'exited', status: 1 }, ''],
    ['echo three', { kind: 'exited', status: 0 }, 'three'],
  ];

  async function finished(id: string, scriptId: string): Promise<ScriptDetail> {
    return until(20_000, 'the script to end', async () => {
      const script = await bed.machines.scripts.get(id, scriptId);
      return script.endedAt === null ? undefined : script;
    });
  }

  test('a starter script runs once, at the first boot, line by line; and again whenever it is asked for', async () => {
    const id = await bed.make(ada, { start: false, starter: { lines, limitSeconds: 5 } });
    const [waiting] = await bed.machines.scripts.list(id);
    assert.equal(waiting?.state, 'waiting');
    await bed.done(bed.machines.start(ada, id));
    const first = await finished(id, waiting.id);
    assert.equal(first.state, 'done');
    assert.deepEqual(brief(first), expected);
    assert.deepEqual([first.lines, first.ended, first.failed], [3, 3, 1]);
    const times = first.results.map(({ startedAt }) => Date.parse(startedAt ?? ''));
    assert.deepEqual(
      times,
      times.toSorted((a, b) => a - b),
    );
    assert.ok(first.results.every(({ wallMs }) => wallMs !== null && wallMs >= 0));

    await bed.done(bed.machines.restart(ada, id, { graceMs: 0 }));
    assert.equal((await bed.machines.scripts.list(id)).length, 1);
    const { scriptId, job } = await bed.machines.scripts.run(ada, id, { again: waiting.id });
    assert.deepEqual(brief(await finished(id, scriptId)), expected);
    assert.equal((await waitForJob(bed.store, job.id)).state, 'done');
  });

  test('a line that reads finds the end of its input; one that hangs is ended, and the rest still runs', async () => {
    const id = await bed.make(ada);
    const { scriptId } = await bed.machines.scripts.run(ada, id, {
      lines: ['cat', 'sleep 60', 'echo last; echo err >&2', 'printf "\\000\\377x"', "echo 'quo\"ted'"],
      limitSeconds: 1,
    });
    await assert.rejects(bed.machines.scripts.run(ada, id, { lines: ['true'], limitSeconds: 1 }), {
      code: 'wrong_state',
    });
    const { results, state } = await finished(id, scriptId);
    assert.equal(state, 'done');
    assert.deepEqual(
      results.map(({ end }) => end),
      [
        { kind: 'exited', status: 0 },
        { kind: 'killed', reason: 'wall' },
        { kind: 'exited', status: 0 },
        { kind: 'exited', status: 0 },
        { kind: 'exited', status: 0 },
      ],
    );
    assert.equal(results[2]?.stderr, 'err\n');
    assert.deepEqual([results[3]?.stdoutBytes, results[3]?.stdout], [3, '\uFFFD\uFFFDx']);
    assert.equal(results[4]?.stdout, 'quo"ted\n');
  });

  test('of much output the beginning is kept, and how much there was', async () => {
    const id = await bed.make(ada);
    const { scriptId } = await bed.machines.scripts.run(ada, id, {
      lines: ['yes | head -c 200000'],
      limitSeconds: 20,
    });
    const [line] = (await finished(id, scriptId)).results;
    assert.deepEqual([line?.stdoutBytes, line?.stdout.length], [200_000, 16_384]);
  });

  test('a machine that stops in the middle: the rest is not run, and it is said why', async () => {
    const id = await bed.make(ada);
    const { scriptId, job } = await bed.machines.scripts.run(ada, id, {
      lines: ['sleep 30', 'echo never'],
      limitSeconds: 60,
    });
    await until(
      5000,
      'the first line to begin',
      async () => (await bed.machines.scripts.get(id, scriptId)).results[0]?.startedAt ?? undefined,
    );
    await bed.done(bed.machines.stop(ada, id, { graceMs: 0 }));
    const script = await finished(id, scriptId);
    assert.equal(script.results[1]?.startedAt, null);
    assert.ok(script.state === 'interrupted' && script.failure !== null, JSON.stringify(script));
    assert.equal((await waitForJob(bed.store, job.id)).state, 'failed');
  });

  test('a daemon that ends in the middle: the script goes on behind the line that was running', async () => {
    const id = await bed.make(ada);
    const { scriptId, job } = await bed.machines.scripts.run(ada, id, {
      lines: ['echo a >> /root/log', 'echo b >> /root/log; sleep 3', 'echo c >> /root/log', 'cat /root/log'],
      limitSeconds: 20,
    });
    await until(
      5000,
      'the second line to be at work',
      async () =>
        (await bed.machines.readFile(id, '/root/log').catch(() => undefined))?.bytes.includes(98) ||
        undefined,
    );
    await bed.suspend();
    await bed.resume();
    const script = await finished(id, scriptId);
    assert.equal(script.state, 'done');
    assert.deepEqual(script.results[1]?.end, { kind: 'killed', reason: 'cancelled' });
    assert.equal(script.results[3]?.stdout, 'a\nb\nc\n');
    const ended = await waitForJob(bed.store, job.id);
    assert.equal(ended.state, 'done');
  });

  test('deleting a machine forgets its scripts; a request for a foreign one finds nothing', async () => {
    const id = await bed.make(ada);
    const other = await bed.make(ada);
    const { scriptId } = await bed.machines.scripts.run(ada, id, { lines: ['true'], limitSeconds: 5 });
    await finished(id, scriptId);
    await assert.rejects(bed.machines.scripts.get(other, scriptId), { code: 'not_found' });
    await assert.rejects(bed.machines.scripts.run(ada, other, { again: scriptId }), { code: 'not_found' });
    await bed.done(bed.machines.remove(ada, id));
    await assert.rejects(bed.machines.scripts.get(id, scriptId), { code: 'not_found' });
  });
});
