import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { isLocked } from '#host/flock.ts';
import { type Service, launchOk } from '#host/launch.ts';
import { identify, isAlive, signalProcess } from '#host/processes.ts';
import { doormanStatus, requestListener, requestShutdown } from './control.ts';
import { controlPath, startDoorman } from './doorman.ts';
import { processesIn } from './namespace.ts';
import { netnsOf } from './netns.ts';
import { ask, directory, options, portOf, recorded, skip, start, useStandInHost } from './testing.ts';

useStandInHost();

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

test(
  'further ports: several at once, none that is taken or the host’s own, and free again at an end',
  { skip },
  async () => {
    const doorman = await startDoorman(
      options('h', { listen: [{ name: 'http', host: '198.51.100.2', port: 0 }] }),
    );
    const control = controlPath(join(directory, 'h'));
    const askFor = async (host: string, port: number) => await requestListener(control, { host, port });
    try {
      await using opened = new AsyncDisposableStack();
      const ports = new Set<string>();
      for (let round = 0; round < 10; round += 1)
        for (const host of ['127.0.0.1', '127.0.0.2', '198.51.100.2', '::1']) {
          const { socket, port } = await askFor(host, 0);
          opened.use(socket);
          ports.add(`${host} ${port}`);
        }
      assert.equal(ports.size, 40);
      const { socket, port } = await askFor('127.0.0.1', 0);
      opened.use(await askFor('127.0.0.2', port).then((other) => other.socket)); // same port, other address
      const taken = { code: 'unavailable', message: `127.0.0.1:${port} is in use by another program` };
      await assert.rejects(askFor('127.0.0.1', port), taken);
      socket.close();
      const again = await askFor('127.0.0.1', port);
      assert.equal(again.port, port, 'it was free as soon as it was given back');
      again.socket.close();
      for (const own of [1, 22, 80, 1023])
        await assert.rejects(askFor('127.0.0.1', own), { code: 'forbidden', hint: /from 1024 on/ });
      await assert.rejects(askFor('203.0.113.77', 8080), { code: 'forbidden' });

      // a holder that is killed gives its ports back
      const script = `const { requestListener } = await import('${import.meta.dirname}/control.ts');
      await requestListener('${control}', { host: '127.0.0.1', port: ${port} });
      console.log('listening'); setInterval(() => undefined, 1000);`;
      const holder = await start([process.execPath, '--input-type=module-typescript', '-e', script], {
        stdio: ['ignore', 'pipe', 'inherit'],
        ready: async ({ child }) => await new Promise((resolve) => child.stdout?.once('data', resolve)),
      });
      await assert.rejects(askFor('127.0.0.1', port), taken);
      signalProcess(holder.identity, 'SIGKILL');
      await holder.exited;
      const last = await askFor('127.0.0.1', port);
      last.socket.close();
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
