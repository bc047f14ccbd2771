import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as z from 'zod';
import { until } from '#base/deadline.ts';
import { isLocked } from '#host/flock.ts';
import { type Service, launch, launchOk, launchService } from '#host/launch.ts';
import { type ProcessIdentity, identify, isAlive, signalProcess } from '#host/processes.ts';
import { type Netbed, enterNetns, linkNames, makeNetns, netnsLeft } from '#test/netbed.ts';
import { doormanStatus, requestListener, requestShutdown } from './control.ts';
import { type Doorman, type DoormanOptions, controlPath, startDoorman } from './doorman.ts';
import { processesIn } from './namespace.ts';
import { netnsOf } from './netns.ts';

const root = process.getuid?.() === 0;
const skip = root ? false : 'needs root';
const directory = mkdtempSync(join(tmpdir(), 'doorman-'));
const stack = new AsyncDisposableStack();
const links = linkNames();
let outside: Netbed;
let host: Netbed;

/** A small daemon: opens the fabric, says who and where it is, ends with its standard input. */
const daemonSource = `
import { createServer } from 'node:http';
import { openFabric } from '${import.meta.dirname}/fabric.ts';
import { fabricEnvironment } from '${import.meta.dirname}/environment.ts';
import { inheritedListeners } from '${import.meta.dirname}/listeners.ts';
import { netnsOf } from '${import.meta.dirname}/netns.ts';
using fabric = await openFabric(fabricEnvironment());
await fabric.reconcile([]);
const server = createServer((_, response) => response.end(JSON.stringify({ pid: process.pid, netns: netnsOf('self') })));
for (const { fd } of inheritedListeners()) server.listen({ fd });
process.stdin.on('end', () => process.exit(0)).resume();
await new Promise(() => undefined);
`;

before(async () => {
  if (!root) return;
  writeFileSync(join(directory, 'daemon.ts'), daemonSource);
  // a stand-in for the host, with a way out to a stand-in for the world: nothing here touches the real one
  host = stack.use(await makeNetns());
  outside = stack.use(await makeNetns());
  await host.run('ip', 'link', 'set', 'lo', 'up');
  await host.run(
    'ip',
    'link',
    'add',
    'host0',
    'type',
    'veth',
    'peer',
    'name',
    'world0',
    'netns',
    String(outside.pid),
  );
  await host.run('ip', 'addr', 'add', '198.51.100.2/24', 'dev', 'host0');
  await host.run('ip', 'link', 'set', 'host0', 'up');
  await host.run('ip', 'route', 'add', 'default', 'via', '198.51.100.1');
  await outside.run('ip', 'addr', 'add', '198.51.100.1/24', 'dev', 'world0');
  await outside.run('ip', 'addr', 'add', '203.0.113.1/32', 'dev', 'world0');
  await outside.run('ip', 'link', 'set', 'world0', 'up');
  enterNetns(host.pid);
});

after(async () => {
  if (!root) return;
  enterNetns(process.ppid);
  await stack.disposeAsync();
  rmSync(directory, { recursive: true });
  assert.deepEqual(netnsLeft(), []);
  assert.deepEqual(linkNames(), links);
});

function options(name: string, more: Partial<DoormanOptions> = {}): DoormanOptions {
  return {
    dataDirectory: join(directory, name),
    listen: [{ name: 'http', host: '127.0.0.1', port: 0 }],
    argv: [process.execPath, join(directory, 'daemon.ts')],
    uplink: 'none',
    ...more,
  };
}

const daemonAnswer = z.strictObject({ pid: z.int(), netns: z.string() });

/** Asks the daemon over a new connection; while it restarts, the connection waits. */
async function ask(port: number): Promise<z.infer<typeof daemonAnswer>> {
  return await new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', port, agent: false, timeout: 10_000 }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => resolve(daemonAnswer.parse(JSON.parse(text))));
    });
    asked.on('timeout', () => asked.destroy(new Error('no answer'))).on('error', reject);
    asked.end();
  });
}

function portOf(doorman: Doorman): number {
  return doorman.status.listeners[0]?.port ?? 0;
}

test(
  'a daemon inside the fabric is reached from outside, and everything ends with the doorman',
  { skip },
  async () => {
    const doorman = await startDoorman(options('a'));
    const { pid, netns } = await ask(portOf(doorman));
    assert.equal(netns, doorman.status.netns);
    assert.notEqual(netns, netnsOf('self'));
    assert.equal(pid, doorman.status.daemonPid);
    assert.deepEqual(await doormanStatus(controlPath(join(directory, 'a'))), doorman.status);
    assert.deepEqual(await doorman.stop(), { fabricEnded: true, inhabitants: [] });
    assert.deepEqual(await doorman.ended, { fabricEnded: true, inhabitants: [] });
    assert.deepEqual(processesIn(netns), []);
    assert.equal(isLocked(join(directory, 'a', 'run', 'doorman.lock')), false);
    await assert.rejects(ask(portOf(doorman)), /ECONNREFUSED/);
  },
);

test(
  'a daemon that is killed is started again in the same fabric, and no connection is refused',
  { skip },
  async () => {
    const doorman = await startDoorman(options('b'));
    try {
      let last = await ask(portOf(doorman));
      for (let round = 0; round < 3; round += 1) {
        process.kill(last.pid, 'SIGKILL');
        const next = await ask(portOf(doorman));
        assert.notEqual(next.pid, last.pid);
        assert.equal(next.netns, last.netns);
        last = next;
      }
      assert.equal(doorman.status.daemonRestarts, 3);
      const rules = await launchOk([
        'nsenter',
        `--net=/proc/${last.pid}/ns/net`,
        '--',
        'nft',
        'list',
        'ruleset',
      ]);
      assert.equal(rules.stdout.toString().match(/masquerade/g)?.length, 1);
    } finally {
      await doorman.stop();
    }
  },
);

test('a second doorman for the same data reports the first and changes nothing', { skip }, async () => {
  const doorman = await startDoorman(options('c'));
  try {
    await assert.rejects(startDoorman(options('c')), new RegExp(`running already .*process ${process.pid}`));
    assert.ok((await ask(portOf(doorman))).pid > 0);
  } finally {
    await doorman.stop();
  }
});

test('an address that is taken is reported, and nothing is left', { skip }, async () => {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  await assert.rejects(
    startDoorman(options('d', { listen: [{ name: 'http', host: '127.0.0.1', port }] })),
    /in use/,
  );
  server.close();
  assert.equal(isLocked(join(directory, 'd', 'run', 'doorman.lock')), false);
});

test(
  'the doorman hands out listening sockets of the host, on the loopback and where it was opened',
  { skip },
  async () => {
    const doorman = await startDoorman(
      options('e', { listen: [{ name: 'http', host: '198.51.100.2', port: 0 }] }),
    );
    const control = controlPath(join(directory, 'e'));
    try {
      for (const host of ['127.0.0.1', '::1', '198.51.100.2']) {
        const { socket, port } = await requestListener(control, { host, port: 0 });
        const server = createServer((connection) => connection.end('forwarded'));
        await new Promise<void>((resolve) => {
          server.listen({ fd: socket.release() }, resolve);
        });
        const { stdout } = await launchOk(['busybox', 'nc', '-w', '2', host, String(port)]);
        assert.equal(stdout.toString(), 'forwarded', host);
        server.close();
      }
      await assert.rejects(requestListener(control, { host: '0.0.0.0', port: 0 }), { code: 'forbidden' });
      await assert.rejects(requestListener(control, { host: 'example.org', port: 0 }), { code: 'forbidden' });
      await assert.rejects(
        requestListener(control, { host: '127.0.0.1', port: portOf(doorman), ms: 2000 }).then(
          ({ socket }) => {
            socket.close();
            throw new Error('another address, so the port was free');
          },
        ),
        /so the port was free/,
      );
      await requestShutdown(control, { fabric: true });
      assert.equal((await doorman.ended).fabricEnded, true);
    } finally {
      await doorman.stop();
    }
  },
);

test('a daemon that cannot run is given up, with the reason', { skip }, async () => {
  const doorman = await startDoorman(options('f', { argv: ['false'], giveUpAfter: 3 }));
  await assert.rejects(doorman.ended, /ended 3 times in a row: daemon ended \(status 1\)/);
  assert.deepEqual(processesIn(doorman.status.netns), []);
});

/** `carrel up` in a process of its own, so that it can be killed. */
async function doormanProcess(name: string): Promise<Service> {
  const script = join(directory, `${name}.ts`);
  writeFileSync(
    script,
    `import { runDoorman } from '${import.meta.dirname}/doorman.ts';
     await runDoorman(${JSON.stringify(options(name))});`,
  );
  const service = await launchService([process.execPath, script], {
    ready: async () =>
      await until(8000, 'the doorman', async () => {
        try {
          return (await doormanStatus(controlPath(join(directory, name)))).daemonPid ?? undefined;
        } catch {
          return undefined;
        }
      }),
  });
  return service;
}

function recorded(name: string, file: string): ProcessIdentity {
  const record: unknown = JSON.parse(readFileSync(join(directory, name, 'run', file), 'utf8'));
  return z.looseObject({ pid: z.int(), startTime: z.string() }).parse(record);
}

test(
  'after kill -9 of the doorman the daemon ends, machines go on, and the next doorman enters their fabric',
  { skip },
  async () => {
    const first = await doormanProcess('g');
    const status = await doormanStatus(controlPath(join(directory, 'g')));
    const daemon = identify(status.daemonPid ?? 0);
    assert.ok(daemon);
    await ask(status.listeners[0]?.port ?? 0);
    const holder = recorded('g', 'fabric.json');
    const keeper = await launchService(['nsenter', `--net=/proc/${holder.pid}/ns/net`, '--', 'sleep', '120']);
    process.kill(first.identity.pid, 'SIGKILL');
    await until(5000, 'the daemon to end', () => (isAlive(daemon) ? undefined : true));
    assert.ok(isAlive(keeper.identity));

    const second = await startDoorman(options('g'));
    assert.equal(second.status.netns, status.netns);
    assert.equal((await ask(portOf(second))).netns, status.netns);
    assert.deepEqual(await second.stop(), { fabricEnded: false, inhabitants: [keeper.identity.pid] });

    // the holder dies as well: who is inside keeps the fabric, and it is found again
    signalProcess(holder, 'SIGKILL');
    const third = await startDoorman(options('g'));
    assert.equal(third.status.netns, status.netns);
    await keeper.stop();
    assert.deepEqual(await third.stop(), { fabricEnded: true, inhabitants: [] });
  },
);

test('SIGTERM ends the doorman, its daemon and the fabric', { skip }, async () => {
  const service = await doormanProcess('h');
  const { netns } = await doormanStatus(controlPath(join(directory, 'h')));
  process.kill(service.identity.pid, 'SIGTERM');
  assert.deepEqual(await service.exited, { status: 0, signal: null });
  assert.deepEqual(processesIn(netns), []);
});

test('the uplink leads out, and neither to the loopback of the host nor back in', { skip }, async () => {
  const web = await launchService([
    'nsenter',
    `--net=/proc/${outside.pid}/ns/net`,
    '--',
    'busybox',
    'httpd',
    '-f',
    '-p',
    '203.0.113.1:80',
    '-h',
    directory,
  ]);
  const secret = createServer((connection) => connection.end('the loopback of the host'));
  await new Promise<void>((resolve) => {
    secret.listen(0, '0.0.0.0', resolve);
  });
  const doorman = await startDoorman(options('i', { uplink: 'pasta' }));
  try {
    assert.deepEqual(doorman.status.uplink, { up: true, reason: null });
    const inside = ['nsenter', `--net=/proc/${doorman.status.daemonPid}/ns/net`, '--', 'busybox'] as const;
    const fetched = await launchOk([...inside, 'wget', '-q', '-O', '-', 'http://203.0.113.1/daemon.ts']);
    assert.equal(fetched.stdout.toString(), daemonSource);
    const address = secret.address();
    const port = String(typeof address === 'object' ? address?.port : 0);
    for (const target of ['127.0.0.1', '198.51.100.1', '198.51.100.2']) {
      const { stdout } = await launch([...inside, 'nc', '-w', '1', target, port]);
      assert.equal(stdout.toString(), '', target);
    }
    // pasta is started again, too
    const uplink = recorded('i', 'uplink.json');
    signalProcess(uplink, 'SIGKILL');
    await until(5000, 'the uplink to be back', () =>
      doorman.status.uplink.up && !isAlive(uplink) ? true : undefined,
    );
    await launchOk([...inside, 'wget', '-q', '-O', '-', 'http://203.0.113.1/daemon.ts']);
  } finally {
    secret.close();
    await web.stop();
    await doorman.stop();
  }
  assert.deepEqual(processesIn(doorman.status.netns), []);
});
