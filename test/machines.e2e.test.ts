/** Machines through the API of a real cloud: made, used, kept through kill -9 of the daemon, apart, deleted. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { until, within } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { collectFiles, pack } from '#cli/archive.ts';
import { openStream } from '#cli/stream.ts';
import type { Client } from '#contract/client.ts';
import type { Grade } from '#contract/schemas/labs.ts';
import type { RunRequest, RunReply } from '#contract/schemas/machines.ts';
import { startCloud, whyNoCloud, type Cloud, type Person } from './harness/cloud.ts';

const skip = whyNoCloud() ?? false;
const labFolder = fileURLToPath(new URL('../labs/first-namespaces', import.meta.url));

async function done(client: Client, accepted: Promise<{ readonly job: { readonly id: string } }>) {
  const { job } = await accepted;
  const ended = await client.getJob({ params: { job: job.id }, query: { wait: 60 } });
  assert.equal(ended.state, 'done', JSON.stringify(ended.error));
  return ended;
}

async function runIn(
  { client }: Person,
  machine: string,
  argv: string[],
  more: Partial<RunRequest> = {},
): Promise<RunReply> {
  return await client.runInMachine({ params: { machine }, body: { argv, cwd: '/', ...more } });
}

/** What a command prints, when it ends well. */
async function said(person: Person, machine: string, ...argv: string[]): Promise<string> {
  const reply = await runIn(person, machine, argv);
  const stderr = Buffer.from(reply.stderr, 'base64').toString();
  assert.deepEqual(reply.end, { kind: 'exited', status: 0 }, stderr);
  return Buffer.from(reply.stdout, 'base64').toString();
}

async function textOf(download: Uint8Array | ReadableStream<Uint8Array>): Promise<string> {
  return download instanceof Uint8Array ? Buffer.from(download).toString() : await text(download);
}

/** Kills the daemon and waits for the next one. */
async function killDaemon(cloud: Cloud): Promise<void> {
  const { daemon } = await cloud.untilWell();
  process.kill(daemon, 'SIGKILL');
  await until(20_000, 'another daemon', async () =>
    (await cloud.untilWell()).daemon === daemon ? undefined : true,
  );
}

/** Machines come a moment after the API: what needs them answers `unavailable` until then. */
async function patiently<T>(call: () => Promise<T>): Promise<T> {
  return await until(
    20_000,
    'machines to be there again',
    async () => {
      try {
        return { value: await call() };
      } catch (error) {
        if (isCarrelError(error, 'unavailable')) return undefined;
        throw error;
      }
    },
    { everyMs: 50 },
  ).then(({ value }) => value);
}

async function make({ client }: Person, name: string, limits = {}): Promise<void> {
  await done(client, client.createMachine({ params: {}, body: { name, image: 'busybox', limits } }));
}

async function remove({ client }: Person, machine: string): Promise<void> {
  await done(client, client.deleteMachine({ params: { machine } }));
}

async function addressOf({ client }: Person, machine: string): Promise<string> {
  return (await client.getMachine({ params: { machine } })).address ?? assert.fail();
}

const stale = (error: unknown): boolean => isCarrelError(error, 'etag_mismatch');

suite('machines of a real cloud', { skip, concurrency: false, timeout: 300_000 }, () => {
  let cloud: Cloud;
  let ada: Person;
  let bob: Person;

  before(async () => {
    cloud = await startCloud();
    ada = await cloud.person('ada');
    bob = await cloud.person('bob');
  });
  after(async () => {
    await cloud[Symbol.asyncDispose]();
  });

  test('a machine is made, runs commands as root with its streams, and keeps files', async () => {
    await make(ada, 'first');
    const machine = await ada.client.getMachine({ params: { machine: 'first' } });
    assert.deepEqual([machine.state, machine.activity, machine.failure], ['running', null, null]);
    assert.match(machine.address ?? '', /^192\.168\./);
    assert.equal(await said(ada, 'first', 'id', '-u'), '0\n');
    assert.equal(await said(ada, 'first', 'hostname'), 'first\n');
    const reply = await runIn(ada, 'first', ['sh', '-c', 'read x; echo "<$x>"; echo oops >&2; exit 7'], {
      stdin: Buffer.from('hello\n').toString('base64'),
    });
    assert.deepEqual(reply.end, { kind: 'exited', status: 7 });
    assert.equal(Buffer.from(reply.stdout, 'base64').toString(), '<hello>\n');
    assert.equal(Buffer.from(reply.stderr, 'base64').toString(), 'oops\n');

    const bytes = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 251));
    const params = { machine: 'first' };
    await ada.client.writeFile({ params, query: { path: '/root/data.bin', mode: '0600' }, bytes });
    const [sum] = (await said(ada, 'first', 'sha256sum', '/root/data.bin')).split(' ');
    assert.equal(sum, createHash('sha256').update(bytes).digest('hex'));
    const back = await ada.client.readFile({ params, query: { path: '/root/data.bin' } });
    const whole = back instanceof Uint8Array ? back : new Uint8Array(await new Response(back).arrayBuffer());
    assert.ok(Buffer.from(whole).equals(bytes));
    for (const path of ['../../etc/passwd', '/root/two\nlines'])
      await assert.rejects(ada.client.writeFile({ params, query: { path }, bytes }), (error) =>
        isCarrelError(error, 'validation_failed'),
      );
    await remove(ada, 'first');
  });

  test('who has seen another version of a machine changes nothing; one key restarts it once', async () => {
    await make(ada, 'seen');
    const { client } = ada;
    const params = { machine: 'seen' };
    const { gen } = await client.getMachine({ params });
    const old = { ifMatch: `"${gen - 1}"` };
    await assert.rejects(client.deleteMachine({ params }, old), stale);
    await assert.rejects(client.stopMachine({ params, body: {} }, old), stale);
    assert.equal((await client.getMachine({ params })).gen, gen);

    const once = { ifMatch: `"${gen}"`, idempotencyKey: crypto.randomUUID() };
    const first = await client.restartMachine({ params, body: {} }, once);
    const again = await client.restartMachine({ params, body: {} }, once);
    assert.equal(again.job.id, first.job.id);
    const ended = await client.getJob({ params: { job: first.job.id }, query: { wait: 30 } });
    assert.equal(ended.state, 'done', JSON.stringify(ended.error));
    const { items } = await client.listJobs({ params: {}, query: { kind: ended.kind } });
    assert.equal(items.length, 1);
    await remove(ada, 'seen');
  });

  test('limits hold: memory, processes, time, disk', async () => {
    await make(ada, 'small', {
      memoryBytes: 64 * 2 ** 20,
      processes: 32,
      diskBytes: 16 * 2 ** 20,
      cpus: 0.5,
    });
    const memory = await runIn(ada, 'small', ['sh', '-c', 'tail -c 200m /dev/zero']);
    assert.notDeepEqual(memory.end, { kind: 'exited', status: 0 });
    const forks = await runIn(ada, 'small', [
      'sh',
      '-c',
      'i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; wait',
    ]);
    assert.match(Buffer.from(forks.stderr, 'base64').toString(), /fork/);
    // what the loop started may still take every place for some seconds
    const time = await until(15_000, 'room to enter', async () => {
      try {
        return await runIn(ada, 'small', ['sleep', '30'], { limitMs: 300 });
      } catch (error) {
        if (!isCarrelError(error, 'no_capacity')) throw error;
        return undefined;
      }
    });
    assert.deepEqual(time.end, { kind: 'killed', reason: 'wall' });
    const disk = await runIn(ada, 'small', ['dd', 'if=/dev/zero', 'of=/root/big', 'bs=1M', 'count=64']);
    assert.match(Buffer.from(disk.stderr, 'base64').toString(), /No space/);
    assert.equal(await said(ada, 'small', 'echo', 'still', 'here'), 'still here\n');
    await remove(ada, 'small');
  });

  test('kill -9 of the daemon: the machine, its console and its programs go on, and no byte is lost', async () => {
    await make(ada, 'steady');
    const { client, token } = ada;
    const params = { machine: 'steady' };
    const { id } = await client.getMachine({ params });
    const keeperOf = async () =>
      (
        await cloud
          .store()
          .db.selectFrom('machines')
          .select('keeper')
          .where('id', '=', id)
          .executeTakeFirstOrThrow()
      ).keeper;
    const first = await keeperOf();
    assert.ok(first);
    const uptime = async (): Promise<string> => await said(ada, 'steady', 'stat', '-c', '%Y', '/proc/1');
    const boot = await uptime();
    const program = await client.createExec({
      params,
      body: {
        argv: ['sh', '-c', 'for i in $(seq 100); do echo line $i; sleep 0.05; done; exit 9'],
        cwd: '/',
      },
    });

    let output = '';
    const states: string[] = [];
    const stream = openStream({
      url: new URL(`${cloud.url}/v1/machines/steady/console`),
      token,
      from: 0,
      output: (bytes) => void (output += Buffer.from(bytes).toString()),
      state: (state) => void states.push(state),
    });
    stream.input(
      Buffer.from("echo be''gin; for i in $(seq 200); do echo n$i; sleep 0.02; done; echo en''d\n"),
    );
    await until(10_000, 'the first lines', () => (/n20\r\n/.test(output) ? true : undefined));
    await killDaemon(cloud);
    await until(20_000, `the last line in ${JSON.stringify(output.slice(-200))}`, () =>
      /\nend\r\n/.test(output) ? true : undefined,
    );
    stream.leave();
    await within(5000, 'the stream to end', stream.ended);
    assert.ok(states.includes('lost'), 'the connection was lost in between');
    const numbers = Array.from(output.matchAll(/^n(\d+)\r$/gm), (match) => Number(match[1]));
    assert.deepEqual(
      numbers,
      Array.from({ length: 200 }, (_, index) => index + 1),
    );
    let whole = '';
    const again = openStream({
      url: new URL(`${cloud.url}/v1/machines/steady/console`),
      token,
      from: 0,
      output: (bytes) => void (whole += Buffer.from(bytes).toString()),
    });
    await until(10_000, 'the history', () => (whole.startsWith(output) ? true : undefined));
    again.leave();

    assert.deepEqual(await keeperOf(), first, 'the same keeper');
    assert.equal(await patiently(uptime), boot, 'the same first process');
    assert.equal((await client.getMachine({ params })).state, 'running');
    const ended = await until(20_000, 'the program to end', async () => {
      const exec = await client.getExec({ params: { machine: 'steady', exec: program.id } });
      return exec.endedAt === null ? undefined : exec;
    });
    assert.deepEqual(ended.end, { kind: 'exited', status: 9 });
    const kept = await client.getExecOutput({ params: { machine: 'steady', exec: program.id }, query: {} });
    assert.equal(
      await textOf(kept),
      Array.from({ length: 100 }, (_, index) => `line ${index + 1}\n`).join(''),
    );
    await remove(ada, 'steady');
    await assert.rejects(client.getMachine({ params }), (error) => isCarrelError(error, 'not_found'));
  });

  test('kill -9 of the fork server: running machines stay usable, and new ones can be made', async () => {
    await make(ada, 'before');
    const { forkServer } = await cloud.untilWell();
    process.kill(forkServer, 'SIGKILL');
    await until(20_000, 'another fork server', async () =>
      (await cloud.untilWell()).forkServer === forkServer ? undefined : true,
    );
    assert.equal(await said(ada, 'before', 'echo', 'here'), 'here\n');
    await make(ada, 'after');
    await Promise.all([remove(ada, 'before'), remove(ada, 'after')]);
  });

  test('machines of one owner reach each other, those of two do not', async () => {
    await Promise.all([make(ada, 'ada-1'), make(ada, 'ada-2'), make(bob, 'bob-1')]);
    const ping = async (person: Person, machine: string, address: string): Promise<boolean> => {
      const { end } = await runIn(person, machine, ['ping', '-c', '2', '-W', '1', address]);
      return end.kind === 'exited' && end.status === 0;
    };
    assert.ok(await ping(ada, 'ada-1', await addressOf(ada, 'ada-2')), 'her own other machine answers');
    assert.ok(!(await ping(ada, 'ada-1', await addressOf(bob, 'bob-1'))), 'his does not');
    assert.ok(!(await ping(bob, 'bob-1', await addressOf(ada, 'ada-2'))), 'nor hers to him');
    await assert.rejects(
      runIn(bob, (await ada.client.getMachine({ params: { machine: 'ada-1' } })).id, ['id']),
      (error) => isCarrelError(error, 'not_found') || isCarrelError(error, 'forbidden'),
    );
    await Promise.all([remove(ada, 'ada-1'), remove(ada, 'ada-2'), remove(bob, 'bob-1')]);
  });

  test('a machine lab is graded from outside: full points for the reference, its own for a bad one', async (t) => {
    const images = (await cloud.admin.listImages({ params: {}, query: {} })).items;
    if (!images.some(({ name, state }) => name === 'debian-12' && state === 'ready'))
      return t.skip('the image debian-12 is not in the cache');
    const { admin } = cloud;
    await admin.createCourse({ params: {}, body: { name: 'os', title: 'Operating systems' } });
    for (const { name } of [ada, bob])
      await admin.setMember({
        params: { course: 'os', user: name },
        body: { role: 'student', section: null },
      });
    const bytes = await pack(await collectFiles([labFolder], labFolder));
    const { id } = await admin.importLab({ params: { course: 'os' }, query: {}, bytes });
    await admin.changeLab({ params: { lab: id }, body: { released: true } });
    const grade = async ({ client }: Person, solution: string): Promise<Grade> => {
      const directory = join(labFolder, 'solutions', solution);
      const files = await pack(await collectFiles([directory], directory));
      const { submission, job } = await client.submit({ params: { lab: id }, bytes: files });
      await done(client, Promise.resolve({ job }));
      const { items } = await client.listGrades({ params: { submission: submission.id } });
      return items[0] ?? assert.fail();
    };
    const [full, bad] = await Promise.all([grade(ada, 'reference'), grade(bob, 'wrong-hostname')]);
    assert.deepEqual([full.state, full.points], ['graded', 10]);
    assert.deepEqual(
      [bad.state, bad.points, bad.checks.map(({ state }) => state)],
      ['graded', 2, ['passed', 'failed', 'skipped', 'failed', 'skipped', 'skipped']],
    );
    assert.deepEqual((await admin.listMachines({ params: {}, query: {} })).items, [], 'no machine is left');
    return undefined;
  });

  test('after down nothing dangles, neither here nor in the rows', async () => {
    const log = readFileSync(join(cloud.directory, 'log', 'daemon.log'), 'utf8');
    const faults = log.split('\n').filter((line) => line.includes('"level":"error"'));
    assert.deepEqual(faults, []);
    assert.deepEqual(await cloud.down(), []);
    await cloud.withRows(async ({ db }) => {
      const addresses = await db.selectFrom('addresses').selectAll().execute();
      const machines = await db
        .selectFrom('machines')
        .select(['name', 'state', 'activity'])
        .where('deleted_at', 'is', null)
        .execute();
      const jobs = await db.selectFrom('jobs').select('kind').where('ended_at', 'is', null).execute();
      assert.deepEqual({ addresses, machines, jobs }, { addresses: [], machines: [], jobs: [] });
    });
  });
});
