import assert from 'node:assert/strict';
import { type Socket, createSocket as createDatagramSocket } from 'node:dgram';
import { chmodSync, chownSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { launch } from '#host/launch.ts';
import { isAlive, signalProcess } from '#host/processes.ts';
import { syscall } from '#host/syscalls.ts';
import { makeNetns } from '#test/netbed.ts';
import { addressBytes, parseAddress } from './addresses.ts';
import { doormanStatus } from './control.ts';
import { controlPath, startDoorman } from './doorman.ts';
import { processesIn } from './namespace.ts';
import { inNetns, netnsOf } from './netns.ts';
import {
  ask,
  daemonSource,
  directory,
  options,
  portOf,
  recorded,
  skip,
  start,
  useStandInHost,
  world,
} from './testing.ts';

useStandInHost();

/** The host's first resolver, if a stand-in can play it: an address that is not the host's own. */
function resolver(): string | undefined {
  const text = readFileSync('/etc/resolv.conf', 'utf8');
  const [, address] = /^nameserver\s+(\d+\.\d+\.\d+\.\d+)/m.exec(text) ?? [];
  return address?.startsWith('127.') === true ? undefined : address;
}

/** A name server outside that answers every question with 203.0.113.1 (RFC 1035, section 4). */
async function serveNames(address: string): Promise<Socket> {
  const fd = inNetns(world().pid, () => {
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
    const there = ['nsenter', `--net=/proc/${world().pid}/ns/net`, '--', 'busybox'] as const;
    await using services = new AsyncDisposableStack();
    const serve = async (...argv: readonly string[]): Promise<void> => {
      const service = await start([...there, ...argv]);
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
      await world().run('ip', 'addr', 'add', `${nameserver}/32`, 'dev', 'world0');
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
  const inside = ['nsenter', `--net=/proc/${machine.identity.pid}/ns/net`, '--'] as const;
  await until(10_000, 'the gateway to answer', async () => {
    const { status } = await launch([...inside, 'busybox', 'ping', '-c1', '-W1', '192.168.0.1']);
    return status === 0 ? true : undefined;
  });
  await machine.stop();
  await service.stop();
  assert.deepEqual(processesIn(netns), []);
});
