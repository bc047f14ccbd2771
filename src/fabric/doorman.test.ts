import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { type Socket, createSocket as createDatagramSocket } from 'node:dgram';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import * as z from 'zod';
import { until } from '#base/deadline.ts';
import { isLocked } from '#host/flock.ts';
import {
  type Argv,
  type Service,
  type ServiceOptions,
  launch,
  launchOk,
  launchService,
} from '#host/launch.ts';
import { syscall } from '#host/syscalls.ts';
import { type ProcessIdentity, endProcess, identify, isAlive, signalProcess } from '#host/processes.ts';
import { type Netbed, enterNetns, linkNames, makeNetns, netnsLeft } from '#test/netbed.ts';
import { addressBytes, parseAddress } from './addresses.ts';
import { doormanStatus, requestListener, requestShutdown } from './control.ts';
import { type Doorman, type DoormanOptions, controlPath, startDoorman } from './doorman.ts';
import { processesIn } from './namespace.ts';
import { inNetns, netnsOf } from './netns.ts';

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
const server = createServer((request, response) => {
  const [, pid] = request.url.split('/plug/');
  const wire = { machineId: 'm-000000000002', address: '192.168.0.2', mac: '02:ca:c0:a8:00:02', owner: 'anna' };
  const plugged = pid === undefined ? Promise.resolve() : fabric.plug({ ...wire, pid: Number(pid) });
  const answer = JSON.stringify({ pid: process.pid, netns: netnsOf('self') });
  plugged.then(() => response.end(answer), (error) => response.end(JSON.stringify(String(error))));
});
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
  // only a test that failed half way has left a fabric
  for (const file of globSync(join(directory, '**/fabric.json')))
    await endProcess(identitySchema.parse(JSON.parse(readFileSync(file, 'utf8'))));
  rmSync(directory, { recursive: true });
  assert.deepEqual(netnsLeft(), []);
  assert.deepEqual(linkNames(), links);
});

const identitySchema = z.looseObject({ pid: z.int(), startTime: z.string() });

/** A child that ends with this file at the latest. */
async function start(argv: Argv, more: ServiceOptions = {}): Promise<Service> {
  const service = await launchService(argv, more);
  stack.defer(async () => void (await service.stop({ graceMs: 500 })));
  return service;
}

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
async function ask(port: number, path = '/'): Promise<z.infer<typeof daemonAnswer>> {
  return await new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', port, path, agent: false, timeout: 10_000 }, (response) => {
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
  const service = await start([process.execPath, script], {
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
  return identitySchema.parse(JSON.parse(readFileSync(join(directory, name, 'run', file), 'utf8')));
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
    const keeper = await start(['nsenter', `--net=/proc/${holder.pid}/ns/net`, '--', 'sleep', '120']);
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

/** The host's first resolver, if a stand-in can play it: an address that is not the host's own. */
function resolver(): string | undefined {
  const text = readFileSync('/etc/resolv.conf', 'utf8');
  const [, address] = /^nameserver\s+(\d+\.\d+\.\d+\.\d+)/m.exec(text) ?? [];
  return address?.startsWith('127.') === true ? undefined : address;
}

/** A name server outside that answers every question with 203.0.113.1 (RFC 1035, section 4). */
async function serveNames(address: string): Promise<Socket> {
  const fd = inNetns(outside.pid, () => {
    const socket = syscall('socket', 2, 2 | 0o2000000, 0);
    const name = Buffer.from([2, 0, 0, 53, ...addressBytes(parseAddress(address)), 0, 0, 0, 0, 0, 0, 0, 0]);
    syscall('bind', socket, name, name.length);
    return socket;
  });
  const server = createDatagramSocket('udp4');
  server.on('message', (question, from) => {
    const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 1]);
    const reply = Buffer.concat([question, answer]);
    reply.writeUInt16BE(0x8180, 2);
    reply.writeUInt16BE(1, 6);
    server.send(reply, from.port, from.address);
  });
  await new Promise<void>((resolve) => {
    server.bind({ fd }, resolve);
  });
  return server;
}

test(
  'a machine gets out by the uplink, and neither the loopback of the host nor its own is open',
  { skip },
  async (t) => {
    const world = ['nsenter', `--net=/proc/${outside.pid}/ns/net`, '--', 'busybox'] as const;
    await using services = new AsyncDisposableStack();
    const serve = async (...argv: readonly string[]): Promise<void> => {
      const service = await start([...world, ...argv]);
      services.defer(async () => void (await service.stop()));
    };
    await serve('httpd', '-f', '-p', '203.0.113.1:80', '-h', directory);
    const secret = createServer((connection) => connection.end('the loopback of the host'));
    await new Promise<void>((resolve) => {
      secret.listen(0, '0.0.0.0', resolve);
    });
    services.defer(() => void secret.close());
    const address = secret.address();
    const port = String(typeof address === 'object' ? address?.port : 0);
    const machine = services.use(await makeNetns());

    const doorman = await startDoorman(options('i', { uplink: 'pasta' }));
    services.defer(async () => void (await doorman.stop()));
    assert.deepEqual(doorman.status.uplink, { up: true, reason: null });
    await ask(portOf(doorman), `/plug/${machine.pid}`);
    const fetched = async (): Promise<string> =>
      (
        await machine.run('busybox', 'wget', '-q', '-O', '-', 'http://203.0.113.1/daemon.ts')
      ).stdout.toString();
    assert.equal(await fetched(), daemonSource);
    for (const pid of [machine.pid, doorman.status.daemonPid])
      for (const target of ['127.0.0.1', '198.51.100.1', '198.51.100.2', '192.168.0.1']) {
        const argv = [
          'nsenter',
          `--net=/proc/${pid}/ns/net`,
          '--',
          'busybox',
          'nc',
          '-w',
          '1',
          target,
          port,
        ] as const;
        assert.equal((await launch(argv)).stdout.toString(), '', target);
      }

    const nameserver = resolver();
    if (nameserver === undefined)
      t.diagnostic('DNS not tried: the resolver of this host is on its own loopback');
    else {
      await outside.run('ip', 'addr', 'add', `${nameserver}/32`, 'dev', 'world0');
      const names = await serveNames(nameserver);
      services.defer(() => void names.close());
      const { stdout } = await machine.run('busybox', 'nslookup', '-type=a', 'lab.example', '192.168.0.1');
      assert.match(stdout.toString(), /lab\.example\s+Address: 203\.0\.113\.1/);
    }

    // pasta is started again, too
    const uplink = recorded('i', 'uplink.json');
    signalProcess(uplink, 'SIGKILL');
    await until(5000, 'the uplink to be back', () =>
      doorman.status.uplink.up && !isAlive(uplink) ? true : undefined,
    );
    assert.equal(await fetched(), daemonSource);
    assert.equal((await doorman.stop()).fabricEnded, true);
    assert.deepEqual(processesIn(doorman.status.netns), []);
  },
);

test('without root the fabric is the same, in a user namespace', { skip }, async (t) => {
  const user = 65_533;
  const own = join(directory, 'rootless');
  mkdirSync(own);
  chownSync(own, user, user);
  chmodSync(directory, 0o755);
  const drop = ['setpriv', `--reuid=${user}`, `--regid=${user}`, '--clear-groups'] as const;
  const usable = await launch([
    ...drop,
    'unshare',
    '--user',
    '--map-root-user',
    '--net',
    process.execPath,
    '-e',
    '0',
  ]);
  if (usable.status !== 0)
    return t.skip('an ordinary user cannot make user namespaces, or not read this tree');
  const script = join(directory, 'rootless.ts');
  const data = options('rootless/data');
  writeFileSync(
    script,
    `import { runDoorman } from '${import.meta.dirname}/doorman.ts'; await runDoorman(${JSON.stringify(data)});`,
  );
  const service = await start([...drop, process.execPath, script], {
    ready: async () =>
      await until(8000, 'the doorman', async () => {
        try {
          return (await doormanStatus(controlPath(data.dataDirectory))).daemonPid ?? undefined;
        } catch {
          return undefined;
        }
      }),
  });
  const status = await doormanStatus(controlPath(data.dataDirectory));
  const { netns, pid } = await ask(status.listeners[0]?.port ?? 0);
  assert.equal(netns, status.netns);
  assert.match(readFileSync(`/proc/${pid}/uid_map`, 'utf8'), new RegExp(`^\\s*0\\s+${user}\\s+1\\s*$`));
  const machine = await start([
    'nsenter',
    `--user=/proc/${pid}/ns/user`,
    `--net=/proc/${pid}/ns/net`,
    '--',
    'unshare',
    '--net',
    'sleep',
    '120',
  ]);
  await until(5000, 'a machine', () =>
    netnsOf(machine.identity.pid) === netns || netnsOf(machine.identity.pid) === netnsOf('self')
      ? undefined
      : true,
  );
  await ask(status.listeners[0]?.port ?? 0, `/plug/${machine.identity.pid}`);
  await launchOk([
    'nsenter',
    `--net=/proc/${machine.identity.pid}/ns/net`,
    '--',
    'busybox',
    'ping',
    '-c1',
    '-W1',
    '192.168.0.1',
  ]);
  await machine.stop();
  await service.stop();
  assert.deepEqual(processesIn(netns), []);
});
