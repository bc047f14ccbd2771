/**
 * Reaching machines of a real cloud: port forwards from outside and from the host itself, a console for telnet
 * clients, scripts; all of it through kill -9 of the daemon. The cloud lives in a stand-in for the host.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { buffer } from 'node:stream/consumers';
import { until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import type { ScriptDetail } from '#contract/schemas/scripts.ts';
import { type Service, launchService } from '#host/launch.ts';
import { type Cloud, type Person, startCloud, whyNoCloud } from './harness/cloud.ts';
import { enterNetns, makeNetns, type Netbed } from './netbed.ts';

const skip = whyNoCloud() ?? false;
const hostAddress = '10.99.0.1';

/** What comes back for `text`; undefined where nothing listens, or where nobody answers behind it. */
async function ask(port: number, { host = '127.0.0.1', text = '' } = {}): Promise<string | undefined> {
  const socket = connect({ host, port, allowHalfOpen: true });
  socket.on('error', () => undefined);
  socket.end(text);
  const answer = await buffer(socket).catch(() => undefined);
  return answer === undefined || answer.length === 0 ? undefined : answer.toString();
}

const answers = (port: number, text: string, host = '127.0.0.1'): Promise<true> =>
  until(
    15_000,
    `${text} from port ${port}`,
    async () => (await ask(port, { host }))?.includes(text) || undefined,
    {
      everyMs: 100,
    },
  );
const refuses = (port: number): Promise<true> =>
  until(10_000, `nothing behind port ${port}`, async () => (await ask(port)) === undefined || undefined, {
    everyMs: 50,
  });

async function killDaemon(cloud: Cloud): Promise<void> {
  const { daemon } = await cloud.untilWell();
  process.kill(daemon, 'SIGKILL');
  await until(20_000, 'another daemon', async () => (await cloud.untilWell()).daemon !== daemon || undefined);
}

async function patiently<T>(call: () => Promise<T>): Promise<T> {
  const got = await until(20_000, 'machines to be there again', async () => {
    try {
      return { value: await call() };
    } catch (error) {
      if (isCarrelError(error, 'unavailable')) return undefined;
      throw error;
    }
  });
  return got.value;
}

/** What a client has been shown, without the telnet commands between. */
function transcript(socket: Socket): () => string {
  let text = '';
  socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
  return () => text;
}

/** Line, status and output; every line has its times. */
const brief = (script: ScriptDetail) =>
  script.results.map(({ line, end, stdout, startedAt, wallMs }) => {
    assert.ok(startedAt !== null && wallMs !== null);
    return [line, end?.kind === 'exited' ? end.status : end, stdout];
  });

suite('reaching machines of a real cloud', { skip, concurrency: false, timeout: 240_000 }, () => {
  let host: Netbed;
  let outside: Netbed;
  let cloud: Cloud;
  let ada: Person;

  before(async () => {
    host = await makeNetns();
    outside = await makeNetns();
    await host.run('ip', 'link', 'set', 'lo', 'up');
    const peer = ['peer', 'name', 'out0', 'netns', String(outside.pid)];
    await host.run('ip', 'link', 'add', 'host0', 'type', 'veth', ...peer);
    await host.run('ip', 'addr', 'add', `${hostAddress}/24`, 'dev', 'host0');
    await host.run('ip', 'link', 'set', 'host0', 'up');
    await outside.run('ip', 'addr', 'add', '10.99.0.2/24', 'dev', 'out0');
    await outside.run('ip', 'link', 'set', 'out0', 'up');
    enterNetns(host.pid);
    cloud = await startCloud({ address: hostAddress });
    ada = await cloud.person('ada');
    await make('web');
  });
  after(async () => {
    const left = await cloud?.down();
    await cloud?.[Symbol.asyncDispose]();
    if (host) enterNetns(process.ppid);
    await outside?.[Symbol.asyncDispose]();
    await host?.[Symbol.asyncDispose]();
    assert.deepEqual(left, []);
  });

  async function make(name: string, more: object = {}): Promise<void> {
    const { job } = await ada.client.createMachine({ params: {}, body: { name, image: 'busybox', ...more } });
    const ended = await ada.client.getJob({ params: { job: job.id }, query: { wait: 60 } });
    assert.equal(ended.state, 'done', JSON.stringify(ended.error));
  }

  const machine = 'web';
  const carrel = (...words: string[]) => cloud.carrel(...words, '--url', cloud.url, '--token', ada.token);

  test('a forward is reached from outside and from the host itself, outlives the daemon, and ends for both', async () => {
    await ada.client.createExec({
      params: { machine },
      body: { argv: ['/bin/sh', '-c', 'while :; do (echo hello from inside; cat) | nc -l -p 4096; done'] },
    });
    await assert.rejects(
      ada.client.createForward({
        params: { machine },
        body: { host: hostAddress, port: 8080, machinePort: 4096 },
      }),
      { code: 'forbidden' },
    );
    const { id } = await ada.client.getMachine({ params: { machine } });
    const everywhere = await cloud.admin.createForward({
      params: { machine: id },
      body: { host: hostAddress, port: 8080, machinePort: 4096 },
    });
    const made = await carrel('forward', machine, '8081:4096');
    assert.equal(made.status, 0, made.stderr.toString());
    assert.match((await carrel('forward', machine, '8081:80')).stderr.toString(), /is forwarded already/);

    const fromOutside = async (): Promise<string> =>
      (await outside.run('busybox', 'timeout', '5', 'busybox', 'nc', hostAddress, '8080')).stdout.toString();
    const check = async (): Promise<void> => {
      await answers(8080, 'hello from inside', hostAddress);
      await answers(8081, 'hello from inside');
      await until(
        10_000,
        'an answer outside',
        async () => (await fromOutside()).includes('hello') || undefined,
      );
    };
    await check();
    await killDaemon(cloud);
    await check();
    assert.match(
      (await carrel('forward', 'ls')).stdout.toString(),
      /127\.0\.0\.1:8081 +web +4096 +listening/,
    );

    await cloud.admin.removeForward({ params: { machine: id, forward: everywhere.id } });
    assert.equal((await carrel('forward', 'rm', machine, '8081')).status, 0);
    assert.equal(await ask(8080, { host: hostAddress }), undefined);
    assert.equal(await ask(8081), undefined);
    assert.equal(await fromOutside(), '');
  });

  test('a forward to a machine that is stopped refuses, and leads in again when it runs', async () => {
    await ada.client.createForward({ params: { machine }, body: { port: 8082, machinePort: 7 } });
    await ada.client.createExec({
      params: { machine },
      body: { argv: ['/bin/sh', '-c', 'while :; do echo one | nc -l -p 7; done'] },
    });
    await answers(8082, 'one');
    const stopped = await ada.client.stopMachine({ params: { machine }, body: { graceMs: 0 } });
    await ada.client.getJob({ params: { job: stopped.job.id }, query: { wait: 30 } });
    await refuses(8082);
    const started = await ada.client.startMachine({ params: { machine } });
    await ada.client.getJob({ params: { job: started.job.id }, query: { wait: 30 } });
    await ada.client.createExec({
      params: { machine },
      body: { argv: ['/bin/sh', '-c', 'while :; do echo two | nc -l -p 7; done'] },
    });
    await answers(8082, 'two');
  });

  test('the console is served to telnet clients of this host: all see the same, who types takes over', async () => {
    const port = 10_002;
    const program = join(import.meta.dirname, '../carrel');
    const argv = [
      'console',
      machine,
      '--telnet',
      `127.0.0.1:${port}`,
      '--url',
      cloud.url,
      '--token',
      ada.token,
    ];
    const refused = await carrel('console', machine, '--telnet', `${hostAddress}:${port}`);
    assert.match(refused.stderr.toString(), /can be reached from outside this host/);
    const proxy: Service = await launchService([program, ...argv], {
      env: { ...process.env, CARREL_SKIP_SETUP: '1' },
    });
    try {
      const dial = (): Promise<Socket> =>
        until(15_000, 'the port to be open', async () => {
          const socket = connect({ host: '127.0.0.1', port });
          socket.on('error', () => undefined);
          return once(socket, 'connect').then(
            () => socket,
            () => undefined,
          );
        });
      const first = await dial();
      const seenByFirst = transcript(first);
      const second = await dial();
      const seenBySecond = transcript(second);
      // WILL ECHO is offered at once, and an option nobody needs is refused
      await until(5000, 'the negotiation', () => seenByFirst().includes('\u00ff\u00fb\u0001') || undefined);
      first.write(Buffer.of(255, 253, 24));
      await until(5000, 'a refusal', () => seenByFirst().includes('\u00ff\u00fc\u0018') || undefined);

      first.write('echo fi""rst $((40 + 2))\r\n');
      for (const seen of [seenByFirst, seenBySecond])
        await until(10_000, 'the output', () => seen().includes('first 42') || undefined);
      second.write('echo sec""ond\r\0');
      for (const seen of [seenByFirst, seenBySecond])
        await until(10_000, 'the output', () => seen().includes('second') || undefined);
      await until(5000, 'word of it', () => seenByFirst().includes('somebody else is typing') || undefined);

      await killDaemon(cloud);
      await until(
        20_000,
        'the console to come back',
        () => {
          first.write('echo ba""ck\r\n');
          return seenBySecond().includes('back') || undefined;
        },
        { everyMs: 500 },
      );
      first.destroy();
      second.destroy();
    } finally {
      await proxy.stop({ graceMs: 2000 });
    }
    assert.equal(await ask(port), undefined);
  });

  const finished = (script: string, at = machine): Promise<ScriptDetail> =>
    until(
      30_000,
      'the script to end',
      async () => {
        const detail = await patiently(() => ada.client.getScript({ params: { machine: at, script } }));
        return detail.endedAt === null ? undefined : detail;
      },
      { everyMs: 100 },
    );

  test('a starter script runs line by line; the same lines run again later from the command line', async () => {
    const file = join(cloud.directory, 'starter.txt');
    writeFileSync(file, '# what every machine of the lab does\necho one\n\nfalse\necho three');
    const made = await carrel('machine', 'new', 'started', '--image', 'busybox', '--starter', file);
    assert.equal(made.status, 0, made.stderr.toString());
    const { items } = await ada.client.listScripts({ params: { machine: 'started' } });
    assert.equal(items.length, 1);
    const expected = [
      ['echo one', 0, 'one\n'],
      ['false', 1, ''],
      ['echo three', 0, 'three\n'],
    ];
    assert.deepEqual(brief(await finished(items[0]?.id ?? '', 'started')), expected);

    const again = await carrel('script', 'run', 'started', file, '--json');
    assert.equal(again.status, 1); // one of the lines failed
    assert.equal(JSON.parse(again.stdout.toString()).failed, 1);
    assert.match((await carrel('script', 'show', 'started')).stdout.toString(), /2 {2}\[1\] .*\$ false/);
  });

  test('one program in all machines: each has its status, output and time; who is off or hangs holds up nobody', async () => {
    await make('off', { start: false });
    const script = 'echo I am $(hostname); [ $(hostname) != started ] || sleep 100';
    const login = ['--url', cloud.url, '--token', ada.token];
    const ran = await cloud.carrel(
      'machine',
      'run-all',
      ...login,
      '--limit',
      '3s',
      '--json',
      'sh',
      '-c',
      script,
    );
    assert.equal(ran.status, 1, ran.stderr.toString());
    const outcomes: { name: string; end: unknown; stdout: string; wallMs: number; error: string | null }[] =
      JSON.parse(ran.stdout.toString());
    const of = (name: string) => outcomes.find((each) => each.name === name) ?? assert.fail(name);
    assert.equal(outcomes.length, 3);
    assert.deepEqual([of('web').end, of('web').stdout], [{ kind: 'exited', status: 0 }, 'I am web\n']);
    assert.deepEqual(of('started').end, { kind: 'killed', reason: 'wall' });
    assert.equal(of('started').stdout, 'I am started\n');
    assert.ok(of('started').wallMs >= 3000);
    assert.deepEqual([of('off').end, of('off').error], [null, 'it is stopped']);
    const fine = await cloud.carrel('machine', 'run-all', ...login, '--owner', 'nobody', 'true');
    assert.match(fine.stdout.toString(), /no such machine/);
  });

  test('kill -9 of the daemon in the middle: no line is run twice, the one at work is said to be interrupted', async () => {
    const { id } = await ada.client.runScript({
      params: { machine },
      body: {
        lines: [
          'echo a >> /root/log',
          'echo b >> /root/log; sleep 4',
          'echo c >> /root/log',
          'cat /root/log',
        ],
        limitSeconds: 20,
      },
    });
    const params = { machine };
    await until(10_000, 'the second line to be at work', async () => {
      const log = await ada.client.readFile({ params, query: { path: '/root/log' } }).catch(() => undefined);
      const text = log && (await new Response(log instanceof Uint8Array ? new Uint8Array(log) : log).text());
      return text?.includes('b') || undefined;
    });
    await killDaemon(cloud);
    const script = await finished(id ?? '');
    assert.equal(script.state, 'done');
    assert.equal(script.results[3]?.stdout, 'a\nb\nc\n');
    assert.equal(script.results[1]?.end, null);
    assert.match(script.results[1]?.error ?? '', /interrupted/);
  });
});
